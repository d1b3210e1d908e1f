"""Timelines of passes in the Chrome trace format (chrome://tracing, Perfetto).

Trace Event Format, Google: complete events ("ph": "X") with times in microseconds; a node is
a process, its passes follow each other on one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dllama.errors import ProtocolError


@dataclass(frozen=True)
class NodePass:
    """One pass on one node: when it began, in nanoseconds of the root's clock, and for each
    step its name, kind and milliseconds."""

    rank: int
    began: int
    steps: tuple[tuple[str, str, float], ...]

    @classmethod
    def of(
        cls,
        rank: int,
        timeline: dict[str, Any],
        labels: Sequence[Sequence[str]],
        clock: int,
    ) -> NodePass:
        """From what a node says; clock: nanoseconds that its clock is ahead of the root's."""
        try:
            names = [(str(name), str(kind)) for name, kind in labels]
            steps = zip(names, timeline["ms"], strict=True)
            return cls(
                rank,
                int(timeline["began"]) - clock,
                tuple((name, kind, float(ms)) for (name, kind), ms in steps),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ProtocolError(f"worker {rank}: timeline is not as expected: {error}") from error


def chrome_trace(passes: Iterable[NodePass]) -> dict[str, Any]:
    """Passes of all nodes as a value for JSON."""
    events = [event for one in passes for event in _events(one)]
    ranks = sorted({event["pid"] for event in events})
    names = [
        {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"node {rank}"}}
        for rank in ranks
    ]
    return {"traceEvents": names + events}


def _events(one: NodePass) -> Iterable[dict[str, Any]]:
    """The steps of a pass that took any time, one after the other."""
    begin = one.began / 1e3
    for name, kind, ms in one.steps:
        if ms > 0:
            yield {
                "ph": "X",
                "name": name,
                "cat": kind,
                "pid": one.rank,
                "tid": 0,
                "ts": begin,
                "dur": ms * 1e3,
            }
        begin += ms * 1e3
