"""Calls of a function for several nodes at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")
CUT = 0.3  # seconds that calls have to end once they are interrupted


class _Calls(Generic[S, T]):
    """Calls in threads of their own. The first that fails interrupts the others."""

    def __init__(
        self, function: Callable[[S], T], items: Sequence[S], interrupt: Callable[[], object]
    ) -> None:
        self._function = function
        self._interrupt = interrupt
        self._lock = threading.Lock()
        self.results: dict[int, T] = {}
        self.errors: list[BaseException] = []
        self._running = len(items)
        # Thread.join takes a thread for ended when a signal interrupts it.
        self.ended = threading.Event()
        self.threads = [
            threading.Thread(target=self._run, args=one, daemon=True) for one in enumerate(items)
        ]

    def _run(self, number: int, item: S) -> None:
        try:
            self.results[number] = self._function(item)
        except BaseException as error:
            with self._lock:
                self.errors.append(error)
            self._interrupt()
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self.ended.set()


def at_once(
    function: Callable[[S], T], items: Sequence[S], interrupt: Callable[[], object]
) -> list[T]:
    """Call a function for all items at once.

    When a call fails, or a signal handler raises an exception meanwhile, the others are
    interrupted. After a signal, those that do not end soon are left alone.

    Args:
        function: what to call, each time in another thread.
        items: its arguments.
        interrupt: makes calls end soon; called from any thread, maybe several times.

    Returns:
        What the calls return. The first error is raised after all have ended.
    """
    calls = _Calls(function, items, interrupt)
    try:
        for thread in calls.threads:
            thread.start()
        if items:
            calls.ended.wait()
    except BaseException:
        interrupt()
        calls.ended.wait(CUT)
        raise
    if calls.errors:
        raise calls.errors[0]
    return [calls.results[number] for number in range(len(items))]
