"""Signals that ask a command to end: it cleans up first, as after Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
AGAIN = 0.05  # seconds after which a signal that was lost is sent again


class Terminated(BaseException):
    """Raised in the main thread by the first of ENDING; further ones are ignored.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number}")
        self.number = number


@contextlib.contextmanager
def ending_raises() -> Iterator[None]:
    """Raise Terminated on SIGTERM and SIGHUP, unless they are ignored, as nohup has it.

    Where Python can only ignore what a signal raises, as in a callback of a weak reference, the
    signal is sent again. Imports have such callbacks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    heeded = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    hook, again = sys.unraisablehook, list[threading.Timer]()

    def ignored(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, (Terminated, KeyboardInterrupt)):
            for number in heeded:
                signal.signal(number, _terminate)
            again.append(_later(getattr(lost.exc_value, "number", signal.SIGINT)))
        else:
            hook(lost)

    for number in heeded:
        signal.signal(number, _terminate)
    sys.unraisablehook = ignored
    try:
        yield
    finally:
        for timer in again:
            timer.cancel()
        sys.unraisablehook = hook
        for number in heeded:
            signal.signal(number, before[number])


def _later(number: int) -> threading.Timer:
    """Send a signal to the main thread, not at once: what it raises is still ignored."""
    timer = threading.Timer(AGAIN, signal.pthread_kill, (threading.main_thread().ident, number))
    timer.daemon = True
    timer.start()
    return timer


def _terminate(number: int, frame: FrameType | None) -> None:
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise Terminated(number)
