"""The oracle itself against transformers: logits and greedy ids stored with each fixture."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import huggingface, llama

MODELS = (
    "llama-gqa", "llama-mha-odd", "llama31-tied", "mistral", "qwen2", "qwen3", "qwen3-moe",
    "mixtral", "granite", "llama-linear", "smollm3", "mistral-window", "qwen2-window",
)  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_equals_transformers(fixtures, name):
    spec, tensors = huggingface.read_folder(fixtures / name)
    reference = np.load(fixtures / name / "reference.npz")
    logits = llama.forward(tensors, spec, reference["tokens"].ravel(), halves=True,
                           residual=huggingface.residual_multiplier(fixtures / name))  # fmt: skip
    expected = reference["logits"].reshape(logits.shape)
    assert np.abs(logits - expected).max() < 1e-4 * expected.std()
