"""Workers that die or hang: one clear error in time names them, and the others serve on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from failing import (
    AT_ONCE,
    CALM,
    IDS,
    PROMPT,
    SOON,
    STARTING,
    TIMEOUT,
    Later,
    addresses,
    check_service,
    name,
    talk,
)

import dllama
from dllama import transports
from dllama.cluster import protocol
from dllama.errors import TransportTimeoutError
from dllama.runtime.batch import Batch, Span
from dllama.sampling.questions import Best

pytestmark = pytest.mark.slow

# Passes with more threads than cores, whose first transfer fails at once.
LOST_AT_ONCE = """
import sys
import numpy as np
from dllama import transports
from dllama.model_path import DEMO
from dllama.errors import TransportError
from dllama.model.file import ModelFile
from dllama.runtime.batch import Batch, Span
from dllama.runtime.node import Node, communicator_of, graph_of
from dllama.run_config import RunConfig
from dllama.graph.weights import FileSource, load

model = ModelFile.open(DEMO / "model.m")
config = RunConfig((1, 1), seq_len=16, kv_cache="f32", batch=4, logits=1, buffer="f32")
graph = graph_of(model.spec, config, 0)
weights = load(graph, FileSource(model))
for round in range(50):
    with transports.get("unix").listen(f"unix:{sys.argv[1]}/{round}") as listener:
        link = transports.get("unix").connect(listener.address, 5.0)
        listener.accept(5.0).close()
    communicator = communicator_of(graph, config, [None, link], 0, {})
    node = Node(graph, weights, config, 8, communicator)
    try:
        node.run(np.zeros(1, np.int32), Batch([Span(1, 0, [[0]])], []))
        sys.exit("no error")
    except TransportError:
        link.close()
"""


@pytest.mark.parametrize("transport", transports.BUILTIN)
@pytest.mark.parametrize("rank", [1, 2])
def test_killed_worker_is_named_at_once(start, expected, transport, rank):
    workers = start(2, transport)
    victim = workers[rank - 1]
    options = {"transport": transport, "threads": 1, "timeout": CALM}
    with dllama.LLM(workers=addresses(workers), **options) as llm:
        talk_a_little = llm.generate(PROMPT, ignore_eos=True)
        assert next(talk_a_little).id >= 0
        with (
            Later(0.1, lambda: victim.signal(signal.SIGKILL)) as kill,
            pytest.raises(dllama.TransportError, match=name(rank, victim.address)),
        ):
            talk(llm)
        assert time.monotonic() - kill.at < AT_ONCE
        with pytest.raises(dllama.DllamaError):
            llm.eval(IDS)
    survivors = [worker for worker in workers if worker is not victim]
    check_service(survivors, expected)
    for worker in survivors:  # none where the root noticed it first, and let the others go
        assert len(worker.complaints()) <= 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("rank", [1, 2])
def test_worker_that_is_lost_while_halves_take_turns_is_named(start, rank, number):
    """One exchange after another has begun and not ended."""
    workers = start(2)
    victim, ids = workers[rank - 1], [*range(256)]
    with dllama.LLM(workers=addresses(workers), threads=1, timeout=TIMEOUT) as llm:
        llm.eval(ids)
        with (
            Later(0.1, lambda: victim.signal(number)) as lost,
            pytest.raises(dllama.TransportError, match=name(rank, victim.address)),
        ):
            evaluate(llm, ids)
        assert time.monotonic() - lost.at < AT_ONCE
    victim.signal(signal.SIGCONT)


def evaluate(llm, ids, seconds=30.0):
    """Evaluate a batch again and again until an error is raised."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        llm.reset()
        llm.eval(ids)


@pytest.mark.parametrize("rank", [1, 2])
def test_killed_local_worker_is_named_and_nothing_is_left(rank, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with dllama.LLM(nodes=3, threads=1, timeout=CALM) as llm:
        pids = llm._runner.root.worker_pids
        with (
            Later(0.1, lambda: os.kill(pids[rank - 1], signal.SIGKILL)) as kill,
            pytest.raises(dllama.TransportError, match=rf"worker {rank} \(unix:"),
        ):
            talk(llm)
        assert time.monotonic() - kill.at < AT_ONCE
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_while_nothing_is_evaluated_is_found_by_a_ping():
    with dllama.LLM(nodes=3, threads=1) as llm:
        llm.ping()
        expected = llm.eval(IDS)
        llm.ping()
        llm.reset()
        assert (llm.eval(IDS) == expected).all()
        os.kill(llm._runner.root.worker_pids[1], signal.SIGKILL)
        with pytest.raises(dllama.TransportError, match=r"worker 2 \(unix:"):
            llm.ping()
        with pytest.raises(dllama.ModelError, match="cannot go on"):
            llm.eval(IDS)


@pytest.mark.parametrize("transport", transports.BUILTIN)
@pytest.mark.parametrize("rank", [1, 2])
def test_stopped_worker_is_named_within_the_timeout(start, expected, transport, rank):
    workers = start(2, transport)
    victim = workers[rank - 1]
    options = {"transport": transport, "threads": 1, "timeout": TIMEOUT}
    with (
        dllama.LLM(workers=addresses(workers), **options) as llm,
        Later(0.1, lambda: victim.signal(signal.SIGSTOP)) as stop,
    ):
        with pytest.raises(dllama.TransportError, match=name(rank, victim.address)):
            talk(llm)
        assert time.monotonic() - stop.at < TIMEOUT + SOON
    check_service([worker for worker in workers if worker is not victim], expected)
    victim.signal(signal.SIGCONT)
    check_service([victim], expected)
    for worker in workers:
        assert len(worker.complaints()) <= 1


@pytest.mark.parametrize("rank", [1, 2])
def test_worker_stopped_between_passes_is_named_within_the_timeout(start, rank):
    workers = start(2)
    with dllama.LLM(workers=addresses(workers), threads=1, timeout=TIMEOUT) as llm:
        batch = Batch([Span(len(IDS), 0, [[0]])], [len(IDS) - 1])
        llm._runner.root.run(IDS, batch, protocol.Want.TOP)
        (row,) = llm._runner.root.rows()
        workers[rank - 1].signal(signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(dllama.TransportError, match=name(rank, workers[rank - 1].address)):
            llm._runner.drive(row.ask(Best(0, 5)))
        assert time.monotonic() - begin < TIMEOUT + SOON


def test_nobody_waits_for_the_words_of_the_worker_that_all_blame(start):
    workers = start(2)
    with dllama.LLM(workers=addresses(workers), threads=1, timeout=TIMEOUT) as llm:
        llm.eval(IDS)
        for member in llm._runner.root._coordinator.members:
            member.control.timeout = 200.0  # of which a fifth is for last words
        workers[1].signal(signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(TransportTimeoutError, match=name(2, workers[1].address)):
            llm.eval(IDS)
        assert time.monotonic() - begin < 30.0


def test_worker_stopped_before_the_start_is_named(start, expected):
    workers = start(2)
    workers[1].signal(signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(TransportTimeoutError, match=name(2, workers[1].address)) as held:
        dllama.LLM(workers=addresses(workers), threads=1, timeout=TIMEOUT)
    assert time.monotonic() - begin < TIMEOUT + SOON
    check_service(workers[:1], expected, seconds=AT_ONCE)
    workers[1].signal(signal.SIGCONT)
    check_service(workers, expected)
    assert held.value is not None


def test_worker_that_cannot_be_reached_is_named(start, expected):
    (worker,) = start()
    with socket.socket() as bound:  # but not listening
        bound.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*bound.getsockname())
        begin = time.monotonic()
        with pytest.raises(dllama.TransportError, match=f"worker 2.*{address}.*refused") as held:
            dllama.LLM(workers=[worker.address, address], threads=1, timeout=CALM)
        assert time.monotonic() - begin < AT_ONCE
    check_service([worker], expected, seconds=AT_ONCE)
    assert held.value is not None


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at /proc")
def test_no_thread_waits_for_one_that_saw_a_failure_early(tmp_path):
    """A thread that is late at a barrier sees that the stage after it has failed."""
    command = [sys.executable, "-c", LOST_AT_ONCE, str(tmp_path)]
    subprocess.run(command, check=True, timeout=STARTING + 30)
