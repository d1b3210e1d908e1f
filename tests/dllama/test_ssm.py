"""Mamba-2 beside attention, against the oracle, and on any number of nodes."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import llama as oracle
from oracle.model_file import read_model
from stateful import write_stateful

import dllama
from dllama.model.file import ModelFile
from dllama.model.spec import QKNorm
from dllama.model.weight_types import WeightType
from dllama.run_config import RunConfig
from dllama.runtime.footprint import footprint
from dllama.runtime.node import graph_of

IDS = list(range(5, 70))
# Heads of whole blocks, so that quantised weights give the same bits on all numbers of nodes, too.
COMMON = {
    "n_heads": 8, "head_dim": 32, "rope_dim": 16, "qk_norm": QKNorm.NONE, "attention_gate": False,
    "vocab_size": 96, "seq_len": 128, "linear": (0, 1, 2), "linear_key_heads": 3,
    "linear_value_heads": 6, "linear_key_dim": 24, "linear_value_dim": 32, "linear_taps": 3,
    "ssm": True,
}  # fmt: skip
ALL = {"ssm_conv_bias": True, "ssm_bias": True, "ssm_o_bias": True, "o_bias": True}
VARIANTS = {
    "plain": {},
    "norm": {"ssm_norm": True, **ALL},
    "norm of all": {"ssm_norm": True, "linear_key_heads": 1, "ssm_most_step": 0.5},
    "norm first": {"ssm_norm": True, "ssm_norm_first": True, "ssm_least_step": 0.75},
    "heads in part of a block": {"linear_value_dim": 20, "head_dim": 16, "ssm_norm": True},
    "few heads": {"linear_value_heads": 3, "window": 11, "windowed": (1,), "post_norms": True},
}


@pytest.fixture(scope="module", params=VARIANTS)
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("ssm") / "model.m"
    return write_stateful(path, **{**COMMON, **VARIANTS[request.param]}).parent


@pytest.fixture(scope="module")
def expected(model):
    with dllama.LLM(model, threads=1) as llm:
        return llm.eval(IDS)


def test_equals_the_oracle(model, expected):
    spec, tensors = read_model(model / "model.m")
    reference = oracle.forward(tensors, spec, IDS)
    assert np.abs(expected - reference).max() < 1e-4 * reference.std()


def test_same_bits_for_any_threads_batches_and_nodes(standing, model, expected):
    with dllama.LLM(model, threads=3, batch_size=29) as llm:
        logits = [llm.eval(ids) for ids in np.split(np.array(IDS), [1, 2, 9, 50])]
    np.testing.assert_array_equal(np.concatenate(logits), expected)
    for nodes in range(2, 9):
        with dllama.LLM(model, workers=standing(nodes - 1), threads=1, buffer="f32") as llm:
            np.testing.assert_array_equal(llm.eval(IDS), expected)
            memory = [llm.memory(rank) for rank in range(nodes)]
        with ModelFile.open(model / "model.m") as file:
            config = RunConfig.of(file.spec, nodes, buffer="f32")
            assert [footprint(file, config, threads=1, rank=r) for r in range(nodes)] == memory


def test_quantised_weights_give_the_same_bits(standing, tmp_path):
    """Attention and Mamba-2 may have other types."""
    types = ((f"layers.{layer}.linear_o", WeightType.Q80) for layer in range(3))
    kinds = {"weight_type": WeightType.Q40, "tensor_types": tuple(types), **ALL, "ssm_norm": True}
    write_stateful(tmp_path / "model.m", **COMMON, **kinds)
    with dllama.LLM(tmp_path, threads=2) as llm:
        expected = llm.eval(IDS)
    for nodes in (2, 3, 5, 8):
        with dllama.LLM(tmp_path, workers=standing(nodes - 1), threads=1, buffer="f32") as llm:
            np.testing.assert_array_equal(llm.eval(IDS), expected)


def test_one_sum_for_both(model):
    """A layer sends two sums, and squares only where nodes share what is normalised."""
    spec, _ = read_model(model / "model.m")
    for nodes in (2, 3, 4):
        tasks = graph_of(spec, RunConfig.of(spec, nodes), 1).tasks
        sums = [task.layer for task in tasks if task.op == "all_reduce"]
        assert sums == [layer for layer in range(3) for _ in range(2)]
        shared = spec.ssm_norm and (spec.linear_key_heads == 1 or nodes != 3)
        assert sum(task.op == "gather" for task in tasks) == 3 * shared
