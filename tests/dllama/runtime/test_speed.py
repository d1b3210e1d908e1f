"""The speed of a node: what is made of the times of passes, the measurement, and its JSON."""

from __future__ import annotations

import numpy as np
import pytest

from dllama.model.weight_types import WeightType
from dllama.runtime import speed
from dllama.runtime.pauses import sustained
from dllama.runtime.speed import KernelSpeed, NodeSpeed, measure

Q40 = KernelSpeed(9e9, 34e9)
PI = NodeSpeed(4, 2e-6, 1e-5, {WeightType.Q40: Q40, WeightType.F32: KernelSpeed(1e10, 1.5e10)})


def limited(length: int, run: int, period: int, begin: int, count: int) -> list[float]:
    """Times of passes of a length, if threads may run so long in each period (all in us)."""
    times, at = [], begin
    for _ in range(count):
        end, left = at, length
        while left:
            end += max(0, end % period - run + 1) and period - end % period  # a pause
            step = min(left, run - end % period)
            end, left = end + step, left - step
        times.append((end - at) / 1e6)
        at = end
    return times


@pytest.mark.parametrize("percent", [10, 20, 40, 70])
@pytest.mark.parametrize("length", [500, 1000, 3700])
def test_the_pauses_of_limited_time_count(percent, length):
    """In the long run, a pass takes its time divided by the part of the time that is allowed."""
    for begin in np.random.default_rng(1).integers(0, 100_000, 20):
        count = 800_000 * percent // 100 // length
        found = sustained(limited(length, 1000 * percent, 100_000, int(begin), count))
        assert found == pytest.approx(1e-6 * length * 100 / percent, rel=0.1)


def test_a_few_late_passes_are_chance():
    assert sustained([1.0, 1.1, 9.0, 1.0, 0.9, 1.1, 5.0, 1.0]) == pytest.approx(1.05)


@pytest.mark.usefixtures("quick_speed")
@pytest.mark.parametrize("threads", [1, 3])
def test_every_weight_type_can_be_measured(threads):
    found = measure(WeightType, threads)
    assert found.threads == threads
    assert 0 < found.stage < 1
    assert 1e-7 < found.message < 1
    assert set(found.kernels) == set(WeightType)
    assert all(one.bandwidth > 1e6 and one.compute > 1e6 for one in found.kernels.values())


def test_matrices_are_larger_than_the_caches(monkeypatch):
    monkeypatch.setattr(speed, "_last_cache", lambda: 40 << 20)
    monkeypatch.setattr(speed, "_available", lambda: 64 << 30)
    assert speed._room() == 160 << 20
    monkeypatch.setattr(speed, "_available", lambda: 400 << 20)
    assert speed._room() == 50 << 20


def test_json_says_the_same():
    assert NodeSpeed.from_json(PI.as_json()) == PI


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 0}, "threads: found 0"),
        ({"threads": None}, "threads: found None"),
        ({"stage": float("nan")}, "stage: found nan"),
        ({"message": None}, "message: found None"),
        ({"kernels": {}}, "kernels: found {}"),
        ({"kernels": [7]}, "found 7, expected an object"),
        ({"kernels": [{"type": "q99", "bandwidth": 1, "compute": 1}]}, "type: found 'q99'"),
        ({"kernels": [{"type": "q40", "bandwidth": 0, "compute": 1}]}, "bandwidth: found 0"),
        ({"kernels": [{"type": "q40", "bandwidth": 1e9}]}, "compute: found None"),
    ],
)
def test_wrong_json_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        NodeSpeed.from_json({**PI.as_json(), **change})


@pytest.mark.parametrize("content", [None, [], "fast", 3])
def test_what_is_no_object_is_refused(content):
    with pytest.raises(ValueError, match="expected an object"):
        NodeSpeed.from_json(content)
