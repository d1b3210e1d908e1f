"""The sampler against a plain NumPy one: filters, distribution, shards, determinism."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from rows import Nodes, chosen, here, row_of, sampled

from dllama._kernels.ops import sampling
from dllama.errors import ConfigError, ModelError
from dllama.sampling.sampler import Sampler, SamplerConfig
from dllama.sampling.shard import penalised

CONFIGS = [
    SamplerConfig(temperature=0.0),
    SamplerConfig(temperature=1.0, top_p=1.0),
    SamplerConfig(),
    SamplerConfig(temperature=1.5, top_p=0.5),
    SamplerConfig(temperature=0.3, top_p=0.99),
    SamplerConfig(top_p=0.001),
    SamplerConfig(top_p=1.0, top_k=1),
    SamplerConfig(top_p=1.0, top_k=7),
    SamplerConfig(top_p=0.6, top_k=30, min_p=0.02),
    SamplerConfig(top_p=1.0, min_p=0.1),
    SamplerConfig(top_p=0.95, min_p=0.05),
    SamplerConfig(top_p=1.0, min_p=1.0),
    SamplerConfig(top_k=10_000),
]


def logits_of(size: int, seed: int, scale: float = 3.0) -> np.ndarray:
    """Float32 (size,), with ties."""
    values = np.random.default_rng(seed).standard_normal(size) * scale
    return np.where(values > 2, np.round(values), values).astype(np.float32)


def allowed(logits: np.ndarray, config: SamplerConfig) -> np.ndarray:
    """Return which tokens the filters keep, bool (n,)."""
    size = logits.size
    order = np.lexsort((np.arange(size), -logits))
    if config.temperature == 0:
        order = order[:1]
    order = order[: config.top_k or size]
    values = logits[order].astype(np.float64) / (config.temperature or 1.0)
    weights = np.exp(values - values[0])
    before = np.concatenate([[0.0], np.cumsum(weights)[:-1]]) / weights.sum()
    keep = (before < config.top_p) & (weights >= config.min_p)
    keep[0] = True
    out = np.zeros(size, bool)
    out[order[keep]] = True
    return out


def expected(logits: np.ndarray, config: SamplerConfig, seed: int, index: int) -> int:
    """Return the allowed token with the largest value."""
    if config.temperature == 0:
        return int(logits.argmax())
    values = logits / np.float64(config.temperature)
    values = values + sampling.gumbel(np.arange(logits.size), seed, index)
    return int(np.where(allowed(logits, config), values, -np.inf).argmax())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize(("size", "scale"), [(1, 1.0), (33, 3.0), (3000, 1.0), (3000, 4.0)])
def test_filters_equal_the_plain_ones(config: SamplerConfig, size: int, scale: float) -> None:
    for index in range(60):
        logits = logits_of(size, index, scale)
        assert chosen(logits, config, 5, index) == expected(logits, config, 5, index)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize(
    "cuts", [(1000,), (1, 2, 3), (333, 666), (15, 16, 1999), range(100, 2000, 100)]
)
def test_shards_choose_what_the_whole_does(config: SamplerConfig, cuts: tuple[int, ...]) -> None:
    for index in range(40):
        logits = logits_of(2000, index, 0.5 + index % 5)
        whole = chosen(logits, config, 9, index)
        assert chosen(np.split(logits, list(cuts)), config, 9, index) == whole


@pytest.mark.parametrize(
    "config",
    [
        SamplerConfig(temperature=1.0, top_p=1.0),
        SamplerConfig(temperature=0.7, top_p=0.9),
        SamplerConfig(temperature=2.0, top_p=1.0, top_k=5),
        SamplerConfig(temperature=1.0, top_p=0.9, min_p=0.1),
    ],
    ids=str,
)
def test_tokens_are_as_frequent_as_probable(config: SamplerConfig) -> None:
    logits = logits_of(12, 4, 1.0)
    count = 20_000
    sampler = Sampler(replace(config, seed=17))
    found = np.bincount([sampled(sampler, logits, number=n) for n in range(count)], minlength=12)
    kept = allowed(logits, config)
    weights = np.where(kept, np.exp(logits.astype(np.float64) / config.temperature), 0)
    wanted = weights / weights.sum() * count
    assert not found[~kept].any()
    chi_square = (((found - wanted) ** 2)[kept] / wanted[kept]).sum()
    freedom = kept.sum() - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_a_seed_repeats_the_tokens_and_another_does_not() -> None:
    logits = logits_of(500, 1, 1.0)

    def tokens(seed: int | None) -> list[int]:
        sampler = Sampler(SamplerConfig(temperature=1.0, seed=seed))
        return [sampled(sampler, logits, number=n) for n in range(50)]

    assert tokens(1) == tokens(1)
    assert len({tuple(tokens(seed)) for seed in (1, 2, (1 << 64) - 1, None, None)}) == 5
    assert len(set(tokens(1))) > 10


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = np.array([1, 4, 2, 4, 4], np.float32)
    assert sampled(Sampler(SamplerConfig(temperature=0.0)), logits) == 1


def test_repetition_penalty_is_that_of_hugging_face() -> None:
    logits = np.array([2.0, -2.0, 1.0, 0.0], np.float32)
    given = logits.copy()
    np.testing.assert_array_equal(
        penalised(logits, np.array([0, 1, 1, 3]), 2.0), [1.0, -4.0, 1.0, 0.0]
    )
    config = SamplerConfig(temperature=0.0, repetition_penalty=3.0)
    assert sampled(Sampler(config), logits, [0]) == 2
    np.testing.assert_array_equal(logits, given)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_masked_tokens_are_never_chosen(config: SamplerConfig) -> None:
    logits = np.full(100, -math.inf, np.float32)
    logits[[3, 90]] = -1000.0, -1000.5
    sampler = Sampler(replace(config, seed=1))
    assert {sampled(sampler, logits, number=n) for n in range(30)} <= {3, 90}
    shards = np.split(logits, [4, 50])
    for index in range(30):
        assert chosen(shards, config, 1, index) == chosen(logits, config, 1, index)
    with pytest.raises(ModelError, match="all logits are -inf"):
        sampled(sampler, np.full(100, -math.inf, np.float32))


@pytest.mark.parametrize("temperature", [1e-9, 1e-3, 2.0])
def test_extreme_temperatures(temperature: float) -> None:
    logits = logits_of(100, 2)
    sampler = Sampler(SamplerConfig(temperature=temperature, top_p=0.99, seed=1))
    tokens = {sampled(sampler, logits, number=n) for n in range(200)}
    assert (
        (len(tokens) > 20)
        if temperature > 1
        else tokens <= set(np.flatnonzero(logits == logits.max()))
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_unusable_logits_are_an_error_that_names_them(config: SamplerConfig, bad: float) -> None:
    logits = logits_of(50, 0)
    logits[7] = bad
    with pytest.raises(ModelError, match="logit 7 is"):
        sampled(Sampler(config), logits)


@pytest.mark.parametrize("penalty", [1.0, 3.0])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_drafts_are_what_is_drawn_one_by_one(config: SamplerConfig, penalty: float) -> None:
    """Until one is wrong or ends the text, on one node and on three.

    The logits are those of one row, so that what was drafted matters to the penalty.
    """
    config = replace(config, repetition_penalty=penalty, seed=5)
    logits = np.stack([logits_of(30, 1, 2.0)] * 5)
    history, expected = [3, 7, 3], []
    for number, row in enumerate(logits):
        expected.append(sampled(Sampler(config), row, history + expected, 9 + number))

    def drawn(drafted: list[int], ends: tuple[int, ...] = ()) -> list[int]:
        count = len(drafted) + 1
        nodes = Nodes(logits[:count], (10, 11))
        arguments = (history, 9, drafted, ends)
        found = nodes.drive(Sampler(config).sample(nodes.rows, *arguments))
        rows = [row_of(row) for row in logits[:count]]
        assert here(Sampler(config).sample(rows, *arguments)) == found
        return found

    for right in range(5):
        wrong = [(expected[right] + 1) % 30] * (4 - right)
        assert drawn(expected[:right] + wrong) == expected[: right + 1]
    for end in range(5):
        first = expected.index(expected[end])
        assert drawn(expected[:4], (expected[end],)) == expected[: first + 1]


@pytest.mark.parametrize("nodes", [1, 3])
def test_only_logits_that_count_must_be_usable(nodes: int) -> None:
    """Not those after a wrong draft."""
    logits = np.stack([logits_of(30, seed) for seed in range(3)])
    logits[1, 20] = math.nan
    sampler = Sampler(SamplerConfig(seed=1))
    first = sampled(sampler, logits[0])

    def drawn(drafted: list[int]) -> list[int]:
        split = Nodes(logits, (8, 16)[: nodes - 1])
        return split.drive(sampler.sample(split.rows, [], 0, drafted))

    assert drawn([first + 1, 0]) == [first]
    with pytest.raises(ModelError, match="logit 20 is"):
        drawn([first, 0])


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_penalty_that_no_logit_survives_is_an_error(nodes: int) -> None:
    split = Nodes(np.full((1, 30), 1e38, np.float32), (8, 16)[: nodes - 1])
    sampler = Sampler(SamplerConfig(repetition_penalty=0.01))
    with pytest.raises(ModelError, match="logit 20 is not a number or infinite"):
        split.drive(sampler.sample(split.rows, [20], 0))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf),
        ("temperature", None), ("temperature", "hot"), ("top_p", None), ("top_k", None),
        ("top_p", 0.0), ("top_p", 1.01), ("top_p", math.nan), ("top_k", -2), ("top_k", 1.5),
        ("min_p", -0.1), ("min_p", 1.5), ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-300), ("repetition_penalty", math.inf),
        ("seed", -1), ("seed", 1 << 64), ("seed", "one"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_named(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{option} is "):
        SamplerConfig(**{option: value})  # type: ignore[arg-type]
