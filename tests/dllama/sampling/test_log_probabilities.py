"""Log probabilities against NumPy's, on one node and several."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rows import Nodes, here, row_of

import dllama
from dllama.errors import ConfigError
from dllama.sampling.changes import Penalise
from dllama.sampling.log_probabilities import log_probabilities


def expected(logits: np.ndarray) -> np.ndarray:
    values = logits.astype(np.float64)
    return values - values.max() - np.log(np.exp(values - values.max()).sum())


@pytest.mark.parametrize("cuts", [[], [1], [40, 41], [100, 150, 190]])
def test_shards_give_what_the_whole_gives(cuts, rng):
    logits = np.round(rng.standard_normal(200) * 4, 1).astype(np.float32)
    logits[[3, 120]] = -math.inf
    parts = [np.ascontiguousarray(part) for part in np.split(logits, cuts)]
    order = np.lexsort((np.arange(200), -logits))
    for count in (0, 1, 7, 198):
        row = row_of(*parts)
        here(row.ask(Penalise(np.arange(0, 200, 2), 2.0)))
        found = here(log_probabilities(row, 77, count))
        nodes = Nodes(logits[None], cuts) if cuts else None
        assert nodes is None or nodes.drive(log_probabilities(nodes.rows[0], 77, count)) == found
        assert found.token == pytest.approx(expected(logits)[77], abs=1e-12)
        assert [token for token, _ in found.best] == order[:count].tolist()
        values = [value for _, value in found.best]
        np.testing.assert_allclose(values, expected(logits)[order[:count]], atol=1e-12)


def test_a_shard_without_any_possible_token():
    parts = [np.full(3, -math.inf, np.float32), np.zeros(2, np.float32)]
    found = here(log_probabilities(row_of(*parts), 4, 2))
    assert found.token == pytest.approx(math.log(0.5))
    assert [token for token, _ in found.best] == [3, 4]


@pytest.mark.parametrize("nodes", [1, 3])
def test_tokens_have_them_when_requested(nodes):
    with dllama.LLM(nodes=nodes, threads=1) as llm:
        prompt = llm.tokenizer.encode("KING:\n")
        options = {"temperature": 1.2, "repetition_penalty": 1.5, "seed": 3, "ignore_eos": True}
        plain = list(llm.generate(prompt, 6, **options))
        llm.reset()
        tokens = list(llm.generate(prompt, 6, logprobs=4, **options))
        assert [token.id for token in tokens] == [token.id for token in plain]
        assert all(token.logprob is None and token.top == () for token in plain)
        llm.reset()
        logits = llm.eval(prompt + [token.id for token in tokens])[len(prompt) - 1 : -1]
    for token, row in zip(tokens, logits, strict=True):
        values = expected(row)
        assert token.logprob == pytest.approx(values[token.id], abs=1e-9)
        assert [one for one, _ in token.top] == np.argsort(-values)[:4].tolist()
        assert [value for _, value in token.top] == pytest.approx(np.sort(values)[::-1][:4])


def test_without_alternatives():
    with dllama.LLM(threads=1) as llm:
        (token,) = llm.generate("KING:\n", 1, logprobs=0)
        assert token.logprob < 0
        assert token.top == ()
        for bad in (-1, 1001, True, "x"):
            with pytest.raises(ConfigError, match="logprobs is"):
                llm.generate("KING:\n", 1, logprobs=bad)
