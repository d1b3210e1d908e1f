"""Sequences of models with sliding windows: what they keep, and where they can go on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracle import llama as oracle
from oracle.model_file import read_model
from windowed import WINDOW, shorten_blocks, write_windowed

import dllama
from dllama.graph.kv_layers import KVLayers, kv_layers
from dllama.model.file import ModelFile
from dllama.run_config import RunConfig
from dllama.runtime.block_pool import BlockPool
from dllama.runtime.footprint import footprint
from dllama.runtime.held_blocks import GONE
from dllama.runtime.sequence import Part
from dllama.runtime.sequences import Sequences

BLOCK, ROWS, LENGTH = 16, 8, 4000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_windowed(tmp_path_factory.mktemp("windowed") / "model.m")


def new(contexts=1, window=WINDOW):
    """Sequences with a cache without a window and one with it."""
    most, whole = -(-(window + ROWS) // BLOCK) + 1, LENGTH // BLOCK
    full = BlockPool(contexts * whole, BLOCK, whole)
    return Sequences(10**6, LENGTH, [full, BlockPool((contexts + 1) * most, BLOCK, most, window)])


def evaluate(sequences, sequence):
    """Evaluate what is pending, in passes of ROWS rows."""
    while sequence.pending:
        rows = min(ROWS, len(sequence.pending))
        assert sequences.reserve(sequence, rows)
        part = Part(sequence, sequence.pending[:rows], range(0))
        batch = sequences.batch([part])
        first = max(0, sequence.position + 1 - WINDOW) // BLOCK
        (span,) = batch.spans
        assert [len(held) for held in span.blocks] == [
            -(-(sequence.position + rows) // BLOCK) - begin for begin in (0, first)
        ]
        assert all(block != GONE for held in span.blocks for block in held)
        sequences.copied([part])
        sequences.evaluated(sequence, rows)


def read(sequences, ids):
    """Evaluate ids as the current sequence; how many were known."""
    kept = sequences.continue_from(ids)
    evaluate(sequences, sequences.current)
    return kept


def text(length, seed=0):
    return [seed * 10**5 + n for n in range(length)]


def windowed(sequence):
    return sequence.held[1].numbers


def test_layers_of_the_same_window_share_a_cache(model):
    with ModelFile.open(model) as file:
        spec = file.spec
    heads = spec.n_kv_heads, (spec.head_dim, spec.head_dim)
    full, windowed = KVLayers(0, (2, 4, 5), *heads), KVLayers(WINDOW, (0, 1, 3), *heads)
    assert kv_layers(spec) == (full, windowed)
    all_windowed = replace(spec, windowed=tuple(range(6)))
    assert kv_layers(all_windowed) == (KVLayers(WINDOW, tuple(range(6)), *heads),)
    others = replace(spec, full_head_dim=64, full_kv_heads=2, kv_shared_layers=2)
    full = full._replace(layers=(2,), kv_heads=2, kept=(64, 64))
    assert kv_layers(others) == (full, windowed)
    assert [others.kv_layer(layer) for layer in range(6)] == [0, 1, 2, 3, 2, 2]


@pytest.mark.parametrize(
    ("window", "rows", "contexts", "parallel", "expected"),
    [
        (512, 256, 1, 1, 8),
        (512, 256, 3, 1, 16),
        (512, 256, 1, 8, 36),
        (512, 256, 1, 64, 128),
        (500, 1, 1, 1, 6),
        (40000, 256, 2, 1, 256),
        (1, 1, 1, 1, 4),
    ],
)
def test_how_many_blocks_there_are(window, rows, contexts, parallel, expected):
    """Those of the window and of the rows of a pass, for one sequence more; at most all."""
    assert KVLayers(window, (0,)).blocks(32768, rows, contexts, parallel) == expected
    assert KVLayers(0, (0,)).blocks(32768, rows, contexts, parallel) == 128 * contexts


def test_a_long_text_takes_the_memory_of_its_window():
    sequences = new()
    assert read(sequences, text(LENGTH)) == 0
    held = [number for number in windowed(sequences.current) if number != GONE]
    assert len(held) == sequences._pools[1].count == 6
    assert len(sequences.current.held[0].numbers) == LENGTH // BLOCK


def test_what_is_before_the_window_stays_while_there_is_room():
    sequences = new()
    ids = text(6 * BLOCK)
    read(sequences, ids)
    assert GONE not in windowed(sequences.current)
    sequences.rewind(37)
    assert (sequences.current.position, sequences.current.pending) == (37, [])
    assert read(sequences, [*ids[:60], 5]) == 37


def test_rewinding_to_where_the_window_is_gone_evaluates_again():
    """The window of 300 is gone, but not the first blocks, which other texts may share."""
    sequences = new()
    ids = text(1000)
    read(sequences, ids)
    last = len(windowed(sequences.current)) * BLOCK
    begun = windowed(sequences.current).index(GONE) * BLOCK
    assert 0 < begun < 300
    sequences.rewind(300)
    assert (sequences.current.tokens, sequences.current.pending) == (ids[:begun], ids[begun:300])
    evaluate(sequences, sequences.current)
    assert sequences.current.tokens == ids[:300]
    assert last >= 1000


def test_the_next_turn_may_change_the_answer():
    """What the prompt ends with is kept longer than the middle of the answer."""
    sequences = new()
    prompt = text(500)
    read(sequences, prompt)
    for token in text(200, seed=1):
        sequences.append(sequences.current, token)
        evaluate(sequences, sequences.current)
    assert GONE in windowed(sequences.current)
    assert read(sequences, [*prompt, 7, 8]) == 500


def test_texts_share_a_beginning_that_is_still_there():
    sequences = new(contexts=3)
    system = text(40)
    for seed in range(1, 4):
        assert read(sequences, [*system, *text(300, seed)]) == (40 if seed > 1 else 0)


def test_a_shared_block_is_copied_in_each_cache():
    sequences = new(contexts=2)
    ids = text(60)
    read(sequences, ids)
    before = [list(held.numbers) for held in sequences.current.held]
    sequences.continue_from([*ids[:50], 5, 6])
    fork = sequences.current
    assert sequences.reserve(fork, 2)
    batch = sequences.batch([Part(fork, fork.pending, range(0))])
    after = [held.numbers for held in fork.held]
    assert batch.copies == [(cache, before[cache][3], after[cache][3]) for cache in range(2)]
    assert batch.spans[0].blocks == (tuple(after[0]), tuple(after[1][1:]))


def test_idle_texts_keep_only_what_can_go_on():
    """Two others take windowed blocks. Without them, its blocks in the other cache are useless."""
    sequences = new()
    idle = sequences.open(text(1000))
    evaluate(sequences, idle)
    for seed in (1, 2):
        other = sequences.open(text(1000, seed))
        other.busy = True
        evaluate(sequences, other)
    assert idle.resumable(idle.position) == idle.position < 1000
    assert len(idle.held[0].numbers) * BLOCK < idle.position + BLOCK


def test_busy_texts_must_fit_into_every_cache():
    sequences = new()
    for seed in range(2):
        busy = sequences.open(text(100, seed))
        assert sequences.fits(busy)
        busy.busy = True
        evaluate(sequences, busy)
    third = sequences.open(text(100, 2))
    assert not sequences.fits(third), "two blocks are left, it needs three"
    assert sequences.fits(sequences.open(text(2 * BLOCK, 3)))


@pytest.mark.parametrize("kv_cache", ["f16", "q80"])
def test_bits_do_not_depend_on_what_was_kept(model, rng, monkeypatch, kv_cache):
    """Short blocks, so that most of a text is before the window."""
    shorten_blocks(monkeypatch, BLOCK)
    check_rewinding(model, rng, 400, 7, 1, kv_cache)


def test_nodes_keep_the_same(tmp_path, rng):
    path = write_windowed(tmp_path / "model.m", seq_len=2048)
    check_rewinding(path, rng, 1300, 64, 3, "f16")


def check_rewinding(path, rng, length, batch, nodes, kv_cache):
    """A text in small batches has the bits of one, after rewinding to any place, too."""
    ids = rng.integers(0, 2048, length).tolist()
    options = {"threads": 1, "kv_cache": kv_cache, "buffer": "f32", "max_seq_len": length}
    with dllama.LLM(path, batch_size=length, **options) as llm:
        expected = llm.eval(ids)
    with dllama.LLM(path, batch_size=batch, nodes=nodes, **options) as llm:
        np.testing.assert_array_equal(llm.eval(ids), expected)
        assert GONE in windowed(llm._sequences.current)
        for position in (length - 10, length // 2, 150, 17, 30):
            llm.rewind(position)
            end = min(position + 50, len(ids))
            found = llm.eval(ids[position:end])[position - end :]
            np.testing.assert_array_equal(found, expected[position:end])


def test_windows_of_long_texts_equal_the_oracle(model, rng):
    """With blocks of 256 positions; windows go across their border."""
    ids = rng.integers(0, 2048, 300).tolist()
    spec, tensors = read_model(model)
    reference = oracle.forward(tensors, spec, ids)
    without = oracle.forward(tensors, replace(spec, window=0, windowed=()), ids)
    with dllama.LLM(model, threads=2, kv_cache="f32") as llm:
        found = llm.eval(ids)
    error = np.abs(found - reference).mean(axis=1)
    assert error.max() < 0.1 * np.abs(without - reference)[WINDOW + 1 :].mean()


@pytest.mark.parametrize("length", [2048, 64 * 2048])
def test_memory_is_that_of_the_window(tmp_path, length):
    """Two blocks for a sequence, and two more."""
    with ModelFile.open(write_windowed(tmp_path / "model.m", seq_len=length)) as file:
        config = RunConfig.of(file.spec, 1, max_seq_len=length, contexts=1, batch_size=16)
        memory = footprint(file, config, threads=1)
    position = 3 * 2 * 4 * 32 * 2  # layers, keys and values, heads, elements, bytes
    assert memory["kv_cache"] == position * (length + 4 * 256)
