"""What passes cost: one record for each, and averages.

In reports a pass is called a step: a batch of prompt tokens (phase "prefill"), or generated tokens,
one of each text, or more if some were drafted (phase "decode"). A pass that does both (phase
"mixed") counts in no average. Times are milliseconds of wall clock. Bytes are what the root sent
and received.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace

PREFILL = "prefill"
DECODE = "decode"
MIXED = "mixed"
# More than a sequence has positions, so that a report of one text has all of its steps.
MOST_STEPS = 1 << 18


@dataclass(frozen=True, slots=True)
class StepStats:
    """One step.

    Args:
        phase: PREFILL, DECODE or MIXED.
        tokens: of prompts in PREFILL, else generated ones.
        total_ms: inference, transfer, sampling, and whatever is between them.
        inference_ms: computing on the root.
        transfer_ms: waiting for other nodes and exchanging bytes with them, on the root.
        sample_ms: choosing the token.
        sent_bytes: by the root.
        received_bytes: by the root.
        drafted: ids that were proposed and checked.
        accepted: those of them that turned out right.
    """

    phase: str
    tokens: int
    total_ms: float
    inference_ms: float
    transfer_ms: float
    sample_ms: float
    sent_bytes: int
    received_bytes: int
    drafted: int = 0
    accepted: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return the step as reports show it, without drafts; these are in the summary."""
        values = asdict(self)
        del values["drafted"], values["accepted"]
        return values

    def plus(self, other: StepStats) -> StepStats:
        """Return the sum of two steps, in the phase of this one."""
        names = [one.name for one in fields(self)][1:]
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass
class Stats:
    """The steps since the last reset.

    When there are more than MOST_STEPS, the older half is added up, so that a conversation without
    end takes bounded memory. Everything but `steps` still counts them.

    Attributes:
        steps: oldest first.
        earlier: the sum of older steps, by phase.
        count: how many steps were added.
    """

    steps: list[StepStats] = field(default_factory=list)
    earlier: dict[str, StepStats] = field(default_factory=dict, init=False)
    count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.count = len(self.steps)

    def add(self, step: StepStats) -> None:
        """Append a step."""
        self.steps.append(step)
        self.count += 1
        if len(self.steps) > MOST_STEPS:
            self._shorten()

    def clear(self) -> None:
        """Forget all steps."""
        self.steps.clear()
        self.earlier.clear()
        self.count = 0

    def since(self, count: int) -> Stats:
        """Return the steps after the first `count`, as far as they are kept."""
        return Stats(self.steps[max(0, len(self.steps) - (self.count - count)) :])

    def phase(self, phase: str) -> list[StepStats]:
        """Return the steps of one phase, oldest first. The sum of older ones counts as one step."""
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
        """Return tokens per second of both phases, averages per generated token, and draft counts.

        A figure is 0 if there is nothing to average.
        """
        decode = self.phase(DECODE)
        others = [step for phase in (PREFILL, MIXED) for step in self.phase(phase)]
        return {
            "prompt_tokens_per_s": _rate(self.phase(PREFILL)),
            "tokens_per_s": _rate(decode),
            "avg_total_ms": _average(decode, (step.total_ms for step in decode)),
            "avg_inference_ms": _average(decode, (step.inference_ms for step in decode)),
            "avg_transfer_ms": _average(decode, (step.transfer_ms for step in decode)),
            "avg_sent_bytes": _average(decode, (step.sent_bytes for step in decode)),
            "avg_received_bytes": _average(decode, (step.received_bytes for step in decode)),
            "drafted": sum(step.drafted for step in (*decode, *others)),
            "accepted": sum(step.accepted for step in (*decode, *others)),
        }


def _tokens(steps: Iterable[StepStats]) -> int:
    """Return the tokens of all steps."""
    return sum(step.tokens for step in steps)


def _rate(steps: list[StepStats]) -> float:
    """Return tokens per second of the steps' total time."""
    seconds = sum(step.total_ms for step in steps) / 1000.0
    return _tokens(steps) / seconds if seconds > 0 else 0.0


def _average(steps: list[StepStats], values: Iterable[float]) -> float:
    """Return the sum of values per token of the steps."""
    tokens = _tokens(steps)
    return sum(values) / tokens if tokens else 0.0
