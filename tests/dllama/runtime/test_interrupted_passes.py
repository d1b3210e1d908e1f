"""A signal ends a pass, whatever it computes or waits for."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

import numpy as np
import pytest
from failing import AT_ONCE, CALM, IDS

import dllama
from dllama.graph.weights import FileSource, load
from dllama.model.file import ModelFile
from dllama.model_path import DEMO
from dllama.run_config import RunConfig
from dllama.runtime.batch import Batch, Span
from dllama.runtime.node import Node, graph_of

TEXTS, LENGTH = 16, 256


class Alarm(BaseException):
    """Raised by the handler of a signal."""


@contextlib.contextmanager
def alarm(seconds: float):
    """Raise Alarm in the main thread after some seconds."""

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_ends_what_a_pass_computes():
    """The stages after it have no time, and the next pass is right."""
    model = ModelFile.open(DEMO / "model.m")
    config = RunConfig(
        (1.0,), LENGTH, "f32", TEXTS * LENGTH, 1, "f32", contexts=TEXTS, parallel=TEXTS
    )
    graph = graph_of(model.spec, config, 0)
    node = Node(graph, load(graph, FileSource(model)), config, 2, None)
    many = Batch([Span(LENGTH, 0, [[text]]) for text in range(TEXTS)], [])
    with pytest.raises(Alarm), alarm(0.05):
        node.run(np.ones(TEXTS * LENGTH, np.int32), many)
    assert node.timeline()["ms"][-2] == 0.0
    few = Batch([Span(len(IDS), 0, [[0]])], [len(IDS) - 1])
    found = node.run(np.array(IDS, np.int32), few)
    with dllama.LLM(threads=1, kv_cache="f32") as llm:
        np.testing.assert_array_equal(found[0], llm.eval(IDS)[-1])


def test_a_signal_ends_the_wait_for_a_peer():
    with dllama.LLM(nodes=2, threads=1, timeout=CALM) as llm:
        (pid,) = llm._runner.root.worker_pids
        os.kill(pid, signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(Alarm), alarm(0.1):
            llm.eval(IDS)
        assert time.monotonic() - begin < AT_ONCE
        with pytest.raises(dllama.ModelError, match="interrupted during a pass"):
            llm.eval(IDS)


def test_a_signal_ends_the_wait_for_a_worker_that_does_not_start():
    """It accepts the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(Alarm), alarm(0.1):
            dllama.LLM(workers=[address], threads=1, timeout=CALM)
        assert time.monotonic() - begin < AT_ONCE
