"""Several sequences: where a text goes on, and that it has the bits that it has alone."""

from __future__ import annotations

import numpy as np
import pytest

import dllama
from dllama.model.file import ModelFile
from dllama.model.spec import Arch, ModelSpec
from dllama.model.weight_types import WeightType
from dllama.run_config import RunConfig, context_count
from dllama.runtime.batch import Span
from dllama.runtime.block_pool import BlockPool
from dllama.runtime.footprint import footprint
from dllama.runtime.prefix import common_prefix
from dllama.runtime.sequence import Part
from dllama.runtime.sequences import Sequences

MODEL = "llama-gqa"


def evaluate(sequences, ids):
    """What a pass does; how many ids were known, and the sequence by number."""
    kept = sequences.continue_from(ids)
    batch = plan(sequences, sequences.current)
    finish(sequences, sequences.current)
    assert sequences.current.tokens == ids
    assert batch.rows == len(ids) - kept
    return kept, number(sequences)


def plan(sequences, *several):
    """The batch of all pending ids of some sequences."""
    for one in several:
        assert sequences.reserve(one, len(one.pending))
    return sequences.batch([Part(one, one.pending, range(0)) for one in several])


def finish(sequences, *several):
    """What follows the pass of these sequences."""
    sequences.copied([Part(one, one.pending, range(0)) for one in several])
    for one in several:
        sequences.evaluated(one, len(one.pending))


def generate(sequences, sequence, ids):
    """Generate and evaluate ids in a sequence."""
    for token in ids:
        sequences.append(sequence, token)
        plan(sequences, sequence)
        finish(sequences, sequence)


def number(sequences):
    """Which of the sequences is the current one, by when it was first used."""
    known = sequences.__dict__.setdefault("seen", [])
    if sequences.current not in known:
        known.append(sequences.current)
    return known.index(sequences.current)


def new(count=1, vocab_size=100, seq_len=1000):
    whole = -(-seq_len // 256)
    return Sequences(vocab_size, seq_len, [BlockPool(count * whole, 256, whole)])


def test_texts_that_take_turns_keep_their_sequences():
    sequences = new(2)
    first, second = [1, 2, 3, 4], [5, 6, 7, 8]
    assert evaluate(sequences, first) == (0, 0)
    assert evaluate(sequences, second) == (0, 1)
    for turn in range(10, 14):
        first, second = [*first, turn], [*second, turn]
        assert evaluate(sequences, first) == (len(first) - 1, 0)
        assert evaluate(sequences, second) == (len(second) - 1, 1)


def test_a_common_prefix_is_shared_and_the_oldest_sequence_given_up():
    """There are 3 blocks; each text takes one."""
    sequences = new(3, seq_len=256)
    system = [1, 2]
    assert evaluate(sequences, [*system, *range(10, 20)]) == (0, 0)
    assert evaluate(sequences, [*system, *range(20, 30)]) == (2, 1)
    assert evaluate(sequences, [*system, *range(30, 40)]) == (2, 2)
    assert evaluate(sequences, [*system, *range(10, 21)]) == (12, 0)
    assert evaluate(sequences, [*system, *range(40, 50)]) == (2, 3)
    assert evaluate(sequences, [*system, *range(20, 30)]) == (2, 4), "its blocks were taken"
    assert evaluate(sequences, [*system, *range(40, 51)]) == (12, 3)


@pytest.mark.parametrize(("kept", "place"), [(13, 0), (10, 0), (6, 0), (5, 1)])
def test_only_what_was_generated_is_given_up(kept, place):
    """And a few ids before it, where templates begin an answer in another way."""
    sequences = new(2)
    prompt, answer = list(range(10)), list(range(10, 15))
    evaluate(sequences, prompt)
    generate(sequences, sequences.current, answer)
    text = [*(prompt + answer)[:kept], 99, 98]
    assert evaluate(sequences, text) == (kept, place)


def test_a_shared_block_is_copied_when_it_is_written():
    """Blocks have 256 positions; whole ones stay shared."""
    sequences = new(2)
    ids = [n % 90 for n in range(600)]
    evaluate(sequences, ids)
    blocks = list(sequences.current.held[0].numbers)
    assert len(blocks) == 3
    sequences.continue_from([*ids[:550], 95, 96])
    fork = sequences.current
    held = fork.held[0].numbers
    assert held == blocks, "nothing is copied before a pass"
    batch = plan(sequences, fork)
    assert batch.copies == [(0, blocks[2], held[2])]
    assert held[:2] == blocks[:2]
    assert held[2] not in blocks
    assert batch.spans == [Span(2, 550, (tuple(held),))]
    assert plan(sequences, fork) == batch, "the copy is still to be made"
    finish(sequences, fork)
    sequences.append(fork, 5)
    assert plan(sequences, fork).copies == []
    assert sequences.continue_from([*ids[:512], 97]) == 512
    assert plan(sequences, sequences.current).copies == [], "a new block, whoever has the others"


def test_a_text_goes_on_beside_one_that_is_being_generated():
    """It shares what is evaluated, even the block that the other one is writing."""
    sequences = new(2)
    first = sequences.open([n % 90 for n in range(300)])
    first.busy = True
    plan(sequences, first)
    finish(sequences, first)
    sequences.append(first, 7)
    second = sequences.open([*first.tokens, 8])
    assert second is not first
    assert second.position == 300
    second.busy = True
    one, two = first.held[0].numbers, second.held[0].numbers
    shared = one[1]
    batch = plan(sequences, first, second)
    assert batch.copies == [(0, shared, one[1]), (0, shared, two[1])]
    assert len({shared, one[1], two[1]}) == 3
    third = sequences.open([*first.tokens, 9])
    assert third.held[0].numbers == [one[0], shared], "what is to be copied, not the copy"
    finish(sequences, first, second)
    assert plan(sequences, third).copies == []


def test_idle_texts_lose_their_ends_first():
    sequences = new(seq_len=1024)  # 4 blocks
    idle = sequences.open([n % 90 for n in range(400)])
    plan(sequences, idle)
    finish(sequences, idle)
    busy = sequences.open([95] * 700)
    busy.busy = True
    assert sequences.fits(busy)
    plan(sequences, busy)
    assert idle.tokens == [n % 90 for n in range(256)]
    finish(sequences, busy)
    other = sequences.open([96] * 300)
    other.busy = True
    assert not sequences.fits(other)
    assert not sequences.reserve(other, 300), "one block is left, two are needed"
    assert not idle.tokens
    assert sequences.reserve(other, 300, sequences.busy(other))
    assert (busy.tokens, busy.pending) == ([], [95] * 700)


def test_the_current_text_is_pending_again_when_others_need_its_blocks():
    sequences = new(seq_len=512)
    evaluate(sequences, list(range(10)))
    other = sequences.open([95] * 500)
    plan(sequences, other)
    assert sequences.current.position == 0
    assert sequences.current.pending == list(range(10))


def test_ids_that_were_drafted_become_tokens_when_they_are_asked_for():
    sequences = new()
    sequence = sequences.open([1, 2, 3])
    plan(sequences, sequence)
    sequences.evaluated(sequence, 3, ahead=2)
    for token, tokens in ((4, [1, 2, 3]), (5, [1, 2, 3, 4]), (6, [1, 2, 3, 4, 5])):
        sequences.append(sequence, token)
        assert (sequence.tokens, sequence.pending) == (tokens, [token])
    assert sequence.ahead == 0
    sequences.evaluated(sequence, 1, ahead=2)
    sequences.append(sequence, 7)
    sequences.give_way(sequence)
    sequences.append(sequence, 8)
    assert (sequence.tokens, sequence.pending) == ([], [1, 2, 3, 4, 5, 6, 7, 8])


@pytest.mark.parametrize("length", [0, 1, 7, 64])
def test_common_prefixes(length):
    first = list(range(64))
    second = [*first[:length], 99, *first[length:]]
    assert common_prefix(first, second) == common_prefix(second, first) == length


def test_an_interrupted_copy_is_made_later(converted, rng, monkeypatch):
    """An exception of a signal handler comes between planning a batch and evaluating it."""
    ids = rng.integers(0, 192, 40).tolist()
    other = [*ids[:10], 5, 6]
    with dllama.LLM(converted(MODEL, "q40"), threads=1, contexts=2) as llm:
        expected = llm.eval(other)[-1]
        llm.reset()
        llm.eval(ids)
        llm.continue_from(other[:-1])

        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(llm._runner.root, "run", interrupted)
            with pytest.raises(KeyboardInterrupt):
                llm.eval(other[-1:])
        np.testing.assert_array_equal(llm.eval(other[-1:])[-1], expected)


def test_blocks_come_back():
    """Random texts, prefixes and cuts never use more blocks than there are."""
    rng = np.random.default_rng(3)
    sequences = new(3, seq_len=700)
    texts = [[]]
    for _ in range(300):
        old = texts[rng.integers(len(texts))]
        ids = (old[: rng.integers(len(old) + 1)] + rng.integers(0, 100, 90).tolist())[:700]
        evaluate(sequences, ids)
        if rng.random() < 0.2:
            sequences.rewind(int(rng.integers(len(ids) + 1)))
        texts = [*texts[-5:], ids]
    sequences.clear()
    assert sorted(sequences._pools[0]._free) == list(range(9))


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize(
    ("weights", "kv_cache"), [("q40", "auto"), ("f32", "auto"), ("q40", "q80")]
)
def test_conversations_in_turns_have_the_bits_of_one_alone(
    converted, rng, nodes, weights, kv_cache
):
    """Random texts that share beginnings of any length, the first half of which are long known."""
    options = {"threads": 1, "nodes": nodes, "max_seq_len": 128, "batch_size": 32}
    options["kv_cache"] = kv_cache
    sampling = {"temperature": 0.0, "ignore_eos": True, "logprobs": 3}
    texts: list[list[int]] = [[]]
    with (
        dllama.LLM(converted(MODEL, weights), contexts=3, **options) as several,
        dllama.LLM(converted(MODEL, weights), **options) as alone,
    ):
        assert (several.contexts, alone.contexts) == (3, 1)
        for _ in range(12):
            old = texts[rng.integers(len(texts))]
            ids = old[: rng.integers(len(old) + 1)] + rng.integers(0, 192, 9).tolist()
            ids = ids[:100]
            kept = several.continue_from(ids)
            evaluated = several.stats.count
            found = list(several.generate([], 5, **sampling))
            steps = several.stats.since(evaluated).steps
            assert sum(step.tokens for step in steps) == len(ids) - kept + 4
            alone.reset()
            assert found == list(alone.generate(ids, 5, **sampling))
            assert several.tokens == alone.tokens
            texts.append(list(several.tokens))


def test_a_choice_may_be_changed(converted, rng):
    """Between two choices, and after a rewinding, no pass has copied anything."""
    ids = rng.integers(0, 192, 40).tolist()
    other, third = [*ids[:10], 5, 6], [*ids[:9], 7]
    with dllama.LLM(converted(MODEL, "q40"), threads=1, contexts=2) as llm:
        expected = []
        for text in (other[:8], third):
            llm.reset()
            expected.append(llm.eval(text)[-1])
        llm.reset()
        llm.eval(ids)
        assert llm.continue_from(other) == 10
        llm.rewind(7)
        np.testing.assert_array_equal(llm.eval(other[7:8])[-1], expected[0])
        llm.continue_from([9, 9, 9])
        assert llm.continue_from(third) == 9, "the first text is still known"
        llm.rewind(8)
        np.testing.assert_array_equal(llm.eval(third[8:])[-1], expected[1])
        llm.reset()
        assert llm.continue_from(ids) == 0, "all are forgotten"


@pytest.mark.parametrize("kv_cache", ["f16", "q80"])
def test_contexts_that_are_read_in_several_pieces(rng, kv_cache):
    """Longer than what one thread reads of a KV cache (256 positions)."""
    ids = rng.integers(0, 2048, 400).tolist()
    other = ids[:150] + rng.integers(0, 2048, 150).tolist()
    greedy = {"max_tokens": 3, "temperature": 0.0, "ignore_eos": True, "logprobs": 2}
    options = {"threads": 2, "kv_cache": kv_cache}
    with dllama.LLM(contexts=2, **options) as several, dllama.LLM(**options) as alone:
        several.eval(ids)
        for text, kept in ((other, 150), ([*ids, 5], 400), ([*other, 5], 300)):
            assert several.continue_from(text) == kept
            alone.reset()
            assert list(several.generate([], **greedy)) == list(alone.generate(text, **greedy))


def test_memory_is_that_of_all_contexts(converted):
    folder = converted(MODEL, "q40")
    with dllama.LLM(folder, nodes=2, threads=1, contexts=3) as llm:
        memory = [llm.memory(rank) for rank in range(2)]
    with ModelFile.open(folder / "model.m") as file:
        config = RunConfig.of(file.spec, 2, contexts=3, halves=False)
        assert [footprint(file, config, threads=1, rank=rank) for rank in range(2)] == memory
        one = footprint(file, RunConfig.of(file.spec, 2, halves=False), threads=1)
    assert memory[0]["kv_cache"] == 3 * one["kv_cache"]
    assert memory[0]["buffers"] == one["buffers"]


def spec(layers, kv_heads, dim=4096, hidden=14336):
    return ModelSpec(
        arch=Arch.LLAMA, dim=dim, hidden_dim=hidden, n_layers=layers, n_heads=32,
        n_kv_heads=kv_heads, head_dim=128, vocab_size=128256, seq_len=131072,
        weight_type=WeightType.Q40,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "kv_heads", "length", "expected"),
    [(1, 1, 16, 8), (32, 8, 4096, 2), (32, 8, 131072, 1), (28, 8, 4096, 2), (80, 8, 4096, 7)],
)
def test_the_default_fits_the_model(layers, kv_heads, length, expected):
    """A quarter of its bytes, or a GB; no more than texts at once."""
    model = spec(layers, kv_heads) if layers != 28 else spec(28, 8, 1024, 3072)
    model = spec(80, 8, 8192, 28672) if layers == 80 else model
    assert context_count(None, 8, model, length, "f16", 256) == expected
    assert context_count(None, 1, model, length, "f16", 256) == 1


def test_short_numbers_leave_room_for_more():
    assert context_count(None, 8, spec(32, 8), 4096, "q80", 256) == 5


@pytest.mark.parametrize("contexts", [0, 65, "2", True])
def test_numbers_of_contexts(contexts):
    with pytest.raises(dllama.ConfigError, match="contexts is"):
        dllama.LLM(contexts=contexts)
