"""Timelines of passes in the Chrome trace format (chrome://tracing, Perfetto).

Trace Event Format, Google: complete events ("ph": "X") with times in microseconds. A node is a
process; its passes follow each other on one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dllama.errors import ProtocolError


@dataclass(frozen=True)
class NodePass:
    """One pass on one node.

    Args:
        rank: of the node.
        began: when, in nanoseconds of the root's clock.
        stages: name, kind (inference or transfer) and milliseconds of each.
    """

    rank: int
    began: int
    stages: tuple[tuple[str, str, float], ...]

    @classmethod
    def of(
        cls,
        rank: int,
        timeline: dict[str, Any],
        labels: Sequence[Sequence[str]],
        clock: int,
    ) -> NodePass:
        """Read what a node says about its last pass.

        Args:
            rank: of the node.
            timeline: reply to the question "timeline" (Node.timeline).
            labels: (name, kind) of each stage (Node.labels).
            clock: nanoseconds that the node's clock is ahead of the root's.

        Raises:
            ProtocolError: they do not fit together.
        """
        try:
            names = [(str(name), str(kind)) for name, kind in labels]
            stages = zip(names, timeline["ms"], strict=True)
            return cls(
                rank,
                int(timeline["began"]) - clock,
                tuple((name, kind, float(ms)) for (name, kind), ms in stages),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ProtocolError(f"worker {rank}: timeline is not as expected: {error}") from error


def chrome_trace(passes: Iterable[NodePass]) -> dict[str, Any]:
    """Return passes of any nodes as a value for JSON."""
    events = [event for one in passes for event in _events(one)]
    ranks = sorted({event["pid"] for event in events})
    names = [
        {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"node {rank}"}}
        for rank in ranks
    ]
    return {"traceEvents": names + events}


def _events(one: NodePass) -> Iterable[dict[str, Any]]:
    """Yield the stages of a pass that took any time, one after another."""
    begin = one.began / 1e3
    for name, kind, ms in one.stages:
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
