"""A batch of rows of several sequences: each has the bits that it has alone."""

from __future__ import annotations

import numpy as np
import pytest

import dllama
from dllama.graph.weights import FileSource, load
from dllama.model.file import ModelFile
from dllama.run_config import RunConfig
from dllama.runtime.batch import Batch, Span
from dllama.runtime.node import Node, graph_of

SEQUENCES, POSITIONS, BLOCK = 4, 700, 256


@pytest.fixture(scope="module", params=["demo", "llama-gqa", "qwen3", "qwen3-moe"])
def node(request, converted):
    """A node of two threads that keeps several sequences."""
    path = converted(request.param, "q40") if request.param != "demo" else None
    return make(path)


def make(path, threads=2):
    file = path / "model.m" if path else f"{dllama.__path__[0]}/demo/model.m"
    with ModelFile.open(file) as model:
        positions = min(POSITIONS, model.spec.seq_len)
        config = RunConfig(
            shares=(1.0,), seq_len=positions, kv_cache="f16", batch=64, logits=64, buffer="q80",
            contexts=SEQUENCES, parallel=SEQUENCES,
        )  # fmt: skip
        graph = graph_of(model.spec, config, 0)
        return Node(graph, load(graph, FileSource(model)), config, threads, None)


def blocks_of(sequence, node):
    """The KV blocks of a sequence, out of order."""
    count = -(-node.seq_len // min(BLOCK, -(-node.seq_len // 16) * 16))
    return [[n * SEQUENCES + sequence for n in range(count)]]


def ids_of(node, rng, count):
    return rng.integers(0, node.graph.vocab_size, count).astype(np.int32)


def alone(node, ids):
    """Logits after every id of a text, evaluated in pieces."""
    found = []
    for begin in range(0, len(ids), 50):
        piece = ids[begin : begin + 50]
        span = Span(len(piece), begin, blocks_of(0, node))
        found.append(node.run(piece, Batch((span,), range(len(piece)))).copy())
    return np.concatenate(found)


def test_sequences_of_a_batch_have_the_bits_that_they_have_alone(node, rng):
    """Prompts of different lengths, single tokens and short pieces, in random batches."""
    limit = min(node.seq_len, 400)
    texts = [ids_of(node, rng, length) for length in (limit, limit // 2, 3, limit - 37)]
    expected = [alone(node, ids) for ids in texts]
    done = [0] * SEQUENCES
    while any(at < len(ids) for at, ids in zip(done, texts, strict=True)):
        spans, rows, wanted, places = [], [], [], []
        for sequence in rng.permutation(SEQUENCES).tolist():
            left = len(texts[sequence]) - done[sequence]
            count = min(left, 64 - len(rows), int(rng.choice([0, 1, 2, 4, 5, 30])))
            if count == 0:
                continue
            spans.append(Span(count, done[sequence], blocks_of(sequence, node)))
            for n in range(count):
                if rng.random() < 0.5:
                    wanted.append(len(rows) + n)
                    places.append((sequence, done[sequence] + n))
            rows += texts[sequence][done[sequence] : done[sequence] + count].tolist()
            done[sequence] += count
        if not rows:
            continue
        logits = node.run(np.array(rows, np.int32), Batch(spans, wanted))
        for row, (sequence, position) in zip(logits, places, strict=True):
            np.testing.assert_array_equal(row, expected[sequence][position])


def test_a_copied_block_holds_the_same(node, rng):
    ids = ids_of(node, rng, 40)
    expected = alone(node, ids)
    own = blocks_of(1, node)
    batch = Batch((Span(3, 37, own),), range(3), [(0, blocks_of(0, node)[0][0], own[0][0])])
    np.testing.assert_array_equal(node.run(ids[37:], batch), expected[37:])


@pytest.mark.parametrize(
    ("spans", "wanted", "copies"),
    [
        ([], [], []),
        ([(3, 0, [0])], [], []),
        ([(1, 0, [0]), (2, 0, [1])], [], []),
        ([(2, -1, [0])], [], []),
        ([(2, 10**9, [0])], [], []),
        ([(2, 0, [])], [], []),
        ([(2, 0, [-1])], [], []),
        ([(2, 0, [10**6])], [], []),
        ([(2, 0, [0] * 9)], [], []),
        ([(2, 0, [0])], [], [(1, 0, 1)]),
        ([(2, 0, [0])], [], [(-1, 0, 1)]),
        ([(1, 0, [0])] * 2 + [(0, 0, [0])], [], []),
        ([(2, 0, [0])], [2], []),
        ([(2, 0, [0])], [-1], []),
        ([(2, 0, [0])], [1, 1], []),
        ([(2, 0, [0])], [1, 0], []),
        ([(2, 0, [0])], [], [(0, 0, 12)]),
        ([(2, 0, [0])], [], [(0, -1, 0)]),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(node, spans, wanted, copies):
    batch = Batch([Span(rows, at, [held]) for rows, at, held in spans], wanted, copies)
    with pytest.raises(ValueError, match=r"rows|KV block|sequences|logits"):
        node.run(np.zeros(2, np.int32), batch)


@pytest.mark.parametrize("caches", [0, 2])
def test_blocks_are_of_all_caches(node, caches):
    batch = Batch([Span(2, 0, caches * [[0]])], [])
    with pytest.raises(ValueError, match=f"KV blocks of {caches} caches, expected 1"):
        node.run(np.zeros(2, np.int32), batch)
