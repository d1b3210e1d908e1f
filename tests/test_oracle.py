"""The oracle itself against transformers: logits and greedy ids stored with each fixture."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import huggingface, llama


@pytest.mark.parametrize("name", ["llama-gqa", "llama-mha-odd", "llama31-tied", "mistral"])
def test_equals_transformers(fixtures, name):
    spec, tensors = huggingface.read_folder(fixtures / name)
    reference = np.load(fixtures / name / "reference.npz")
    logits = llama.forward(tensors, spec, reference["tokens"].ravel(), halves=True)
    expected = reference["logits"].reshape(logits.shape)
    assert np.abs(logits - expected).max() < 1e-4 * expected.std()
