"""The sampling kernels against NumPy, on every instruction set of this machine."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dllama._kernels import cpu
from dllama._kernels.ops import sampling

SIZES = [1, 2, 15, 16, 17, 63, 511, 512, 513, 2000]
TEMPERATURES = [0.05, 0.8, 1.0, 3.0]


def logits_of(size: int, seed: int = 0) -> np.ndarray:
    """Float32 (size,), with ties."""
    values = np.random.default_rng(seed).standard_normal(size) * 4
    return np.where(values > 1, np.round(values), values).astype(np.float32)


def weights_of(logits: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Octaves int64 (n,) and weights relative to them, float64 (n,)."""
    scale = np.float32(math.log2(math.e) / temperature)
    y = logits * scale
    octave = np.rint(y)
    return octave.astype(np.int64), 2.0 ** (y.astype(np.float64) - octave)


@pytest.mark.parametrize("size", SIZES)
def test_top_is_the_first_of_the_largest(size: int) -> None:
    logits = logits_of(size)
    value, index = sampling.top(logits)
    assert (value, index) == (logits.max(), logits.argmax())


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 1, 16, 599])
def test_top_refuses_nan_and_infinity(bad: float, at: int) -> None:
    logits = logits_of(600)
    logits[at] = bad
    with pytest.raises(ValueError, match=rf"logit {at} is"):
        sampling.top(logits)


def test_top_takes_masked_tokens_but_not_none() -> None:
    logits = np.array([-math.inf, 2.0, -math.inf], np.float32)
    assert sampling.top(logits) == (2.0, 1)
    assert sampling.top(np.full(20, -math.inf, np.float32)) == (-math.inf, 0)
    with pytest.raises(ValueError, match="no logits"):
        sampling.top(np.empty(0, np.float32))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_masses_are_the_sums_of_weights_by_octave(size: int, temperature: float) -> None:
    logits = logits_of(size)
    octaves, weights = weights_of(logits, temperature)
    first, sums = sampling.masses(logits, temperature)
    assert first == octaves.max()
    expected = [weights[octaves == first - i].sum() for i in range(sampling.OCTAVES)]
    np.testing.assert_allclose(sums / 2.0**23, expected, rtol=5e-7)


def test_masses_do_not_depend_on_the_order() -> None:
    logits = logits_of(3000)
    first, sums = sampling.masses(logits, 0.8)
    again, shuffled = sampling.masses(np.random.default_rng(1).permutation(logits), 0.8)
    assert first == again
    np.testing.assert_array_equal(sums, shuffled)


def test_masses_of_extreme_logits() -> None:
    logits = np.array([3e38, -3e38, -math.inf, 0.0], np.float32)
    first, sums = sampling.masses(logits, 1e-6)
    assert first == sampling.MAX_OCTAVE
    assert sums.tolist() == [1 << 23] + [0] * (sampling.OCTAVES - 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("token", [0, 7, 400])
def test_mass_before_counts_the_octave_in_order(size: int, token: int) -> None:
    logits = logits_of(size)
    token %= size
    octaves, weights = weights_of(logits, 2.0)
    ids = np.arange(size)
    first = (logits > logits[token]) | ((logits == logits[token]) & (ids < token))
    found = sampling.mass_before(
        logits, 2.0, int(octaves[token]), float(logits[token]), token + 100, offset=100
    )
    expected = weights[first & (octaves == octaves[token])].sum()
    np.testing.assert_allclose(found / 2.0**23, expected, rtol=5e-7)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 2, 40, 5000])
def test_candidates_are_the_best_in_order(size: int, count: int) -> None:
    logits = logits_of(size)
    ids, values = sampling.candidates(logits, count, 1000)
    order = np.lexsort((np.arange(size), -logits))[:count]
    np.testing.assert_array_equal(ids, order + 1000)
    np.testing.assert_array_equal(values, logits[order])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_race_is_won_by_the_largest_value(size: int, temperature: float) -> None:
    logits = logits_of(size)
    ids = np.arange(size) + 50
    for number in range(20):
        values = logits.astype(np.float64) * (1 / temperature) + sampling.gumbel(ids, 7, number)
        (value, token), (_, none, _) = sampling.race(logits, temperature, 7, number, 50)
        assert (value, token) == (values.max(), 50 + values.argmax())
        assert none == -1


@pytest.mark.parametrize("size", SIZES)
def test_race_within_a_cut(size: int) -> None:
    logits = logits_of(size)
    octaves, _ = weights_of(logits, 1.0)
    octave, limit = int(np.median(octaves)), size // 2
    least = float(np.sort(logits)[size // 4])
    ids = np.arange(size)
    before = (logits > logits[limit]) | ((logits == logits[limit]) & (ids < limit))
    inside = (octaves > octave) & (logits >= least)
    edge = (octaves == octave) & (logits >= least) & before
    for number in range(20):
        values = logits + sampling.gumbel(ids, 3, number)
        (_, token), (_, at_edge, logit) = sampling.race(
            logits, 1.0, 3, number, 0, octave, least, float(logits[limit]), limit
        )
        assert token == (np.where(inside, values, -np.inf).argmax() if inside.any() else -1)
        assert at_edge == (np.where(edge, values, -np.inf).argmax() if edge.any() else -1)
        assert at_edge == -1 or logit == logits[at_edge]


def test_gumbel_numbers_have_the_gumbel_distribution() -> None:
    numbers = np.sort(sampling.gumbel(np.arange(200_000), 11, 3))
    expected = np.exp(-np.exp(-numbers))
    distance = np.abs(expected - (np.arange(numbers.size) + 0.5) / numbers.size).max()
    assert distance < 1.95 / math.sqrt(numbers.size)  # Kolmogorov-Smirnov at 0.1 %


@pytest.mark.parametrize("other", [(12, 3), (11, 4)])
def test_gumbel_numbers_of_other_seeds_and_steps_are_unrelated(other: tuple[int, int]) -> None:
    ids = np.arange(100_000)
    first, second = sampling.gumbel(ids, 11, 3), sampling.gumbel(ids, *other)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:], second[:-1])[0, 1]) < 0.02


PROBE = """
import numpy as np
from dllama._kernels.ops import sampling
logits = (np.random.default_rng(5).standard_normal(5000) * 4).astype(np.float32)
first, sums = sampling.masses(logits, 0.8)
print(first, sums.tolist(), sampling.mass_before(logits, 0.8, first - 3, 0.0, 9))
print([sampling.race(logits, 0.8, 1, number, 0, first - 3, 2.0) for number in range(20)])
print(sampling.candidates(logits, 9), sampling.top(logits))
"""


def test_every_instruction_set_gives_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outputs = set()
    for isa in cpu.available():
        monkeypatch.setenv("DLLAMA_ISA", isa)
        command = [sys.executable, "-c", PROBE]
        done = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        outputs.add(done.stdout)
    assert len(outputs) == 1
