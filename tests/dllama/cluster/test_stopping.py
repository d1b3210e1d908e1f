"""Signals to workers, whatever they do: they end within a second, and the root is told why."""

from __future__ import annotations

import json
import signal
import time

import pytest
from failing import CALM, IDS, SOON, Later, addresses, talk, wait_until
from hostile import ROOT, Between, connect, frame, read

import dllama
from dllama.cluster.protocol import HEADER, Kind

pytestmark = pytest.mark.slow
SECOND = 1.0


def ends(process, number: int = signal.SIGTERM) -> None:
    """Check that a worker ends in time, and without an error."""
    begin = time.monotonic()
    process.signal(number)
    assert wait_until(lambda: not process.alive(), SECOND + SOON)
    assert time.monotonic() - begin < SECOND + SOON
    assert process._process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("waits_for", ["peers", "weights"])
def test_a_worker_that_waits_for_a_silent_root(start, invitation, number, waits_for):
    (process,) = start()
    join = {**invitation, "addresses": ["", process.address]}
    join["config"] = {**join["config"], "timeout": CALM}
    with connect(process.address) as control:
        control.sendall(frame(Kind.JOIN, join))
        _, length = HEADER.unpack(read(control, HEADER.size))
        read(control, length)
        if waits_for == "peers":
            ends(process, number)
            kind, length = HEADER.unpack(read(control, HEADER.size))
            assert kind == Kind.ERROR
            assert json.loads(read(control, length))["message"] == "this worker was stopped"
            return
        with connect(process.address) as link:
            link.sendall(frame(Kind.PEER, {"session": join["session"], "rank": 0, "name": ""}))
            _, length = HEADER.unpack(read(link, HEADER.size))
            read(link, length)
            time.sleep(0.2)
            ends(process, number)


def test_a_worker_in_the_middle_of_the_weights(start):
    (process,) = start()

    def slow(sender, kind, content):
        if sender == ROOT and kind == Kind.TENSOR:
            time.sleep(0.1)

    with (
        Between(process.address, slow) as between,
        Later(0.5, lambda: process.signal(signal.SIGTERM)) as stop,
    ):
        with pytest.raises((dllama.ProtocolError, dllama.TransportError), match="worker 1"):
            dllama.LLM(workers=[between.address], threads=1, timeout=CALM)
        assert wait_until(lambda: not process.alive(), SECOND + SOON)
        assert time.monotonic() - stop.at < SECOND + SOON


def test_a_worker_that_waits_for_another_one_in_a_pass(start):
    """The root, too, learns who was stopped."""
    workers = start(2)
    with dllama.LLM(workers=addresses(workers), threads=1, timeout=CALM) as llm:
        llm.eval(IDS)
        workers[0].signal(signal.SIGSTOP)
        with Later(0.3, lambda: workers[1].signal(signal.SIGTERM)) as stop:
            with pytest.raises(dllama.DllamaError, match="worker 2"):
                llm.eval(IDS)
            assert wait_until(lambda: not workers[1].alive(), SECOND + SOON)
            assert time.monotonic() - stop.at < SECOND + SOON


def test_a_busy_worker_does_not_only_heed_signals_when_it_is_idle(start):
    (process,) = start()
    with (
        dllama.LLM(workers=[process.address], threads=1, timeout=CALM) as llm,
        Later(0.3, lambda: process.signal(signal.SIGTERM)) as stop,
    ):
        with pytest.raises(dllama.DllamaError, match="worker 1"):
            talk(llm)
        assert wait_until(lambda: not process.alive(), SECOND + SOON)
        assert time.monotonic() - stop.at < SECOND + SOON
