"""Calls of a function for several nodes at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")
CUT = 0.3  # seconds that calls have to end once they are interrupted


class _Call(Generic[S, T]):
    """A call in a thread of its own."""

    def __init__(self, function: Callable[[S], T], item: S) -> None:
        self._function = function
        self._item = item
        self._results: list[T] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._function(self._item))
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """Wait for the end; return what the call returns, or raise what it raises."""
        self.thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]


def at_once(
    function: Callable[[S], T], items: Sequence[S], interrupt: Callable[[], object]
) -> list[T]:
    """Call a function for all items at once.

    If a signal handler raises an exception meanwhile, the calls are interrupted. Those that do not
    end soon after that are left alone.

    Args:
        function: what to call, each time in another thread.
        items: its arguments.
        interrupt: makes calls end soon.

    Returns:
        What the calls return. The first error is raised after all have ended.
    """
    calls: list[_Call[S, T]] = []
    try:
        calls.extend(_Call(function, item) for item in items)
        for call in calls:
            call.thread.join()
    except BaseException:
        interrupt()
        end = time.monotonic() + CUT
        for call in calls:
            call.thread.join(max(0.0, end - time.monotonic()))
        raise
    return [call.result() for call in calls]
