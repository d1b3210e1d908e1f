"""Multi-head latent attention on models with random weights."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import llama as oracle
from oracle.model_file import read_model

import dllama
from dllama.errors import FormatError
from dllama.model.file import ModelFile, ModelWriter
from dllama.model.header import write_header
from dllama.model.spec import Arch, ModelSpec
from dllama.model.weight_types import WeightType
from dllama.run_config import NUMBERS, RunConfig
from dllama.runtime.footprint import footprint

TOKENS = np.arange(3, 90)
# Sizes of which no one is a multiple of 16, and those of published models.
ODD = {"head_dim": 22, "rope_dim": 10, "kv_latent_dim": 39, "value_dim": 13}
PUBLISHED = {"head_dim": 192, "rope_dim": 64, "kv_latent_dim": 512, "value_dim": 128}
SPEC = ModelSpec(
    arch=Arch.LLAMA, dim=64, hidden_dim=96, n_layers=2, n_heads=8, n_kv_heads=1, vocab_size=96,
    seq_len=600, weight_type=WeightType.F32, **ODD,
)  # fmt: skip


def write_model(folder, weights=WeightType.F32, **changes):
    """A model with random weights."""
    spec = ModelSpec(**{**vars_of(SPEC), **changes, "weight_type": weights})
    rng = np.random.default_rng(6)
    with ModelWriter(folder / "model.m", spec) as writer:
        for info in writer.tensors.values():
            gain = info.shape[-1] ** -0.5 if len(info.shape) > 1 else 1.0
            numbers = gain * rng.standard_normal(info.shape)
            writer.write_rows(info.name, numbers.astype(np.float32))
        writer.commit()
    return folder


def vars_of(spec):
    """The fields of a spec."""
    return {name: getattr(spec, name) for name in ModelSpec.__dataclass_fields__}


@pytest.mark.parametrize(
    "changes",
    [{}, {"q_latent_dim": 37}, {"window": 11, "windowed": (1,)},
     {**PUBLISHED, "n_heads": 3, "q_latent_dim": 48}],
)  # fmt: skip
@pytest.mark.parametrize("kv_cache", ["f32", "f16", "q80"])
def test_equals_the_oracle(tmp_path, changes, kv_cache):
    if kv_cache == "q80" and "head_dim" not in changes:
        changes = {**changes, "kv_latent_dim": 64}  # whole blocks in keys and in values
    write_model(tmp_path, **changes)
    spec, tensors = read_model(tmp_path / "model.m")
    expected = oracle.forward(tensors, spec, TOKENS, kv_type=NUMBERS[kv_cache])
    full = oracle.forward(tensors, spec, TOKENS)
    with dllama.LLM(tmp_path, threads=2, kv_cache=kv_cache) as llm:
        error = np.abs(llm.eval(TOKENS) - expected)
    if kv_cache == "f32":
        assert error.max() < 1e-4 * expected.std()
    assert error.mean() <= 1e-5 * expected.std() + 0.1 * np.abs(full - expected).mean()


@pytest.mark.parametrize("kv_cache", ["f32", "q80"])
def test_same_bits_for_any_batch_threads_and_nodes(standing, tmp_path, kv_cache):
    """In more positions than a KV block has, for a few rows and for many, after rewinding."""
    write_model(tmp_path, q_latent_dim=37)
    tokens = np.arange(560) * 7 % 96
    with dllama.LLM(tmp_path, threads=1, kv_cache=kv_cache) as llm:
        expected = llm.eval(tokens)
    with dllama.LLM(tmp_path, threads=3, batch_size=29, kv_cache=kv_cache) as llm:
        parts = [llm.eval(ids) for ids in np.split(tokens, [1, 2, 9, 300, 301, 303])]
        np.testing.assert_array_equal(np.concatenate(parts), expected)
        llm.rewind(290)
        np.testing.assert_array_equal(llm.eval(tokens[290:]), expected[290:])
    for nodes in range(2, 9):
        options = {"threads": 1, "buffer": "f32", "kv_cache": kv_cache}
        with dllama.LLM(tmp_path, workers=standing(nodes - 1), **options) as llm:
            np.testing.assert_array_equal(llm.eval(tokens[:80]), expected[:80])


@pytest.mark.parametrize("weights", ["q40", "q80", "q4k", "f16"])
def test_quantised_weights(tmp_path, weights):
    """The tolerance is how much the oracle changes if its activations change by a rounding."""
    sizes = {"head_dim": 288, "rope_dim": 32, "kv_latent_dim": 256, "q_latent_dim": 256}
    write_model(tmp_path, WeightType[weights.upper()], **sizes, value_dim=64, dim=256,
                hidden_dim=256)  # fmt: skip
    spec, tensors = read_model(tmp_path / "model.m")
    expected = oracle.forward(tensors, spec, TOKENS, kv_type=WeightType.F16)
    with dllama.LLM(tmp_path, threads=2) as llm:
        result = llm.eval(TOKENS)
    moved = oracle.forward(tensors, spec, TOKENS, kv_type=WeightType.F16, jitter=1e-6)
    error, rounding = np.abs(result - expected), np.abs(moved - expected)
    assert np.median(error) < 0.005 * expected.std() + np.median(rounding)
    assert error.max() < 0.05 * expected.std() + 3 * rounding.max()
    with dllama.LLM(tmp_path, nodes=3, threads=1, buffer="f32") as llm:
        assert np.abs(llm.eval(TOKENS) - result).max() < 0.05 * expected.std()


def test_memory_is_that_of_latents(standing, tmp_path):
    """Every node keeps all latents, and each of them once."""
    write_model(tmp_path, **PUBLISHED)
    with dllama.LLM(tmp_path, workers=standing(1), threads=1, kv_cache="f16") as llm:
        memory = [llm.memory(rank) for rank in range(2)]
    with ModelFile.open(tmp_path / "model.m") as file:
        config = RunConfig.of(file.spec, 2, kv_cache="f16")
        assert [footprint(file, config, threads=1, rank=rank) for rank in range(2)] == memory
    positions, layers = 3 * 256, SPEC.n_layers  # three KV blocks have room for 600 positions
    for node in memory:
        assert node["kv_cache"] == config.contexts * positions * layers * 576 * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_latent_dim": 0}, "q_latent_dim is 8"),
        ({"kv_latent_dim": 0, "q_latent_dim": 0}, "value_dim is 13"),
        ({"n_kv_heads": 2}, "n_kv_heads is 2, expected 1"),
        ({"rope_dim": 0}, "rope_dim is 0"),
        ({"rope_dim": 22}, "rope_dim is 22"),
        ({"kv_latent_dim": 570}, "kv_latent_dim and rope_dim is 570 and 10, expected at most 576"),
        ({"qkv_bias": True}, "qkv_bias is True"),
        ({"no_rope": (1,)}, "no_rope"),
        ({"weight_type": WeightType.Q40, "q_latent_dim": 33}, "q_latent_dim is 33"),
        ({"weight_type": WeightType.Q40, "q_latent_dim": 32}, "head_dim - rope_dim is 12"),
    ],
)
def test_refuses_headers_whose_sizes_do_not_fit(changes, message):
    fields = {**vars_of(SPEC), "q_latent_dim": 8, **changes}
    with pytest.raises(FormatError, match=message):
        write_header(ModelSpec(**fields))
