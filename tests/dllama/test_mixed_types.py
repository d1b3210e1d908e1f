"""Models whose tensors have different weight types, against the oracle, on one node and several."""

from __future__ import annotations

import random

import numpy as np
import pytest
from oracle import llama as oracle
from oracle import quants
from oracle.model_file import read_model

import dllama
from dllama.converter import convert
from dllama.graph.build import build
from dllama.graph.shard import split
from dllama.model.file import ModelFile, ModelWriter
from dllama.model.spec import Arch, ModelSpec
from dllama.model.tensors import typed, with_types
from dllama.model.weight_types import WeightType
from dllama.run_config import RunConfig
from dllama.runtime.footprint import footprint

MODELS = ("llama-gqa", "qwen2", "mixtral", "qwen3-moe")
TOKENS = list(range(3, 40))
ENCODED = [kind for kind in WeightType if kind.encoded]


@pytest.fixture(scope="session")
def mixed(converted, tmp_path_factory):
    """A fixture as a model file with these types, or with random ones from a seed."""

    def make(name: str, types: int | dict[str, WeightType]):
        path = tmp_path_factory.mktemp("mixed") / "model.m"
        with ModelFile.open(converted(name, "f32") / "model.m") as file:
            if isinstance(types, int):
                draw = random.Random(f"{name} {types}")
                types = {tensor: draw.choice(ENCODED) for tensor in typed(file.spec)}
            with ModelWriter(path, with_types(file.spec, types)) as writer:
                for tensor in writer.tensors:
                    writer.write_rows(tensor, file.f32(tensor))
                writer.commit()
        return path

    return make


def check(path, logits):
    """Compare logits with the oracle's.

    The tolerance is how much the oracle changes if its activations change by a rounding.
    """
    spec, tensors = read_model(path)
    expected = oracle.forward(tensors, spec, TOKENS)
    moved = oracle.forward(tensors, spec, TOKENS, jitter=1e-6)
    error = np.abs(logits - expected)
    assert error.max() < 0.05 * expected.std() + 3 * np.abs(moved - expected).max()
    assert np.median(error) < 0.02 * expected.std()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(4))
def test_random_types_equal_the_oracle(mixed, name, seed):
    path = mixed(name, seed)
    with dllama.LLM(path, threads=2, kv_cache="f32") as llm:
        logits = llm.eval(TOKENS)
        memory = llm.memory()
    check(path, logits)
    with dllama.LLM(path, threads=1, kv_cache="f32") as llm:
        np.testing.assert_array_equal([llm.eval([token])[0] for token in TOKENS], logits)
    with ModelFile.open(path) as file:
        assert footprint(file, RunConfig.of(file.spec, 1, kv_cache="f32"), threads=2) == memory


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("nodes", [2, 3])
def test_random_types_on_several_nodes(standing, mixed, name, nodes):
    path = mixed(name, 9)
    options = {"threads": 1, "kv_cache": "f32", "buffer": "f32"}
    with dllama.LLM(path, workers=standing(nodes - 1), **options) as llm:
        logits = llm.eval(TOKENS)
    check(path, logits)
    with dllama.LLM(path, threads=1, kv_cache="f32") as llm:
        np.testing.assert_array_equal(llm.eval(TOKENS), logits)


@pytest.mark.parametrize("one", [*WeightType])
@pytest.mark.parametrize("experts", [0, 3])
def test_a_model_of_every_type_on_one_to_four_nodes(standing, tmp_path, one, experts):
    """Gate, and every second other matrix, are of the type; up and the others of the next one.

    Nodes cut blocks of 256 columns of o and down at multiples of 32.
    """
    other = [*WeightType][(one + 1) % len(WeightType)]
    path = tmp_path / "model.m"
    write_random(path, one, other, experts)
    options = {"threads": 1, "kv_cache": "f32", "buffer": "f32"}
    with dllama.LLM(path, **options) as llm:
        logits = llm.eval(TOKENS)
        memory = llm.memory()
        llm.reset()
        np.testing.assert_array_equal([llm.eval([token])[0] for token in TOKENS[:5]], logits[:5])
    check(path, logits)
    with ModelFile.open(path) as file:
        assert footprint(file, RunConfig.of(file.spec, 1, kv_cache="f32"), threads=1) == memory
    for nodes in (2, 3, 4):
        with dllama.LLM(path, workers=standing(nodes - 1), **options) as llm:
            np.testing.assert_array_equal(llm.eval(TOKENS), logits)


def write_random(path, one: WeightType, other: WeightType, experts: int) -> None:
    """Write a model whose heads are quarters of a block, and whose nodes have parts of blocks."""
    spec = ModelSpec(
        arch=Arch.LLAMA, dim=256, hidden_dim=768, n_layers=2, n_heads=8, n_kv_heads=4, head_dim=64,
        vocab_size=96, seq_len=64, weight_type=other, n_experts=experts,
        n_active_experts=min(2, experts),
    )  # fmt: skip
    spec = with_types(spec, dict.fromkeys(typed(spec)[::2], one))
    rng = np.random.default_rng(one)
    with ModelWriter(path, spec) as writer:
        for info in writer.tensors.values():
            size = info.shape[-1] ** -0.5
            if info.weight_type.encoded:
                numbers = 1 + rng.standard_normal(info.shape) / 8
                if len(info.shape) > 1:
                    numbers = size * rng.standard_normal(info.shape)
                writer.write_rows(info.name, numbers.astype(np.float32))
            else:
                _, raw = quants.random_matrix(rng, info.weight_type, *info.shape, size)
                writer.write_blocks(info.name, raw)
        writer.commit()


@pytest.mark.parametrize("kind", ENCODED)
def test_a_tied_output_of_every_type(standing, fixtures, tmp_path, kind):
    """The embedding is looked up and multiplied from the same bytes."""
    source, options = fixtures / "llama31-tied", {"threads": 1, "kv_cache": "f32", "buffer": "f32"}
    convert(source, tmp_path / "out", "q40", output_weights=kind.name.lower(), progress=False)
    with dllama.LLM(tmp_path / "out", **options) as llm:
        assert llm.spec.tied
        logits = llm.eval(TOKENS)
    check(tmp_path / "out" / "model.m", logits)
    with dllama.LLM(tmp_path / "out", workers=standing(1), **options) as llm:
        np.testing.assert_array_equal(llm.eval(TOKENS), logits)


@pytest.mark.parametrize("name", ["llama31-tied", "qwen3-moe"])
def test_the_mixed_recipe(standing, converted, name):
    folder, options = converted(name, "mixed"), {"kv_cache": "f32", "buffer": "f32", "threads": 1}
    with dllama.LLM(folder, **options) as llm:
        logits = llm.eval(TOKENS)
        types = {llm.spec.type_of(tensor) for tensor in typed(llm.spec)}
    assert {WeightType.Q50, WeightType.Q51, WeightType.Q80} <= types
    check(folder / "model.m", logits)
    with dllama.LLM(folder, workers=standing(1), **options) as llm:
        np.testing.assert_array_equal(llm.eval(TOKENS), logits)


def test_tensors_of_one_type_are_one_matrix(converted):
    with ModelFile.open(converted("llama-gqa", "q40") / "model.m") as file:
        spec = file.spec
    types = {"layers.0.v": WeightType.F16, "layers.1.up": WeightType.Q80}
    shard = split(spec, [1])[0]
    names = {matrix.name for matrix in build(with_types(spec, types), shard).matrices}
    assert {"layers.0.qk", "layers.0.v", "layers.0.gate_up"} <= names
    assert {"layers.1.qkv", "layers.1.gate", "layers.1.up"} <= names
    both = {buffer.name for buffer in build(with_types(spec, types), shard).buffers}
    assert {"normed", "normed_q80"} <= both
    assert "normed" not in {buffer.name for buffer in build(spec, shard).buffers}
