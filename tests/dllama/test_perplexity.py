"""Perplexity against the oracle, and its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from oracle import perplexity as oracle
from oracle.model_file import read_model

import dllama
from dllama.errors import ConfigError
from dllama.model_path import DEMO
from dllama.perplexity import divergences, negative_log_likelihoods, perplexity


@pytest.fixture(scope="module")
def demo():
    with dllama.LLM(threads=2, kv_cache="f32") as llm:
        yield llm


def test_equals_the_oracle(demo, data):
    text = (data / "heldout.txt").read_text(encoding="utf-8")[:600]
    ids = demo.tokenizer.encode(text, add_bos=False)
    spec, tensors = read_model(DEMO / "model.m")
    expected, count = oracle.perplexity(tensors, spec, ids, demo.tokenizer.bos_id, 64, halves=False)
    measured = perplexity(demo, ids, 64)
    assert measured.tokens == count == len(ids)
    assert measured.perplexity == pytest.approx(expected, rel=1e-3)


def test_of_the_held_out_text(demo, data):
    """The demo model predicts a play that it was not trained on about this well."""
    text = (data / "heldout.txt").read_text(encoding="utf-8")
    ids = demo.tokenizer.encode(text, add_bos=False)
    assert perplexity(demo, ids[:5000]).perplexity == pytest.approx(55, rel=0.1)


def test_every_token_is_scored_once_and_the_context_is_left_empty(demo):
    seen = []
    measured = perplexity(demo, list(range(100)), 10, seen.append)
    assert measured.tokens == 100
    assert seen == [9] * 11 + [1]
    assert demo.position == 0


def test_without_bos_the_first_of_a_window_is_not_scored(converted):
    with dllama.LLM(converted("llama-gqa", "f32"), threads=2) as llm:
        assert perplexity(llm, list(range(20)), 10).tokens == 18


def test_divergence_is_that_of_the_definition(rng):
    a, b = rng.standard_normal((2, 3, 50)).astype(np.float32) * 5
    p, q = (np.exp(x.astype(np.float64)) for x in (b, a))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(divergences(a, b), (p * np.log(p / q)).sum(axis=1), rtol=1e-9)
    np.testing.assert_array_equal(divergences(a, a), 0.0)


def test_compares_with_a_reference(converted):
    """Coarser weights are further away."""
    ids = list(range(3, 60))
    with dllama.LLM(converted("llama-gqa", "f32"), threads=2) as reference:
        found = []
        for weights in ("f32", "q80", "q40"):
            with dllama.LLM(converted("llama-gqa", weights), threads=2) as llm:
                found.append(perplexity(llm, ids, 32, against=reference))
    assert found[0].divergence == 0.0
    assert found[0].same_top == 1.0
    assert 0.0 < found[1].divergence < found[2].divergence
    assert found[2].same_top < 1.0


def test_equally_likely_tokens():
    losses = negative_log_likelihoods(np.full((3, 8), 1e4, np.float32), [0, 7, 3])
    np.testing.assert_allclose(losses, math.log(8), rtol=1e-12)


@pytest.mark.parametrize("context", [0, 1, 513])
def test_a_window_that_does_not_fit(demo, context):
    with pytest.raises(ConfigError, match=f"context is {context}, expected 2 to 512"):
        perplexity(demo, [1, 2], context)


def test_nothing_to_score(demo):
    with pytest.raises(ConfigError, match="no tokens to score"):
        perplexity(demo, [])
