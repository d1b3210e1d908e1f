"""The processor's time that a short message between nodes takes, over TCP on this machine."""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

from dllama import transports
from dllama._kernels import cpu
from dllama._kernels.comm.link import Link
from dllama.runtime.pauses import sustained
from dllama.transports import Transport

TIMEOUT = 5.0  # seconds without a byte
NBYTES = 1024  # of a message, about those of a token's row
TRIPS = 8  # there and back, between looks at the clock


def message_seconds(seconds: float) -> float:
    """Measure a message at both ends together: sending, waking who waits, and receiving.

    Two threads send to each other in turns on one processor, so one of them always works: what is
    measured is time of a processor and none of waiting. Pauses count, as for kernels.

    Args:
        seconds: that the measurement takes.
    """
    near, far = both_ends(transports.get("blocking"), "127.0.0.1:0")
    with ThreadPoolExecutor(2) as threads, contextlib.closing(near), contextlib.closing(far):
        echo = threads.submit(_echo, far)
        times = threads.submit(_call, near, seconds).result()
        echo.result()
    return sustained(times) / (2 * TRIPS)


def both_ends(transport: Transport, address: str) -> tuple[Link, Link]:
    """Connect this process to itself; return both ends.

    Args:
        transport: that connects.
        address: to listen at meanwhile.
    """
    with transport.listen(address) as listener:
        near = transport.connect(listener.address, TIMEOUT)
        far = listener.accept(TIMEOUT)
    assert far is not None
    return near, far


def _call(link: Link, seconds: float) -> list[float]:
    """Seconds of some round trips, again and again."""
    _stay()
    there, back = bytearray(NBYTES), bytearray(NBYTES)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(TRIPS):
            link.send(there)
            link.recv_into(back)
        times.append(time.perf_counter() - begin)
    there[0] = 1  # the last one
    link.send(there)
    return times


def _echo(link: Link) -> None:
    """Send back what comes, up to the last message."""
    _stay()
    message = bytearray(NBYTES)
    while True:
        link.recv_into(message)
        if message[0]:
            return
        link.send(message)


def _stay() -> None:
    """Keep the calling thread on one processor."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpu.allowed()[-1:])
