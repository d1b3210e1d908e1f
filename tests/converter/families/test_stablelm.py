"""StableLM and StarCoder2: what no fixture has, and what is refused."""

from __future__ import annotations

import json
import shutil
from itertools import product

import numpy as np
import pytest
from oracle import layernorms
from oracle import llama as oracle
from oracle.model_file import read_model
from safetensors.numpy import load_file, save_file

import dllama
from dllama.converter import convert
from dllama.errors import FormatError, UnsupportedError
from dllama.model.weight_types import WeightType

TOKENS = list(range(3, 60))
VARIANTS = list(product((False, True), repeat=3))


@pytest.mark.parametrize("name", ["starcoder2", "stablelm"])
def test_the_reference_equals_transformers(fixtures, name):
    stored = np.load(fixtures / name / "reference.npz")
    logits = layernorms.forward(fixtures / name, stored["tokens"].ravel())
    expected = stored["logits"].reshape(logits.shape)
    assert np.abs(logits - expected).max() < 1e-5 * expected.std()


@pytest.mark.parametrize(("parallel", "norms", "bias"), VARIANTS)
def test_variants_equal_the_reference(fixtures, tmp_path, standing, parallel, norms, bias):
    """On one node and on three, more than there are KV heads."""
    source = layernorms.variant(
        fixtures / "stablelm", tmp_path / "source", parallel=parallel, norms=norms, bias=bias
    )
    expected = layernorms.forward(source, TOKENS)
    folder = convert(source, tmp_path / "out", "f32", progress=False).output
    with dllama.LLM(folder, threads=2) as llm:
        logits = llm.eval(TOKENS)
    assert np.abs(logits - expected).max() < 1e-5 * expected.std()
    with dllama.LLM(folder, workers=standing(2), threads=1, buffer="f32") as llm:
        np.testing.assert_array_equal(llm.eval(TOKENS), logits)


@pytest.mark.parametrize("weights", ["q40", "q80", "f16"])
def test_stablelm_2_12b_with_other_weights(fixtures, tmp_path, standing, weights):
    """The same blocks: parallel, with norms of heads and without biases."""
    source = layernorms.variant(
        fixtures / "stablelm", tmp_path / "source", parallel=True, norms=True, bias=False
    )
    folder = convert(source, tmp_path / "out", weights, progress=False).output
    spec, tensors = read_model(folder / "model.m")
    expected = oracle.forward(tensors, spec, TOKENS, kv_type=WeightType.F16)
    moved = oracle.forward(tensors, spec, TOKENS, kv_type=WeightType.F16, jitter=1e-6)
    with dllama.LLM(folder, threads=2) as llm:
        logits = llm.eval(TOKENS)
    most = 0.05 * expected.std() + 3 * np.abs(moved - expected).max()
    assert np.abs(logits - expected).max() < most
    with dllama.LLM(folder, workers=standing(3), threads=1, buffer="f32") as llm:
        error = np.abs(llm.eval(TOKENS) - expected)
    assert error.max() < most


@pytest.mark.parametrize("nodes", [2, 4])
def test_parallel_blocks_on_nodes_that_round(fixtures, tmp_path, standing, nodes):
    """Nodes add their sums of both blocks before they send them. The last has no hidden units."""
    source = layernorms.variant(
        fixtures / "stablelm", tmp_path / "source", parallel=True, norms=False, bias=True
    )
    expected = layernorms.forward(source, TOKENS)
    folder = convert(source, tmp_path / "out", "f32", progress=False).output
    with dllama.LLM(folder, workers=standing(nodes - 1), threads=1, buffer="f16") as llm:
        error = np.abs(llm.eval(TOKENS) - expected)
    assert error.max() < 5e-3 * expected.std()


def test_biases_of_starcoder2_may_be_missing(fixtures, tmp_path):
    source = shutil.copytree(fixtures / "starcoder2", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "use_bias": False}))
    with pytest.raises(UnsupportedError, match="tensors are not used"):
        convert(source, tmp_path / "out", progress=False)
    tensors = load_file(source / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if not k.endswith("bias") or "norm" in k}
    save_file(kept, source / "model.safetensors")
    expected = layernorms.forward(source, TOKENS)
    folder = convert(source, tmp_path / "out", "f32", progress=False).output
    with dllama.LLM(folder, threads=2) as llm:
        assert np.abs(llm.eval(TOKENS) - expected).max() < 1e-5 * expected.std()


def test_a_published_config_of_starcoder2(fixtures, tmp_path, converted):
    source = shutil.copytree(fixtures / "starcoder2", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    more = {"mlp_type": "default", "norm_type": "layer_norm"}
    (source / "config.json").write_text(json.dumps({**config, **more}))
    found = convert(source, tmp_path / "out", "f32", progress=False).output / "model.m"
    assert found.read_bytes() == (converted("starcoder2", "f32") / "model.m").read_bytes()


def test_what_a_stablelm_need_not_say(fixtures, tmp_path):
    """A quarter of each head is rotated."""
    source = shutil.copytree(fixtures / "stablelm", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    del config["rope_parameters"], config["layer_norm_eps"], config["qk_layernorm"]
    (source / "config.json").write_text(json.dumps(config))
    spec = convert(source, tmp_path / "out", "f32", progress=False).spec
    assert (spec.rope_dim, spec.norm_epsilon, spec.rope_theta) == (4, 1e-5, 10000.0)


def test_every_norm_of_a_head_counts(fixtures, tmp_path):
    source = layernorms.variant(
        fixtures / "stablelm", tmp_path / "source", parallel=True, norms=True, bias=True
    )
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.1.self_attn.k_layernorm.norms.1.weight"
    others = {
        "is missing, expected a part of layers.1.k_norm": None,
        r"F16 \(15,\), expected a vector, as .*k_layernorm\.norms\.0\.weight": tensors[name][1:],
        r"F32 \(16,\), expected a vector": tensors[name].astype(np.float32),
    }
    for message, tensor in others.items():
        given = {**tensors, name: tensor}
        save_file({k: v for k, v in given.items() if v is not None}, source / "model.safetensors")
        with pytest.raises(FormatError, match=message):
            convert(source, tmp_path / "out", progress=False)
    more = name.replace("norms.1", "norms.2")
    save_file({**tensors, more: tensors[name]}, source / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"1 tensor is not used.*norms\.2"):
        convert(source, tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("starcoder2", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ("starcoder2", {"use_bias": 1}, "use_bias is 1, expected true or false"),
        ("starcoder2", {"norm_epsilon": 0}, "norm_epsilon is 0, expected a positive number"),
        ("starcoder2", {"mlp_type": "gated"}, "mlp_type 'gated' is not supported"),
        ("starcoder2", {"norm_type": "rms_norm"}, "norm_type 'rms_norm' is not supported"),
        ("starcoder2", {"mlp_bias": True}, "mlp_bias True is not supported"),
        ("stablelm", {"layer_norm_eps": "x"}, "layer_norm_eps is 'x'"),
        ("stablelm", {"use_qkv_bias": False}, "6 tensors are not used"),
        ("stablelm", {"qk_layernorm": True}, r"q_layernorm\.norms.*missing"),
        ("stablelm", {"use_parallel_residual": True}, "4 tensors are not used"),
        ("stablelm", {"use_parallel_residual": "yes"}, "use_parallel_residual is 'yes'"),
        ("stablelm", {"sliding_window": 16}, "sliding_window 16 is not supported"),
        ("stablelm", {"head_dim": 32}, "head_dim 32 is not supported, only hidden_size .*16"),
        ("stablelm", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ],
)
def test_what_is_refused(fixtures, tmp_path, name, changes, message):
    source = shutil.copytree(fixtures / name, tmp_path / "source")
    config = {**json.loads((source / "config.json").read_text()), **changes}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises((FormatError, UnsupportedError), match=message):
        convert(source, tmp_path / "out", progress=False)
