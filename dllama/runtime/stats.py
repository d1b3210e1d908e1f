"""What a generation cost: one record per step, and their averages.

A step is one pass through the model: a batch of prompt tokens (phase "prefill")
or one generated token (phase "decode"). Times are milliseconds of wall clock,
bytes are those the root sent and received.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace

PREFILL = "prefill"
DECODE = "decode"
# More than a context has positions, so that a report of one text has all steps of it.
MOST_STEPS = 1 << 18


@dataclass(frozen=True, slots=True)
class StepStats:
    """One step: total = inference + transfer + sampling + what is left between them."""

    phase: str
    tokens: int
    total_ms: float
    inference_ms: float
    transfer_ms: float
    sample_ms: float
    sent_bytes: int
    received_bytes: int

    def as_dict(self) -> dict[str, object]:
        """The step as it stands in a report, keys in the order of the fields."""
        return asdict(self)

    def plus(self, other: StepStats) -> StepStats:
        """Both as one step of this one's phase."""
        names = [one.name for one in fields(self)][1:]
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass
class Stats:
    """The steps since the context was last emptied, oldest first.

    Of more than MOST_STEPS the older half is kept as a sum of each phase (`earlier`), so that
    a conversation without end takes a bounded memory; all figures but `steps` count them.
    """

    steps: list[StepStats] = field(default_factory=list)
    earlier: dict[str, StepStats] = field(default_factory=dict, init=False)
    count: int = field(default=0, init=False)
    """Steps that were added so far."""

    def __post_init__(self) -> None:
        self.count = len(self.steps)

    def add(self, step: StepStats) -> None:
        """Append one finished step."""
        self.steps.append(step)
        self.count += 1
        if len(self.steps) > MOST_STEPS:
            self._shorten()

    def amend(self, step: StepStats) -> None:
        """Put a step in the place of the last one."""
        self.steps[-1] = step

    def clear(self) -> None:
        """Forget all steps."""
        self.steps.clear()
        self.earlier.clear()
        self.count = 0

    def since(self, count: int) -> Stats:
        """The steps after the first `count`, as far as they are kept."""
        return Stats(self.steps[max(0, len(self.steps) - (self.count - count)) :])

    def phase(self, phase: str) -> list[StepStats]:
        """The steps of one phase, oldest first; those that are not kept count as one."""
        earlier = [self.earlier[phase]] if phase in self.earlier else []
        return earlier + [step for step in self.steps if step.phase == phase]

    def _shorten(self) -> None:
        """Add up the older half of the steps."""
        half = len(self.steps) // 2
        for step in self.steps[:half]:
            before = self.earlier.get(step.phase)
            self.earlier[step.phase] = step if before is None else before.plus(step)
        del self.steps[:half]

    def summary(self) -> dict[str, float]:
        """Tokens per second of both phases, and averages per generated token.

        A figure with nothing to average is 0.0.
        """
        decode = self.phase(DECODE)
        return {
            "prompt_tokens_per_s": _rate(self.phase(PREFILL)),
            "tokens_per_s": _rate(decode),
            "avg_total_ms": _average(decode, (step.total_ms for step in decode)),
            "avg_inference_ms": _average(decode, (step.inference_ms for step in decode)),
            "avg_transfer_ms": _average(decode, (step.transfer_ms for step in decode)),
            "avg_sent_bytes": _average(decode, (step.sent_bytes for step in decode)),
            "avg_received_bytes": _average(decode, (step.received_bytes for step in decode)),
        }


def _tokens(steps: Iterable[StepStats]) -> int:
    """Tokens of all steps together."""
    return sum(step.tokens for step in steps)


def _rate(steps: list[StepStats]) -> float:
    """Tokens per second over the steps' total time."""
    seconds = sum(step.total_ms for step in steps) / 1000.0
    return _tokens(steps) / seconds if seconds > 0 else 0.0


def _average(steps: list[StepStats], values: Iterable[float]) -> float:
    """Sum of the values per token of the steps."""
    tokens = _tokens(steps)
    return sum(values) / tokens if tokens else 0.0
