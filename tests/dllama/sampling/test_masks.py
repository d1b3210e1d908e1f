"""Masks of tokens, on one node and on several, against logits of -inf."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rows import Nodes, here, row_of

from dllama.errors import ModelError
from dllama.sampling.lockstep import together
from dllama.sampling.log_probabilities import log_probabilities
from dllama.sampling.sampler import Sampler, SamplerConfig
from dllama.sampling.shard import Shard

SIZE = 203  # not whole bytes
CONFIGS = [
    SamplerConfig(temperature=0.0, seed=1),
    SamplerConfig(temperature=1.0, top_p=1.0, seed=1),
    SamplerConfig(temperature=0.7, top_p=0.9, seed=1),
    SamplerConfig(temperature=1.3, top_p=0.95, min_p=0.01, seed=1),
    SamplerConfig(temperature=1.0, top_k=20, seed=1),
]
CONFIGS += [replace(config, repetition_penalty=1.3) for config in CONFIGS]


def masks(rng, rows: int) -> np.ndarray:
    """Bool (rows, SIZE): of one token, of few, and of nearly all."""
    found = rng.random((rows, SIZE)) < rng.choice([0.02, 0.5, 0.98], (rows, 1))
    found[np.arange(rows), rng.integers(0, SIZE, rows)] = True
    found[0] = np.arange(SIZE) == SIZE - 1
    return found


def packed(mask: np.ndarray) -> np.ndarray:
    return np.packbits(mask, bitorder="little")


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("cuts", [(), (100,), (96, 150), (5, 6, 7, 8, 9, 10, 11)], ids=str)
def test_a_masked_token_is_one_whose_logit_is_minus_infinity(config, cuts, rng):
    logits = np.round(rng.standard_normal((24, SIZE)) * 2, 1).astype(np.float32)
    allowed, sampler, history = masks(rng, 24), Sampler(config), range(0, SIZE, 3)
    nodes = Nodes(logits, cuts)
    asked = [
        sampler.sample([row], history, at, masks=[packed(mask)])
        for at, (row, mask) in enumerate(zip(nodes.rows, allowed, strict=True))
    ]
    found = nodes.drive(together(asked))
    for at, (row, mask) in enumerate(zip(logits, allowed, strict=True)):
        plain = np.where(mask, row, -np.inf).astype(np.float32)
        assert found[at] == here(sampler.sample([row_of(plain)], history, at))
        assert mask[found[at][0]]


def test_what_a_mask_does_not_have_is_not_allowed():
    shard = Shard(np.arange(20, dtype=np.float32), 6)
    shard.allow(np.array([0, 0b00000011], np.uint8))
    assert shard.top() == (3.0, 9)
    shard.allow(np.zeros(0, np.uint8))
    assert shard.top() == (-np.inf, 6)


def test_log_probabilities_are_those_without_a_mask(rng):
    (logits,) = rng.standard_normal((1, SIZE)).astype(np.float32)
    row = row_of(logits)
    mask = np.arange(SIZE) == 7
    assert here(Sampler(CONFIGS[1]).sample([row], [], 0, masks=[packed(mask)])) == [7]
    assert here(log_probabilities(row, 7, 3)) == here(log_probabilities(row_of(logits), 7, 3))


def test_a_mask_without_tokens_is_an_error():
    row = row_of(np.zeros(SIZE, np.float32))
    with pytest.raises(ModelError, match="all logits are -inf"):
        here(Sampler(CONFIGS[0]).sample([row], [], 0, masks=[np.zeros(26, np.uint8)]))


def test_rows_of_a_draft_have_masks_of_their_own(rng):
    logits = rng.standard_normal((4, SIZE)).astype(np.float32)
    bits = np.zeros((4, SIZE), bool)
    bits[[0, 1, 2, 3], [9, 8, 7, 6]] = True
    each = [packed(mask) for mask in bits]
    for cuts in ((), (50, 101)):
        nodes = Nodes(logits, cuts)
        sample = Sampler(CONFIGS[1]).sample(nodes.rows, [], 0, [9, 8, 5], masks=each)
        assert nodes.drive(sample) == [9, 8, 7]


def test_a_greedy_token_that_is_allowed_takes_no_message(rng):
    logits = rng.standard_normal((8, SIZE)).astype(np.float32)
    best = logits.argmax(axis=1)
    for allowed, messages in ((True, 0), (False, 1)):
        bits = np.ones((8, SIZE), bool)
        bits[np.arange(8), best] = allowed
        nodes = Nodes(logits, (50, 101))
        asked = [
            Sampler(CONFIGS[0]).sample([row], [], 0, masks=[packed(mask)])
            for row, mask in zip(nodes.rows, bits, strict=True)
        ]
        found = nodes.drive(together(asked))
        assert found == [[token] for token in np.where(bits, logits, -np.inf).argmax(axis=1)]
        assert len(nodes.messages) == messages


@pytest.mark.parametrize("cuts", [(), (50,)])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("at", [3, 60])
def test_a_logit_that_is_not_usable_counts_if_it_is_allowed(cuts, wrong, at):
    logits = np.zeros((1, SIZE), np.float32)
    logits[0, [at, 7]] = wrong, 1
    mask = np.arange(SIZE) != at
    nodes = Nodes(logits, cuts)
    assert nodes.drive(Sampler(CONFIGS[0]).sample(nodes.rows, [], 0, masks=[packed(mask)])) == [7]
    nodes = Nodes(logits, cuts)
    with pytest.raises(ModelError, match="not usable"):
        nodes.drive(Sampler(CONFIGS[0]).sample(nodes.rows, [], 0, masks=[packed(mask | True)]))
