"""Calls for several nodes at once: the first failure or a signal ends all."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from failing import AT_ONCE, CALM

from dllama.cluster.at_once import at_once


def nothing() -> None:
    """Interrupt nobody."""


def test_results_come_in_the_order_of_the_items():
    def late(item: int) -> int:
        time.sleep(0.05 * (3 - item))
        return item * item

    assert at_once(late, range(4), nothing) == [0, 1, 4, 9]
    assert at_once(late, [], nothing) == []


def test_the_first_error_interrupts_the_others():
    ended = threading.Event()

    def work(item: int) -> None:
        if item == 1:
            raise ValueError("the first")
        assert ended.wait(CALM)
        raise OSError("was interrupted")

    begin = time.monotonic()
    with pytest.raises(ValueError, match="the first"):
        at_once(work, range(3), ended.set)
    assert time.monotonic() - begin < AT_ONCE


@pytest.mark.parametrize("heeds", [True, False])
def test_a_signal_interrupts_all_and_leaves_alone_what_does_not_end(heeds):
    ended, left = threading.Event(), threading.Event()
    done = []

    def work(item: int) -> None:
        left.wait(CALM)
        done.append(item)

    def heed(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, heed)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        begin = time.monotonic()
        with pytest.raises(InterruptedError):
            at_once(work, range(2), left.set if heeds else ended.set)
        assert len(done) == (2 if heeds else 0)
        assert time.monotonic() - begin < AT_ONCE
        assert left.is_set() == heeds
        assert ended.is_set() != heeds
    finally:
        left.set()
        signal.signal(signal.SIGALRM, before)
