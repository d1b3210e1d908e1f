"""starcoder2 and stablelm: windows, blocks, and norms of heads."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from oracle import layernorms

import dllama
from dllama.converter import convert
from dllama.converter.gguf_model import GgufModel
from dllama.errors import FormatError, UnsupportedError

gguf = pytest.importorskip("gguf")
ggufmodel = pytest.importorskip("ggufmodel")
Type = gguf.GGMLQuantizationType
TOKENS = list(range(3, 43))


@pytest.fixture
def path(tmp_path):
    """Where a test writes its file."""
    return tmp_path / "model.gguf"


def check_logits(path, source, workers):
    """A file gives the logits of a plain forward pass of its folder, on several nodes too."""
    right = layernorms.forward(source, TOKENS)
    with dllama.LLM(path, threads=1, buffer="f32") as llm:
        logits = llm.eval(TOKENS)
    assert np.abs(logits - right).max() < 1e-5 * right.std()
    with dllama.LLM(path, threads=1, buffer="f32", workers=workers) as llm:
        np.testing.assert_array_equal(llm.eval(TOKENS), logits)


@pytest.mark.parametrize("window", [None, 12])
def test_starcoder2(path, tmp_path, fixtures, standing, window):
    """It has the window that a key says, which llama.cpp's converter does not write."""
    source = shutil.copytree(fixtures / "starcoder2", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "sliding_window": window}))
    more = {"starcoder2.attention.sliding_window": window} if window else {}
    ggufmodel.write_folder(path, source, "F32", **more)
    for here, out in ((source, "expected"), (path, "found")):
        convert(here, tmp_path / out, "f32", progress=False)
    expected = (tmp_path / "expected" / "model.m").read_bytes()
    assert (tmp_path / "found" / "model.m").read_bytes() == expected
    check_logits(path, source, standing(1))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("norms", [False, True])
def test_variants_of_stablelm(path, tmp_path, fixtures, standing, parallel, norms):
    """The key use_parallel_residual says nothing."""
    source = layernorms.variant(
        fixtures / "stablelm", tmp_path / "source", parallel=parallel, norms=norms, bias=norms
    )
    ggufmodel.write_folder(path, source, "F32")
    convert(source, tmp_path / "expected", "f32", progress=False)
    for says in (True, False):
        tensors, metadata = ggufmodel.read(path)
        metadata["stablelm.use_parallel_residual"] = says
        ggufmodel.write(path, "stablelm", tensors, metadata)
        convert(path, tmp_path / "found", "f32", progress=False)
        expected = (tmp_path / "expected" / "model.m").read_bytes()
        assert (tmp_path / "found" / "model.m").read_bytes() == expected
    check_logits(path, source, standing(2))


def test_what_is_refused(path, tmp_path, fixtures):
    source = layernorms.variant(
        fixtures / "stablelm", tmp_path / "source", parallel=True, norms=True, bias=True
    )
    ggufmodel.write_folder(path, source, "F32")
    tensors, metadata = ggufmodel.read(path)
    norm, bias = "blk.1.attn_k_norm.weight", "blk.0.attn_norm.bias"
    epsilon = "stablelm.attention.layer_norm_epsilon"
    wrong = (np.ones((3, 16), np.float32), Type.F32)
    missing = {name: one for name, one in tensors.items() if name not in (norm, bias)}
    for given, message in (
        ({**missing, bias: tensors[bias]}, f"{norm} is missing"),
        ({**missing, norm: tensors[norm]}, f"{bias} is missing"),
        ({**tensors, norm: wrong}, rf"shape of {norm} .*is \(48,\), expected \(32,\)"),
    ):
        ggufmodel.write(path, "stablelm", given, metadata)
        with pytest.raises(FormatError, match=message):
            GgufModel(path)
    extra = {"blk.0.ffn_down.bias": (np.zeros(64, np.float32), Type.F32)}
    ggufmodel.write(path, "stablelm", {**tensors, **extra}, metadata)
    with pytest.raises(UnsupportedError, match=r"blk\.0\.ffn_down\.bias: this bias is not"):
        GgufModel(path)
    ggufmodel.write(path, "stablelm", tensors, {k: v for k, v in metadata.items() if k != epsilon})
    with pytest.raises(FormatError, match=f"{epsilon} is missing"):
        GgufModel(path)
    more = {**metadata, "stablelm.attention.sliding_window": 24}
    ggufmodel.write(path, "stablelm", tensors, more)
    with pytest.raises(UnsupportedError, match="sliding_window 24 is not"):
        GgufModel(path)
