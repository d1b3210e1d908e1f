"""Models with states whose matrices have blocks of 256 numbers."""

from __future__ import annotations

import numpy as np
import pytest
from widened import widen

import dllama

gguf = pytest.importorskip("gguf")
ggufmodel = pytest.importorskip("ggufmodel")
Type = gguf.GGMLQuantizationType


@pytest.mark.parametrize(("name", "kind"), [("qwen3_5", "Q4_K"), ("falcon-h1", "Q6_K")])
def test_gives_the_logits_of_its_own_weights(tmp_path, fixtures, standing, rng, name, kind):
    """Activations are rounded to 8 bits beside them."""
    path, options = tmp_path / "model.gguf", {"threads": 1, "buffer": "f32", "kv_cache": "f32"}
    ggufmodel.write_model(path, *widen(fixtures / name, 8), kind)
    tensors, metadata = ggufmodel.read(path)
    assert sum(stored[1] == Type[kind] for stored in tensors.values()) >= 20
    tokens = rng.integers(0, 160, 20)
    with dllama.LLM(path, **options) as llm:
        logits = llm.eval(tokens)
    with dllama.LLM(path, workers=standing(2), **options) as llm:
        np.testing.assert_array_equal(llm.eval(tokens), logits)
    floats = {one: (gguf.dequantize(*stored), Type.F32) for one, stored in tensors.items()}
    ggufmodel.write(path, next(iter(metadata)).partition(".")[0], floats, metadata)
    with dllama.LLM(path, **options) as llm:
        error = np.abs(logits - llm.eval(tokens)) / logits.std()
    assert np.median(error) < 0.03
    assert error.max() < 0.5
