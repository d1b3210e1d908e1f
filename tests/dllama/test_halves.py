"""Long batches, whose halves take turns, give the bits of short ones, which are not cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_spec import SPEC

import dllama
from dllama import transports
from dllama._kernels.interleave import FIRST_BEGUN, SECOND_BEGUN, interleaved
from dllama.model.spec import QKNorm
from dllama.run_config import RunConfig
from dllama.runtime.node import graph_of

SHORT = 40  # rows
WIRES = [("f32", "auto"), ("q80", "auto"), ("q60", "two-step"), ("f16", "exchange")]
STAGES = {"all_reduce": 7}  # of a task, if not 1


def short(llm, ids):
    """The logits of batches that are not cut."""
    llm.reset()
    parts = [llm.eval(ids[at : at + SHORT]) for at in range(0, len(ids), SHORT)]
    llm.reset()
    return np.concatenate(parts)


def is_cut(llm):
    """Whether the halves of the last batch took turns on this node."""
    node = llm._runner.root._node
    stages = zip(node.labels(), node.timeline()["ms"], strict=True)
    return any("half" in name and ms > 0 for (name, _), ms in stages)


@pytest.mark.parametrize("nodes", [2, 3, 4])
@pytest.mark.parametrize(("buffer", "all_reduce"), WIRES)
def test_same_bits_for_all_numbers_of_rows(standing, rng, nodes, buffer, all_reduce):
    ids = rng.integers(0, 2048, 256).tolist()
    options = {"threads": 1 + nodes % 2, "buffer": buffer, "all_reduce": all_reduce}
    with dllama.LLM(workers=standing(nodes - 1), **options) as llm:
        expected = short(llm, ids)
        assert not is_cut(llm)
        for rows in (256, 64, 65, 79, 80, 81, 127, 233):
            np.testing.assert_array_equal(llm.eval(ids[:rows]), expected[:rows])
            assert is_cut(llm)
            llm.reset()
        for rows in (63, 1):
            np.testing.assert_array_equal(llm.eval(ids[:rows]), expected[:rows])
            assert not is_cut(llm)
            llm.reset()


@pytest.mark.parametrize("most", [65, 95, 97, 200])
def test_same_bits_for_all_sizes_of_batches(standing, rng, most):
    """The halves of buffers are not equal, and the last batch of a text begins in a KV block."""
    ids = rng.integers(0, 2048, 280).tolist()
    with dllama.LLM(workers=standing(2), threads=1, batch_size=most, buffer="q80") as llm:
        expected = short(llm, ids)
        np.testing.assert_array_equal(llm.eval(ids), expected)
        assert is_cut(llm) is (280 % most >= 64)


@pytest.mark.parametrize("transport", transports.BUILTIN)
def test_same_bits_on_all_transports_and_for_unequal_shares(standing, rng, transport):
    ids = rng.integers(0, 2048, 200).tolist()
    workers, options = standing(2, transport), {"transport": transport, "threads": 1}
    with dllama.LLM(workers=workers, shares=[1.0, 3.0, 2.0], **options) as llm:
        expected = short(llm, ids)
        np.testing.assert_array_equal(llm.eval(ids), expected)
        assert is_cut(llm)


@pytest.mark.parametrize("name", ["llama-gqa", "falcon-h1", "qwen3_5"])
def test_texts_of_a_batch_are_cut_anywhere(standing, converted, rng, name):
    """Half of a batch goes to the oldest text, so the others are cut in the middle."""
    prompts = [rng.integers(0, 100, n).tolist() for n in (120, 31, 55, 118, 3, 70)]
    found = []
    for batch in (SHORT, 256):
        options = {"threads": 1, "batch_size": batch, "parallel": 4, "max_seq_len": 128}
        with dllama.LLM(converted(name, "q40"), workers=standing(2), **options) as llm:
            texts = [[] for _ in prompts]
            for number, token in llm.generate_many(prompts, 6, temperature=0.0, ignore_eos=True):
                texts[number].append(token.id)
            found.append(texts)
    assert found[0] == found[1]


def test_states_of_rows_that_are_cut(standing, rng):
    """The root finds rows of both halves for an embedding."""
    ids = rng.integers(0, 2048, 101).tolist()
    with dllama.LLM(workers=standing(1), threads=1, buffer="f32") as llm:
        llm.eval(ids)
        assert is_cut(llm)
        found = llm._runner.root.states(range(101))
        expected = []
        llm.reset()
        for at in range(0, 101, SHORT):
            llm.eval(ids[at : at + SHORT])
            rows = len(ids[at : at + SHORT])
            expected.append(llm._runner.root.states(range(rows)))
        np.testing.assert_array_equal(found, np.concatenate(expected))


class Costs:
    """Other costs of the same tasks on each node."""

    def __init__(self, rank):
        self._numbers = np.random.default_rng(rank)

    def __call__(self, task):
        return self._numbers.integers(0, 7)


@pytest.mark.parametrize("shares", [(1, 1, 1), (1, 5, 2), (0.1, 9, 0.1)])
@pytest.mark.parametrize("norm", [QKNorm.NONE, QKNorm.WIDTH])
def test_all_nodes_begin_exchanges_in_one_order(shares, norm):
    """However long each takes for its parts: bytes of exchanges follow each other on a link."""
    spec = replace(SPEC, qk_norm=norm, n_layers=3)
    config = RunConfig.of(spec, len(shares), shares=shares, buffer="q80")
    orders = []
    for rank in range(len(shares)):
        tasks = [task for task in graph_of(spec, config, rank).tasks if not task.tail]
        stages = [STAGES.get(task.op, 1) for task in tasks]
        steps = list(interleaved(tasks, stages, Costs(rank)))
        for half in (0, 1):
            own = [(task, stage) for one, task, stage in steps if one == half]
            assert own == sorted(own)
            assert len(own) == sum(stages)
        orders.append([
            (half, tasks[task].op, tasks[task].layer, stage)
            for half, task, stage in steps
            if tasks[task].op in ("broadcast", "gather")
            or (tasks[task].op == "all_reduce" and stage in (FIRST_BEGUN - 1, SECOND_BEGUN - 1))
        ])  # fmt: skip
    assert all(order == orders[0] for order in orders)
