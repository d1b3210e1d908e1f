"""qwen35, qwen35moe, qwen3next: order of heads, and widths of experts."""

from __future__ import annotations

import numpy as np
import pytest
from oracle.huggingface import read_safetensors

import dllama
from dllama.converter.gguf_model import GgufModel
from dllama.errors import FormatError, UnsupportedError

gguf = pytest.importorskip("gguf")
ggufmodel = pytest.importorskip("ggufmodel")
Type = gguf.GGMLQuantizationType


@pytest.fixture
def path(tmp_path):
    """Where a test writes its file."""
    return tmp_path / "model.gguf"


def test_heads_of_qwen35(path, fixtures):
    """Blocks of a type may not span value heads, which stand in another order."""
    ggufmodel.write_folder(path, fixtures / "qwen3_5", "F32")
    tensors, metadata = ggufmodel.read(path)
    name = "blk.0.ssm_out.weight"
    wide = np.zeros((64, 2, 144), np.uint8).reshape(64, -1)  # 512 columns of 4 heads
    changed = {name: (wide, Type.Q4_K), **{k: v for k, v in tensors.items() if k != name}}
    ggufmodel.write(path, "qwen35", changed, {**metadata, "qwen35.ssm.inner_size": 512})
    with pytest.raises(UnsupportedError, match=f"{name} is Q4K, whose blocks span heads of 128"):
        GgufModel(path)
    for key, value, message in (
        ("attention.recurrent_layers", [True], "3 times true or false"),
        ("ssm.inner_size", 66, "multiples"),
        ("ssm.time_step_rank", 3, "multiples"),
    ):
        ggufmodel.write(path, "qwen35", tensors, {**metadata, f"qwen35.{key}": value})
        with pytest.raises(FormatError, match=message):
            GgufModel(path)


def test_widths_of_experts(path, fixtures):
    """A model whose layers all have experts may lack the width of a feed-forward network."""
    ggufmodel.write_folder(path, fixtures / "qwen3_5_moe", "F32")
    tensors, metadata = ggufmodel.read(path)
    whole, keys = "qwen35moe.feed_forward_length", ("expert", "expert_shared")
    plain = {key: value for key, value in metadata.items() if key != whole}
    ggufmodel.write(path, "qwen35moe", tensors, plain)
    with GgufModel(path) as model:
        assert (model.spec.moe_hidden_dim, model.spec.shared_hidden_dim) == (32, 32)
    for key in keys:
        del plain[f"qwen35moe.{key}_feed_forward_length"]
    ggufmodel.write(path, "qwen35moe", tensors, {**plain, whole: 64})  # of two experts
    with pytest.raises(FormatError, match=r"shape of blk\.0\.ffn_gate_shexp"):
        GgufModel(path)
    shared = {f"qwen35moe.{keys[1]}_feed_forward_length": 32}
    ggufmodel.write(path, "qwen35moe", tensors, {**plain, whole: 64, **shared})
    with GgufModel(path) as model:
        assert (model.spec.moe_hidden_dim, model.spec.shared_hidden_dim) == (32, 32)
    ggufmodel.write(path, "qwen35moe", tensors, plain)
    with pytest.raises(FormatError, match=r"qwen35moe\.feed_forward_length is missing, expected"):
        GgufModel(path)


def test_older_files_of_qwen3_next(path, tmp_path, fixtures):
    """q, k, v and z are one matrix, as in the folder."""
    source = read_safetensors(fixtures / "qwen3_next" / "model.safetensors")
    ggufmodel.write_folder(path, fixtures / "qwen3_next", "F32")
    with dllama.LLM(path, threads=1) as llm:
        expected = llm.eval(range(3, 40))
    tensors, metadata = ggufmodel.read(path)
    for layer in (0, 2):
        for part in ("attn_qkv", "attn_gate"):
            del tensors[f"blk.{layer}.{part}.weight"]
        fused = source[f"model.layers.{layer}.linear_attn.in_proj_qkvz.weight"]
        tensors[f"blk.{layer}.ssm_in.weight"] = (fused, Type.F32)
    ggufmodel.write(path, "qwen3next", tensors, metadata)
    with dllama.LLM(path, threads=1) as llm:
        np.testing.assert_array_equal(llm.eval(range(3, 40)), expected)
    tensors["blk.2.ssm_in.weight"] = (fused[1:], Type.F32)
    ggufmodel.write(path, "qwen3next", tensors, metadata)
    with pytest.raises(FormatError, match=r"shape of blk\.2\.ssm_in\.weight .* 192 of each head"):
        GgufModel(path)
