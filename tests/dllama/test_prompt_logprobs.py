"""Log-probabilities of prompts: those of perplexity, in pieces, in batches and on several nodes."""

from __future__ import annotations

import numpy as np
import pytest

import dllama
from dllama.perplexity import negative_log_likelihoods
from dllama.text.stream import End

MODEL = "llama-gqa"
GREEDY = {"temperature": 0.0, "ignore_eos": True}


def scores(tokens):
    return [token.logprob for token in tokens if token.given]


def expected(llm, ids):
    """The definition, from all logits at once."""
    llm.reset()
    return -negative_log_likelihoods(llm.eval(ids)[:-1], ids[1:])


@pytest.mark.parametrize("nodes", [1, 3])
def test_are_those_of_the_logits(converted, rng, nodes):
    """Of prompts that are read in pieces, beside others that generate, draft and share a prefix."""
    shared = rng.integers(0, 192, 40).tolist()
    prompts = [shared + rng.integers(0, 192, n).tolist() for n in (1, 30, 7)] + [[3]]
    options = {"nodes": nodes, "threads": 1, "max_seq_len": 128, "batch_size": 24}
    with dllama.LLM(converted(MODEL, "f32"), parallel=3, draft="ngram", **options) as llm:
        plain = [list(llm.generate(ids, 5, **GREEDY)) for ids in prompts if not llm.reset()]
        found = [[] for _ in prompts]
        for number, token in llm.generate_many(prompts, 5, prompt_logprobs=2, **GREEDY):
            found[number].append(token)
        for ids, tokens, alone in zip(prompts, found, plain, strict=True):
            first, *rest = tokens[: len(ids)]
            assert [token.id for token in tokens[: len(ids)]] == ids
            assert (first.logprob, first.top) == (None, ())
            np.testing.assert_allclose(scores(rest), expected(llm, ids), atol=1e-12)
            assert all(len(token.top) == 2 for token in rest)
            assert tokens[len(ids) :] == alone


def test_of_a_sequence_that_is_evaluated_already(converted, rng):
    """All of it is evaluated again, so nothing is missing, and later turns go on from there."""
    ids = rng.integers(0, 192, 30).tolist()
    with dllama.LLM(converted(MODEL, "f32"), threads=1, max_seq_len=64) as llm:
        values = expected(llm, ids)
        llm.reset()
        (made,) = llm.generate(ids, 1, **GREEDY)
        llm.reset()
        llm.eval(ids[:20])
        tokens = list(llm.generate(ids[20:], 1, prompt_logprobs=0, **GREEDY))
        assert [token.id for token in tokens] == [*ids, made.id]
        np.testing.assert_allclose(scores(tokens)[1:], values, atol=1e-12)
        assert llm.position == 30


def test_without_a_token_to_generate(converted):
    with dllama.LLM(converted(MODEL, "f32"), threads=1, max_seq_len=64) as llm:
        tokens = list(llm.generate([1, 2, 3], 0, prompt_logprobs=0))
        assert [token.end for token in tokens] == [None, None, End.LENGTH]
        assert [token.given for token in tokens] == [True] * 3
        (one,) = llm.generate_many([[7]], 0, prompt_logprobs=0)
        assert (one[1].id, one[1].logprob, one[1].end) == (7, None, End.LENGTH)
        assert list(llm.generate_many([[7]], 0)) == []


def test_texts_that_give_way_are_scored_once(converted, rng):
    """Room for one text of full length: later texts lose their blocks to earlier ones."""
    prompts = [rng.integers(0, 192, 60).tolist() for _ in range(3)]
    options = {"threads": 1, "max_seq_len": 80, "batch_size": 16, "contexts": 1}
    with dllama.LLM(converted(MODEL, "f32"), parallel=3, **options) as llm:
        found = [[] for _ in prompts]
        for number, token in llm.generate_many(prompts, 15, prompt_logprobs=0, **GREEDY):
            found[number].append(token)
        for ids, tokens in zip(prompts, found, strict=True):
            assert [token.id for token in tokens[:60]] == ids
            assert len(tokens) == 75
            np.testing.assert_allclose(scores(tokens)[1:], expected(llm, ids), atol=1e-12)


def test_refuses_a_number_out_of_range(converted):
    with dllama.LLM(converted(MODEL, "f32"), threads=1) as llm:
        with pytest.raises(dllama.ConfigError, match="prompt_logprobs is -1, expected an integer"):
            llm.generate([1], prompt_logprobs=-1)
        llm.eval([1])
        with pytest.raises(dllama.ConfigError, match="the prompt is empty and no token is pending"):
            llm.generate([])


def test_what_prompts_share_is_evaluated_once(converted, rng):
    """As in a multiple-choice task: the same question with several answers, at once and again."""
    question = rng.integers(0, 192, 60).tolist()
    prompts = [question + rng.integers(0, 192, n).tolist() for n in (5, 9, 1, 7)]
    options = {"threads": 1, "max_seq_len": 128, "parallel": 4}
    with dllama.LLM(converted(MODEL, "f32"), **options) as llm:
        values = [expected(llm, ids) for ids in prompts]
        llm.reset()
        for _ in range(2):
            found = [[] for _ in prompts]
            for number, token in llm.generate_many(prompts, 0, prompt_logprobs=1):
                found[number].append(token)
            for ids, tokens, scored in zip(prompts, found, values, strict=True):
                assert [token.id for token in tokens] == ids
                np.testing.assert_allclose(scores(tokens)[1:], scored, atol=1e-12)
                assert all(len(token.top) == 1 for token in tokens[1:])
                assert tokens[-1].end is End.LENGTH
        evaluated = sum(step.tokens for step in llm.stats.phase("prefill"))
        assert 60 + 5 + 9 + 1 + 7 <= evaluated <= 60 + 5 + 10 + 2 + 8 + 4
        llm.stats.clear()
        more = [token for _, token in llm.generate_many(prompts[:1], 2, prompt_logprobs=3)]
        assert all(len(token.top) == 3 for token in more[1:65])
        fewer = [
            token for _, token in llm.generate_many(prompts[:1], 2, prompt_logprobs=0, **GREEDY)
        ]
        assert scores(more) == scores(fewer)
        assert not any(token.top for token in fewer)
        assert [step.tokens for step in llm.stats.phase("prefill")] == [65, 1]
