"""Vectors of texts, against the oracle's states, and the same bits however they are computed."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import llama as oracle
from oracle.model_file import read_model

import dllama
from dllama.errors import ConfigError, ContextError, ModelError

MODEL = "llama-gqa"
POOLINGS = ("last", "mean")


def texts_of(rng, lengths):
    beginning = rng.integers(0, 192, 20).tolist()
    return [beginning[: n // 2] + rng.integers(0, 192, n - n // 2).tolist() for n in lengths]


def pooled(states, pooling):
    vector = states[-1] if pooling == "last" else states.mean(axis=0)
    return vector / np.sqrt(vector @ vector)


# Without and with biases and LayerNorm, with a norm that adds 1, a scale of logits, and states.
@pytest.mark.parametrize("name", [MODEL, "stablelm", "gemma2", "granite", "qwen3_5"])
def test_vectors_equal_the_oracle(converted, rng, name):
    folder, ids = converted(name, "f32"), rng.integers(3, 90, 30).tolist()
    spec, tensors = read_model(folder / "model.m")
    states = oracle.states(tensors, spec, ids)
    with dllama.LLM(folder, threads=2) as llm:
        for pooling in POOLINGS:
            (vector,) = llm.embed([ids], pooling)
            assert vector.dtype == np.float32
            np.testing.assert_allclose(vector, pooled(states, pooling), atol=1e-5)
            assert abs(np.linalg.norm(vector) - 1) < 1e-6
        np.testing.assert_array_equal(llm.embed([ids]), llm.embed([ids], "mean"))


@pytest.mark.parametrize("weights", ["q40", "f32"])
def test_same_bits_for_any_passes_threads_and_nodes(converted, standing, rng, weights):
    folder, texts = converted(MODEL, weights), texts_of(rng, (3, 60, 1, 90, 20, 41))
    with dllama.LLM(folder, threads=1, max_seq_len=128) as llm:
        expected = {pooling: llm.embed(texts, pooling) for pooling in POOLINGS}
    cases = [
        {"threads": 2, "parallel": 4, "batch_size": 24},
        # Room for one text of full length: others give way, and are evaluated again.
        {"threads": 1, "parallel": 4, "contexts": 1, "batch_size": 50},
        {"threads": 1, "parallel": 3, "workers": standing(2), "buffer": "f32"},
    ]
    for options in cases:
        with dllama.LLM(folder, max_seq_len=128, **options) as llm:
            for pooling in POOLINGS:
                np.testing.assert_array_equal(llm.embed(texts, pooling), expected[pooling])


def test_beside_texts_that_are_generated(converted, rng):
    """Neither changes the other, and the prompt that they share is not kept for embeddings."""
    (text, other) = texts_of(rng, (50, 40))
    with dllama.LLM(converted(MODEL, "q40"), threads=1, parallel=3) as llm:
        alone = [token.id for token in llm.generate(other, 8, temperature=0.0, ignore_eos=True)]
        before = llm.embed([text, other], "mean")
        assert len(llm._runner.root._opened().logits) == 0  # of the last pass
        generated = llm.submit(other, 8, temperature=0.0, ignore_eos=True)
        found = [llm.submit_embedding(one, "mean") for one in (text, other)]
        ids = []
        while not all(one.done for one in (generated, *found)):
            llm.step()
            while token := generated.take():
                ids.append(token.id)
        assert ids == alone
        np.testing.assert_array_equal([one.vector for one in found], before)
        assert [one.cached for one in found] == [0, 0]
        llm.step()
        assert all(one.sequence.position == 0 for one in found)


def test_long_texts_with_other_frequencies(converted, rng):
    """phi3 has LongRoPE, whose frequencies depend on the length of the whole text."""
    folder = converted("phi3", "f32")
    spec, tensors = read_model(folder / "model.m")
    ids = rng.integers(3, 90, spec.rope_switch + 5).tolist()
    with dllama.LLM(folder, threads=1, batch_size=16) as llm:
        vectors = llm.embed([ids, ids[:9]], "mean")
    for vector, part in zip(vectors, (ids, ids[:9]), strict=True):
        expected = pooled(oracle.states(tensors, spec, part), "mean")
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_that_gave_way_counts_nothing_twice(pooling):
    ids = [*range(5, 25)]
    with dllama.LLM(threads=1, batch_size=8) as llm:
        expected = llm.embed([ids], pooling)
        text = llm.submit_embedding(ids, pooling)
        for _ in range(2):
            llm.step()
        llm._sequences.give_way(text.sequence)
        while not text.done:
            llm.step()
        np.testing.assert_array_equal([text.vector], expected)


def test_texts_that_end_early():
    with dllama.LLM(threads=1, batch_size=4) as llm:
        cut, stopped = (llm.submit_embedding([5] * 9, "mean") for _ in range(2))
        llm.step()
        cut.cancel()
        llm.step()
        stopped.interrupt()
        llm.step()
        for text in (cut, stopped):
            assert text.done
            with pytest.raises(ModelError, match="not read to its end"):
                text.vector  # noqa: B018
        assert llm.embed([]).shape == (0, llm.spec.dim)


@pytest.mark.parametrize(
    ("texts", "pooling", "error", "message"),
    [
        ("a", "last", ConfigError, "texts is 'a', expected a list of texts"),
        (["a"], "cls", ConfigError, "pooling is 'cls', expected one of mean, last"),
        ([[]], "last", ConfigError, "the prompt is empty"),
        ([[99999]], "mean", ConfigError, "token id is 99999"),
        (["a", [5] * 600], "mean", ContextError, "600 tokens do not fit"),
    ],
)
def test_what_is_refused(texts, pooling, error, message):
    with dllama.LLM(threads=1) as llm, pytest.raises(error, match=message):
        llm.embed(texts, pooling)
