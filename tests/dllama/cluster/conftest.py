"""Fixtures of the cluster tests; their helpers are in tests/support."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import uuid

import pytest
from failing import IDS, SOON, WorkerProcess, marked, wait_until
from hostile import CALM, Between, Served, talk

import dllama
from dllama import transports
from dllama.cluster import session, worker
from dllama.cluster.protocol import Kind
from dllama.text.tokenizer import Tokenizer

tokenizer_beside = functools.cache(Tokenizer.beside)


@pytest.fixture(autouse=True)
def no_secret(monkeypatch):
    monkeypatch.delenv("DLLAMA_SECRET", raising=False)


@pytest.fixture(scope="session")
def expected():
    """Logits of one node."""
    with dllama.LLM(threads=1) as llm:
        return llm.eval(IDS)


@pytest.fixture
def start(tmp_path_factory):
    """start(count, transport) returns new worker processes."""
    folder = tmp_path_factory.mktemp("w")
    started = []

    def new(count=1, transport="blocking", secret="", options=()):
        workers = [
            WorkerProcess(folder, len(started) + i, transport, secret, options)
            for i in range(count)
        ]
        started.extend(workers)
        assert all(worker.address for worker in workers)
        return workers

    yield new
    for process in started:
        process.stop()


@pytest.fixture
def local_run(tmp_path):
    """local_run() starts `dllama run` with local workers; at the end nothing of it may be left."""
    mark = uuid.uuid4().hex

    def run() -> subprocess.Popen:
        command = [sys.executable, "-m", "dllama", "run", "--nodes", "3", "--threads", "1"]
        return subprocess.Popen(
            [*command, "--steps", "480", "--ignore-eos"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(tmp_path), "DLLAMA_TEST_MARK": mark},
        )

    yield run
    wait_until(lambda: not marked(mark), SOON)  # workers notice that their root has ended
    left, files = marked(mark), list(tmp_path.iterdir())
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    assert (left, files) == ([], [])


@pytest.fixture
def served(caplog, monkeypatch):
    """A worker in this process with short time limits, whose log is recorded."""
    monkeypatch.setattr(worker, "GREETING", 2.0)
    for module in (worker, session):
        monkeypatch.setattr(module, "TICK", 0.02)
    # Reading it takes a root as long as all the rest, and these tests open hundreds.
    monkeypatch.setattr(Tokenizer, "beside", tokenizer_beside)
    caplog.set_level(logging.WARNING, "dllama.worker")
    one = Served(caplog)
    yield one
    one.stop()


@pytest.fixture(scope="session")
def conversation():
    """(sender, kind, content) of all messages of a correct session, in order."""
    messages = []

    def record(sender, kind, content):
        messages.append((sender, kind, content))

    listener = transports.get("blocking").listen("127.0.0.1:0")
    peer = worker.Worker(listener, 1)
    thread = threading.Thread(target=peer.serve)
    thread.start()
    with listener, Between(listener.address, record) as between:
        talk(between.address, timeout=CALM)
        assert wait_until(lambda: peer._root is None, CALM)  # or it tells the root that it stops
        peer.stop()
        thread.join(10)
    assert {kind for _, kind, _ in messages} >= set(Kind) - {Kind.ERROR, Kind.ABOUT, Kind.WEIGHTS}
    return messages


@pytest.fixture(scope="session")
def invitation(conversation):
    """The content of a correct JOIN, with a short timeout."""
    content = next(content for _, kind, content in conversation if kind == Kind.JOIN)
    join = json.loads(content)
    join["config"]["timeout"] = 0.2
    return join
