"""Sequences of models with linear attention: what they keep, and where they can go on."""

from __future__ import annotations

import numpy as np
import pytest
from stateful import SSM, write_stateful
from windowed import shorten_blocks

import dllama
from dllama.graph.kv_layers import KVLayers, kv_layers
from dllama.model.file import ModelFile
from dllama.run_config import RunConfig
from dllama.runtime.block_pool import BlockPool
from dllama.runtime.footprint import footprint
from dllama.runtime.held_blocks import GONE, HeldStates
from dllama.runtime.sequence import Part
from dllama.runtime.sequences import Sequences

BLOCK, LENGTH = 16, 400


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_stateful(tmp_path_factory.mktemp("stateful") / "model.m")


@pytest.fixture(scope="module", params=["delta", "ssm"])
def either(request, model, tmp_path_factory):
    """That model, or one with Mamba-2."""
    if request.param == "delta":
        return model
    return write_stateful(tmp_path_factory.mktemp("ssm") / "model.m", **SSM)


def new(count=6, most=3):
    """Sequences with keys and values, and with states."""
    whole = LENGTH // BLOCK
    full = BlockPool(8 * whole, BLOCK, whole)
    return Sequences(10**6, LENGTH, [full, BlockPool(count, BLOCK, most, 2, states=True)])


def read(sequences, ids):
    """Evaluate ids as the current sequence, row by row; how many were known."""
    kept = sequences.continue_from(ids)
    sequence = sequences.current
    while sequence.pending:
        assert sequences.reserve(sequence, 1)
        part = Part(sequence, sequence.pending[:1], range(0))
        (span,) = sequences.batch([part]).spans
        before = sequence.position and sequence.position % BLOCK == 0
        assert len(span.blocks[1]) == 1 + bool(before)
        assert GONE not in span.blocks[1]
        sequences.runs([part])
        sequences.copied([part])
        sequences.evaluated(sequence, 1)
    return kept


def test_layers_with_linear_attention_share_a_cache(model):
    with ModelFile.open(model) as file:
        heads = file.spec.n_kv_heads, (file.spec.head_dim, file.spec.head_dim)
        expected = KVLayers(0, (1,), *heads), KVLayers(2, (0, 2), states=True)
        assert kv_layers(file.spec) == expected


def test_a_sequence_goes_on_where_it_is_or_behind_a_block():
    sequences = new()
    ids = list(range(40))
    read(sequences, ids)
    assert isinstance(sequences.current.held[1], HeldStates)
    found = [sequences.current.resumable(position) for position in (40, 39, 33, 32, 31, 16, 15, 0)]
    assert found == [40, 32, 32, 32, 16, 16, 0, 0]
    assert read(sequences, [*ids, 7]) == 40
    assert read(sequences, [*ids[:35], 7, 8]) == 32


def test_states_behind_are_given_back_when_others_need_room():
    """All but that of the last block, and that which the next turn returns to."""
    sequences = new(count=4, most=3)
    read(sequences, list(range(100)))
    held = sequences.current.held[1].numbers
    assert len(held) == 7
    assert held[-1] != GONE
    assert held.count(GONE) == 3
    assert sequences.current.resumable(99) == 96 - BLOCK * (held[5] == GONE)
    assert sequences.current.resumable(17) == (BLOCK if held[0] != GONE else 0)


def test_a_shared_state_is_copied_before_it_changes():
    sequences = new()
    ids = list(range(20))
    read(sequences, ids)
    first = sequences.current
    first.busy = True
    fork = sequences.open([*ids, 7])
    assert (fork.position, fork.pending) == (20, [7])
    assert sequences.reserve(fork, 1)
    batch = sequences.batch([Part(fork, [7], range(0))])
    source, target = first.held[1].numbers[1], fork.held[1].numbers[1]
    assert source != target
    assert (1, source, target) in batch.copies
    first.busy = False


@pytest.mark.parametrize("nodes", [1, 3])
def test_bits_do_not_depend_on_cuts_or_on_what_was_kept(either, rng, monkeypatch, nodes):
    """A text in small batches has the bits of one pass, after rewinding to any place, too."""
    if nodes == 1:  # other processes have the usual blocks
        shorten_blocks(monkeypatch, BLOCK)
    length = LENGTH if nodes == 1 else 700
    ids = rng.integers(0, 2048, length).tolist()
    options = {"threads": 1, "buffer": "f32", "max_seq_len": length}
    with dllama.LLM(either, batch_size=length, **options) as llm:
        expected = llm.eval(ids)
    with dllama.LLM(either, batch_size=7 * nodes * nodes, nodes=nodes, **options) as llm:
        np.testing.assert_array_equal(llm.eval(ids), expected)
        for position in (length - 10, 257, 256, 255, 150, 32, 31, 33, 16, 1, 0):
            llm.rewind(position)
            assert llm.position <= position
            end = min(position + 50, len(ids))
            found = llm.eval(ids[position:end])[position - end :]
            np.testing.assert_array_equal(found, expected[position:end])


def test_another_text_takes_its_beginning(either, rng, monkeypatch):
    shorten_blocks(monkeypatch, BLOCK)
    ids = rng.integers(0, 2048, 100).tolist()
    with dllama.LLM(either, threads=1, parallel=2, max_seq_len=LENGTH) as llm:
        llm.eval(ids)
        changed = [*ids[:70], 5, 6, 7]
        assert llm.continue_from(changed) == 64
        found = [token.id for token in llm.generate([], 8, temperature=0.0, ignore_eos=True)]
        llm.reset()
        expected = [
            token.id for token in llm.generate(changed, 8, temperature=0.0, ignore_eos=True)
        ]
    assert found == expected


def test_memory_has_the_states(either, model):
    """Two or three layers: four heads of 16 x 16 numbers, and three inputs of 128 channels."""
    layers, states = (1, 2) if either == model else (3, 3)
    with ModelFile.open(either) as file:
        config = RunConfig.of(file.spec, 1, max_seq_len=2048, contexts=1, batch_size=16)
        memory = footprint(file, config, threads=1)
    state = states * (4 * 16 * 16 + 3 * 128) * 4
    assert memory["kv_cache"] == layers * 2048 * 2 * 2 * 16 * 4 + 4 * state
