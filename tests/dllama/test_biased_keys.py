"""Keys with large biases in a KV cache of q80."""

from __future__ import annotations

import numpy as np
import pytest

import dllama
from dllama.model.file import ModelWriter
from dllama.model.spec import Arch, ModelSpec, RopeType
from dllama.model.weight_types import WeightType

TOKENS = [(7 * index) % 96 for index in range(120)]


@pytest.fixture
def model(tmp_path, rng, request):
    """A model whose keys have biases of 200 in pairs that hardly turn, and of 20 in another."""
    spec = ModelSpec(
        arch=Arch.LLAMA, dim=128, hidden_dim=256, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=64,
        vocab_size=96, seq_len=256, weight_type=WeightType.F32, rope_theta=1e6, qkv_bias=True,
        rope_type=request.param,
    )  # fmt: skip
    pairs = np.arange(64).reshape(2, 32) if request.param is RopeType.FALCON else None
    with ModelWriter(tmp_path / "model.m", spec) as writer:
        for info in writer.tensors.values():
            numbers = rng.standard_normal(info.shape) * info.shape[-1] ** -0.5
            if info.name.endswith("norm"):
                numbers = np.ones(info.shape)
            if info.name.endswith("k_bias"):
                place = pairs if pairs is not None else np.arange(64).reshape(32, 2).T
                heads = numbers.reshape(2, 64)
                heads[:, place[0, 28:]], heads[:, place[1, 3]] = 200, 20
            writer.write_rows(info.name, numbers.astype(np.float32))
        writer.commit()
    return tmp_path / "model.m"


@pytest.mark.parametrize("model", [RopeType.LLAMA, RopeType.FALCON], indirect=True)
def test_large_biases_of_keys_do_not_spoil_the_rest(model, standing):
    options = {"threads": 1, "buffer": "f32"}
    with dllama.LLM(model, kv_cache="f32", **options) as llm:
        exact = llm.eval(TOKENS)
    with dllama.LLM(model, kv_cache="q80", **options) as llm:
        short = llm.eval(TOKENS)
    error = np.abs(short - exact) / exact.std()
    assert np.median(error) < 0.03  # 0.2 if keys are stored as they are
    with dllama.LLM(model, workers=standing(2), kv_cache="q80", **options) as llm:
        np.testing.assert_array_equal(llm.eval(TOKENS), short)
