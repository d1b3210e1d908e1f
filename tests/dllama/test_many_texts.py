"""Several texts in a pass: each has the tokens that it has alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dllama
from dllama.sampling.lockstep import Row
from dllama.sampling.shard import Shard
from dllama.text.stream import End

MODEL = "llama-gqa"
GREEDY = {"temperature": 0.0, "ignore_eos": True}
SAMPLED = {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 7}


def prompts_of(rng, lengths, shared=0):
    """Prompts of these lengths, of which some begin alike."""
    beginning = rng.integers(0, 192, shared).tolist()
    return [
        (beginning if n % 2 else []) + rng.integers(0, 192, length).tolist()
        for n, length in enumerate(lengths)
    ]


def alone(llm, prompts, max_tokens, **settings):
    """What each text has in an empty sequence."""
    found = []
    for prompt in prompts:
        llm.reset()
        found.append(list(llm.generate(prompt, max_tokens, **settings)))
    llm.reset()
    return found


def many(llm, prompts, max_tokens, **settings):
    found = [[] for _ in prompts]
    for number, token in llm.generate_many(prompts, max_tokens, **settings):
        found[number].append(token)
    return found


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("weights", ["q40", "f32"])
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_texts_have_the_tokens_that_they_have_alone(converted, rng, nodes, weights, settings):
    """Long and short prompts that enter in pieces, more texts than a pass has room for."""
    prompts = prompts_of(rng, (3, 40, 1, 90, 20, 7, 60), shared=20)
    options = {"nodes": nodes, "threads": 1, "max_seq_len": 128, "batch_size": 24}
    with dllama.LLM(converted(MODEL, weights), parallel=3, **options) as llm:
        expected = alone(llm, prompts, 9, **settings)
        assert many(llm, prompts, 9, logprobs=None, **settings) == expected
        assert max(step.tokens for step in llm.stats.phase("decode")) == 3


def test_short_of_memory_texts_give_way_and_begin_again(converted, rng):
    """Room for one text of full length: later texts lose their blocks to earlier ones."""
    prompts = prompts_of(rng, (10, 30, 50, 10, 5))
    options = {"threads": 1, "max_seq_len": 256, "parallel": 4, "contexts": 1}
    with dllama.LLM(converted(MODEL, "q40"), **options) as llm:
        expected = alone(llm, prompts, 30, **GREEDY)
        assert many(llm, prompts, 30, **GREEDY) == expected


def test_blocks_run_out_while_texts_grow(rng):
    """Each grows beyond its first block of 256 positions when all are taken."""
    prompts = [rng.integers(0, 2048, length).tolist() for length in (250, 251, 120, 252)]
    with dllama.LLM(threads=2, parallel=4, contexts=1) as llm:
        expected = alone(llm, prompts, 12, **GREEDY)
        assert many(llm, prompts, 12, **GREEDY) == expected
        assert len(llm.stats.steps) > 24, "they took turns"


def test_the_current_sequence_stays(converted, rng):
    prompts = prompts_of(rng, (5, 9))
    ids = rng.integers(0, 192, 30).tolist()
    with dllama.LLM(converted(MODEL, "q40"), threads=1, parallel=2, contexts=3) as llm:
        expected = list(llm.generate(ids, 8, **GREEDY))
        llm.reset()
        first = list(llm.generate(ids, 4, **GREEDY))
        position = llm.position
        assert len(many(llm, prompts, 5, **GREEDY)[1]) == 5
        assert llm.position == position
        turn = [*llm.tokens, *llm._sequences.current.pending, 9]
        assert len(many(llm, [turn, turn], 5, **GREEDY)[1]) == 5, "texts that go on from it"
        assert llm.position == position
        rest = list(llm.generate([], 4, **GREEDY))
    assert [token.id for token in first + rest] == [token.id for token in expected]


def test_a_current_sequence_that_lost_its_blocks_is_evaluated_again(rng):
    ids = rng.integers(0, 2048, 300).tolist()
    long = rng.integers(0, 2048, 450).tolist()
    with dllama.LLM(threads=2) as llm:
        llm.eval(ids)
        expected = list(llm.generate([5], 6, **GREEDY))
        llm.rewind(300)
        many(llm, [long], 2, **GREEDY)
        assert llm.position < 300
        assert list(llm.generate([5], 6, **GREEDY)) == expected


def test_texts_that_nobody_takes_from_do_not_stop_others(converted, rng):
    """Iterators may be asked in any order; each pass works for all that wait."""
    prompts = prompts_of(rng, (4, 6, 8))
    with dllama.LLM(converted(MODEL, "q40"), threads=1, parallel=2) as llm:
        expected = alone(llm, prompts, 6, **GREEDY)
        one = llm.generate(prompts[0], 6, **GREEDY)
        others = llm.generate_many(prompts[1:], 6, **GREEDY)
        found = [[next(one)], [], []]
        for number, token in others:
            found[number + 1].append(token)
            if len(found[1]) == 3 and len(found[0]) == 1:
                found[0].append(next(one))
        found[0] += list(one)
    assert found == expected


def test_a_text_that_is_given_up_leaves_at_once(converted, rng):
    prompts = prompts_of(rng, (4, 6, 30))
    with dllama.LLM(converted(MODEL, "q40"), threads=1, parallel=3) as llm:
        texts = [llm.submit(prompt, 200, **GREEDY) for prompt in prompts]
        llm.step()
        assert [bool(text.take()) for text in texts] == [True, True, True]
        texts[1].cancel()
        before = len(llm.stats.steps)
        llm.step()
        assert [bool(text.take()) for text in texts] == [True, False, True]
        assert llm.stats.steps[before].tokens == 2
        assert [text.done for text in texts] == [False, True, False]
        llm.interrupt()
        llm.step()
        assert [texts[0].take().end, texts[2].take().end] == [End.INTERRUPT] * 2
        assert all(text.done for text in texts)
        llm.step()
        assert len(llm.stats.steps) == before + 2, "there is nothing to do"


def test_a_prompt_waits_for_another_one_that_reads_its_beginning(rng):
    """So a common beginning is evaluated once."""
    system = rng.integers(0, 2048, 200).tolist()
    prompts = [[*system, n] for n in range(4)]
    with dllama.LLM(threads=1, parallel=4) as llm:
        texts = [llm.submit(prompt, 3, **GREEDY) for prompt in prompts]
        while not all(text.done for text in texts):
            llm.step()
            for text in texts:
                text.take()
        prefill = sum(step.tokens for step in llm.stats.phase("prefill"))
        assert [text.cached for text in texts] == [0, 200, 200, 200]
    assert prefill == 201


def test_nobody_waits_long_for_a_long_prompt(rng):
    """Others have a token in every pass, and short prompts are read beside a long one."""
    with dllama.LLM(threads=1, parallel=3) as llm:
        first = llm.submit([1, 2, 3], 30, **GREEDY)
        llm.step()
        first.take()
        long = llm.submit(rng.integers(0, 2048, 400).tolist(), 2, **GREEDY)
        short = llm.submit([4, 5, 6], 5, **GREEDY)
        llm.step()
        assert first.take()
        assert short.take()
        assert long.take() is None
        passes = 1
        while not long.take():
            llm.step()
            passes += 1
            first.take()
            short.take()
        assert passes > 10
        assert first.count > 10


def test_an_error_of_one_text_is_its_own(converted, rng, monkeypatch):
    """Here the logits of a row are not numbers."""
    prompts = prompts_of(rng, (5, 9, 7))
    with dllama.LLM(converted(MODEL, "q40"), threads=1, parallel=3) as llm:
        expected = alone(llm, prompts, 4, **GREEDY)
        texts = [llm.submit(prompt, 4, **GREEDY) for prompt in prompts]
        llm.step()
        found = [[text.take()] for text in texts]
        root = llm._runner.root
        bad = Row(Shard(np.full(192, math.nan, np.float32)))

        def rows():
            first, _, third = type(root).rows(root)
            return [first, bad, third]

        with monkeypatch.context() as patch:
            patch.setattr(root, "rows", rows)
            llm.step()
        with pytest.raises(dllama.ModelError, match="logit 0 is nan"):
            texts[1].take()
        while not all(text.done for text in texts):
            for at in (0, 2):
                token = texts[at].take()
                found[at] += [token] if token else []
            llm.step()
        assert found[0] == expected[0]
        assert found[2] == expected[2]
        assert many(llm, prompts[1:2], 4, **GREEDY) == expected[1:2]


def test_arguments_are_checked_at_once(converted):
    with dllama.LLM(converted(MODEL, "q40"), max_seq_len=16, parallel=2) as llm:
        for prompts, max_tokens, settings, error in (
            ([[1], []], 1, {}, "the prompt is empty"),
            ([[1], [192]], 1, {}, "token id"),
            ([[1], [1] * 17], 1, {}, "context of 16"),
            ([[1]], 17, {}, "context of 16"),
            ([[1]], 1, {"top_p": 2.0}, "top_p"),
            ([[1]], 1, {"stop": ["x"]}, "no tokenizer"),
        ):
            with pytest.raises((dllama.ConfigError, dllama.ContextError), match=error):
                llm.generate_many(prompts, max_tokens, **settings)
        with pytest.raises(TypeError, match="beams"):
            llm.submit([1], beams=3)
        assert many(llm, [], 3) == []
        assert many(llm, [[1], [2]], 0) == [[], []]


@pytest.mark.parametrize("parallel", [0, 65, True])
def test_numbers_of_texts(parallel):
    with pytest.raises(dllama.ConfigError, match="parallel is"):
        dllama.LLM(parallel=parallel)
