"""Frequency and presence penalties, biases and min_tokens, against their definitions."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from rows import here, row_of

import dllama
from dllama.errors import ConfigError
from dllama.sampling.sampler import Sampler, SamplerConfig
from dllama.text.stream import End, TextStream

MODEL = "llama-gqa"
ALL = {
    "repetition_penalty": 1.1, "frequency_penalty": 0.7, "presence_penalty": 0.3,
    "logit_bias": {5: 2.5, 9: -100, 17: 1},
}  # fmt: skip


def changed(logits, prompt, drawn, *, repetition_penalty=1.0, frequency_penalty=0.0,
            presence_penalty=0.0, logit_bias=()):  # fmt: skip
    """The logits after penalties and biases: the formula of OpenAI's documentation."""
    out = logits.astype(np.float32)
    for token in {*prompt, *drawn}:
        factor = np.float32(repetition_penalty)
        out[token] = out[token] / factor if out[token] > 0 else out[token] * factor
    amounts = Counter(dict(logit_bias))
    for token, count in Counter(drawn).items():
        amounts[token] -= count * frequency_penalty + (count > 0) * presence_penalty
    for token, amount in amounts.items():
        out[token] += np.float32(amount)
    return out


def test_the_prompt_does_not_count():
    logits = np.array([1.0, 1.5, 1.2], np.float32)
    sampler = Sampler(SamplerConfig(temperature=0.0, frequency_penalty=0.2, presence_penalty=0.2))
    for history, number, expected in (
        ([1, 1, 1], 0, 1), ([1], 1, 2), ([2, 1], 1, 2), ([1, 2, 1], 3, 0), ([1, 2], 2, 1),
    ):  # fmt: skip
        assert here(sampler.sample([row_of(logits)], history, number)) == [expected]


@pytest.mark.parametrize(("nodes", "draft"), [(1, "none"), (1, "ngram"), (3, "ngram")])
def test_texts_are_those_of_the_definition(converted, rng, nodes, draft):
    """On several nodes, beside others, with and without drafts."""
    prompts = [rng.integers(0, 192, length).tolist() for length in (4, 9, 6)]
    options = {"nodes": nodes, "draft": draft, "threads": 1, "max_seq_len": 64, "parallel": 3}
    with dllama.LLM(converted(MODEL, "f32"), **options) as llm:
        texts = [[] for _ in prompts]
        settings = {"temperature": 0.0, "ignore_eos": True, **ALL}
        for number, token in llm.generate_many(prompts, 12, **settings):
            texts[number].append(token.id)
        for prompt, text in zip(prompts, texts, strict=True):
            llm.reset()
            logits = llm.eval(prompt + text)[len(prompt) - 1 :]
            for at, token in enumerate(text):
                assert changed(logits[at], prompt, text[:at], **ALL).argmax() == token


def test_no_text_ends_before_min_tokens(converted):
    with dllama.LLM(converted(MODEL, "f32"), threads=1, max_seq_len=64) as llm:
        (first, second, *_) = plain = list(llm.generate([1, 2], 9, temperature=0.0))
        ends = {"stop_ids": [first.id, second.id], "temperature": 0.0}
        for least in (0, 3, 20):
            llm.reset()
            tokens = list(llm.generate([1, 2], 9, min_tokens=least, **ends))
            early = [token.id for token in tokens[:least]]
            assert not set(early) & {first.id, second.id}
            assert len(tokens) >= min(least, 9)
        assert len(plain) == 9
        assert tokens[-1].end is End.LENGTH


def test_min_tokens_leave_the_end_of_what_fits():
    """Where only the end is possible, it comes."""
    sampler = Sampler(SamplerConfig(temperature=0.0, min_tokens=5))
    row = row_of(np.array([3.0, 2.0, 1.0], np.float32))
    only, both = np.array([0b100], np.uint8), np.array([0b110], np.uint8)
    assert here(sampler.sample([row], [0], 1, ends=[2], masks=[only])) == [2]
    row = row_of(np.array([3.0, 1.0, 2.0], np.float32))
    assert here(sampler.sample([row], [0], 1, ends=[2], masks=[both])) == [1]


def test_stop_strings_count_after_min_tokens():
    with dllama.LLM(threads=1) as llm:
        ids = llm.tokenizer.encode("to be, to be, to be", add_bos=False)
        for least in range(len(ids)):
            stream = TextStream(llm.tokenizer, ["to"], least=least)
            text = "".join(map(stream.push, ids)) + stream.flush()
            free = llm.tokenizer.decode(ids[:least])
            assert text.startswith(free)
            assert "to" not in text[len(free) :]


def test_top_k_of_minus_one_keeps_all(rng):
    logits = rng.standard_normal(50).astype(np.float32)
    for seed in range(5):
        found = [
            here(Sampler(SamplerConfig(top_k=k, seed=seed)).sample([row_of(logits)], [0], 0))
            for k in (0, -1)
        ]
        assert found[0] == found[1]


@pytest.mark.parametrize(
    "bias", [{-1: 1}, {1: 101}, {1: math.nan}, {1: True}, {"1": 1}, [1], "1=2"], ids=str
)
def test_refuses_biases_that_are_none(bias):
    with pytest.raises(ConfigError, match=r"^logit_bias .*, expected a number from -100 to 100"):
        SamplerConfig(logit_bias=bias)


def test_refuses_a_bias_of_a_token_that_does_not_exist(converted):
    message = "token id is 192, expected 0 to 191"
    with (
        dllama.LLM(converted(MODEL, "f32"), threads=1) as llm,
        pytest.raises(ConfigError, match=message),
    ):
        llm.generate([1], logit_bias={192: 1})
