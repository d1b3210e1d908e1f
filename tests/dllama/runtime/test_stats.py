from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from dllama.runtime import stats as stats_module
from dllama.runtime.stats import DECODE, MIXED, PREFILL, Stats, StepStats

STEP_KEYS = [
    "phase",
    "tokens",
    "total_ms",
    "inference_ms",
    "transfer_ms",
    "sample_ms",
    "sent_bytes",
    "received_bytes",
]
SUMMARY_KEYS = {
    "prompt_tokens_per_s",
    "tokens_per_s",
    "avg_total_ms",
    "avg_inference_ms",
    "avg_transfer_ms",
    "avg_sent_bytes",
    "avg_received_bytes",
    "drafted",
    "accepted",
}


def step(phase: str, tokens: int, total_ms: float, transfer_ms: float = 0.0) -> StepStats:
    return StepStats(phase, tokens, total_ms, total_ms / 2, transfer_ms, 0.5, 100, 200)


def test_a_step_reports_its_fields_in_order() -> None:
    assert list(step(DECODE, 1, 2.0).as_dict()) == STEP_KEYS


def test_a_step_cannot_change() -> None:
    with pytest.raises(FrozenInstanceError):
        step(DECODE, 1, 2.0).tokens = 2  # type: ignore[misc]


def test_no_steps_give_zeros() -> None:
    summary = Stats().summary()
    assert set(summary) == SUMMARY_KEYS
    assert set(summary.values()) == {0.0}


def test_drafts_of_all_steps_count() -> None:
    stats = Stats([replace(step(DECODE, 3, 1.0), drafted=5, accepted=2)])
    stats.add(replace(step(MIXED, 2, 1.0), drafted=2, accepted=1))
    summary = stats.summary()
    assert (summary["drafted"], summary["accepted"]) == (7, 3)
    assert summary["tokens_per_s"] == pytest.approx(3000.0), "a mixed pass is in no average"


def test_a_step_of_no_time_gives_no_rate() -> None:
    assert Stats([step(PREFILL, 4, 0.0)]).summary()["prompt_tokens_per_s"] == 0.0


def test_rates_count_tokens_not_steps() -> None:
    stats = Stats([step(PREFILL, 32, 100.0), step(PREFILL, 8, 100.0), step(DECODE, 1, 50.0)])
    summary = stats.summary()
    assert summary["prompt_tokens_per_s"] == pytest.approx(200.0)
    assert summary["tokens_per_s"] == pytest.approx(20.0)


def test_averages_are_of_generated_tokens_only() -> None:
    stats = Stats([step(PREFILL, 32, 1000.0, 500.0)])
    stats.add(step(DECODE, 1, 10.0, 1.0))
    stats.add(step(DECODE, 1, 30.0, 3.0))
    assert stats.summary() == pytest.approx(
        {
            "prompt_tokens_per_s": 32.0,
            "tokens_per_s": 50.0,
            "avg_total_ms": 20.0,
            "avg_inference_ms": 10.0,
            "avg_transfer_ms": 2.0,
            "avg_sent_bytes": 100.0,
            "avg_received_bytes": 200.0,
            "drafted": 0,
            "accepted": 0,
        }
    )


def test_clear_forgets_the_steps() -> None:
    stats = Stats([step(DECODE, 1, 1.0)])
    stats.clear()
    assert stats.steps == []


def test_steps_without_end_take_a_bounded_memory(monkeypatch) -> None:
    """The oldest are added up; no figure changes by that."""
    added = [step(DECODE if n % 3 else PREFILL, n + 1, 10.0 * n, n) for n in range(50)]
    everything = Stats(list(added))
    monkeypatch.setattr(stats_module, "MOST_STEPS", 8)
    stats = Stats()
    for one in added:
        stats.add(one)
        assert stats.steps == added[: stats.count][-len(stats.steps) :]
        assert len(stats.steps) <= 8
    assert stats.summary() == pytest.approx(everything.summary())
    for phase in (PREFILL, DECODE):
        tokens = sum(one.tokens for one in everything.phase(phase))
        assert sum(one.tokens for one in stats.phase(phase)) == tokens


def test_steps_since_a_count(monkeypatch) -> None:
    monkeypatch.setattr(stats_module, "MOST_STEPS", 8)
    stats = Stats()
    for number in range(20):
        stats.add(step(DECODE, number, 1.0))
    assert stats.count == 20
    assert [one.tokens for one in stats.since(18).steps] == [18, 19]
    assert stats.since(20).steps == []
    assert stats.since(0).steps == stats.steps
    stats.clear()
    assert (stats.count, stats.earlier, stats.since(0).steps) == (0, {}, [])
