"""Roots that are killed, interrupted or replaced: workers serve the next root, or leave."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from between import wire
from failing import (
    AT_ONCE,
    CALM,
    IDS,
    ROOT,
    SOON,
    TIMEOUT,
    addresses,
    check_service,
    first_line,
    marked,
    name,
    wait_until,
)
from hostile import connect, frame, read, stranger

import dllama
from dllama import transports
from dllama.cluster import session
from dllama.cluster.meeting import Meeting
from dllama.cluster.protocol import HEADER, Kind
from dllama.cluster.worker import Worker
from dllama.model_path import DEMO

pytestmark = pytest.mark.slow
SECOND = 1.0


def test_workers_outlive_a_root_killed_in_a_token(start, expected):
    workers = start(2)
    for count in (1, 2, 3):
        command = [sys.executable, "-c", ROOT, str(DEMO), *addresses(workers)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as root:
            for _ in range(2 + 10 * count):
                assert first_line(root)
            root.kill()
        check_service(workers, expected)
        for worker in workers:
            assert len(worker.complaints()) == count


@contextlib.contextmanager
def full():
    """Yield the address of a listener that has no place for a connection, so that callers wait."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        stack.enter_context(socket.create_connection(server.getsockname()))
        yield "{}:{}".format(*server.getsockname())


def abandoned(address, invitation, silent, timeout):
    """Invite a worker to a session with a node that does not answer, and leave it to that."""
    join = {**invitation, "addresses": ["", address, silent]}
    join["config"] = {**join["config"], "timeout": timeout, "shares": [1.0, 1.0, 1.0]}
    with connect(address) as control:
        control.sendall(frame(Kind.JOIN, join))
        kind, length = HEADER.unpack(read(control, HEADER.size))
        read(control, length)
        assert kind == Kind.ACCEPT
        time.sleep(0.2)


@pytest.mark.parametrize("other", [partial(stranger, None), full], ids=["greeting", "connecting"])
def test_a_root_that_goes_while_a_worker_waits_for_another(start, expected, invitation, other):
    """The worker does not wait any longer, and is free for the next root."""
    (worker,) = start()
    with other() as silent:
        abandoned(worker.address, invitation, silent, CALM)
        begin = time.monotonic()
        check_service([worker], expected, seconds=SECOND + SOON)
        assert time.monotonic() - begin < SECOND + AT_ONCE
    (line,) = worker.complaints()
    assert line.endswith("has gone: the connection is closed")


def test_roots_that_come_and_go_leave_few_threads(served, expected, invitation, monkeypatch):
    """Each leaves one that connects until the root's timeout."""
    monkeypatch.setattr(session, "_places", threading.BoundedSemaphore(2))
    before = threading.active_count()
    with full() as silent:
        for _ in range(4):
            abandoned(served.address, invitation, silent, CALM)
            served.is_free()
        assert before < threading.active_count() <= before + 2
    assert len(served.complaints(4)) == 4
    assert wait_until(lambda: threading.active_count() == before, CALM + SOON)
    served.check(expected)


def test_a_node_that_left_before_its_session_began_is_no_complaint(caplog):
    caplog.set_level(logging.INFO, "dllama.worker")
    meeting = Meeting()
    with wire("127.0.0.1") as (near, far):
        near.close()
        begin = time.monotonic()
        meeting.join(far, {"session": "a", "rank": 1, "name": ""}, CALM)
        assert time.monotonic() - begin < AT_ONCE
        assert far.failed
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.getMessage().endswith("left: the session it was to join has not begun")


def test_local_workers_leave_when_their_root_is_killed(tmp_path):
    script = ROOT.replace("workers=sys.argv[2:]", "nodes=3")
    command = [sys.executable, "-c", script, str(DEMO)]
    mark = uuid.uuid4().hex
    environment = {**os.environ, "TMPDIR": str(tmp_path), "DLLAMA_TEST_MARK": mark}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as root:
        for _ in range(10):
            assert first_line(root)
        assert len(marked(mark)) == 3
        root.kill()
    assert wait_until(lambda: not marked(mark), TIMEOUT + SOON)


def test_busy_worker_says_so_and_goes_on(start):
    (worker,) = start()
    with dllama.LLM(workers=[worker.address], threads=1, timeout=CALM) as first:
        before = first.eval(IDS)
        begin = time.monotonic()
        with pytest.raises(dllama.ProtocolError, match=name(1, worker.address)) as refusal:
            dllama.LLM(workers=[worker.address], threads=1, timeout=CALM)
        assert "serves another root" in str(refusal.value)
        assert time.monotonic() - begin < AT_ONCE
        first.reset()
        np.testing.assert_array_equal(first.eval(IDS), before)
    assert len(worker.complaints()) == 1


def test_a_root_waits_for_one_that_is_leaving(served):
    busy = served._worker._busy
    busy.acquire()
    threading.Timer(0.1, busy.release).start()
    with dllama.LLM(workers=[served.address], threads=1, timeout=CALM) as llm:
        assert llm.nodes == 2


def test_a_root_may_follow_another_at_once(start):
    workers = start(2)
    for _ in range(20):
        with dllama.LLM(workers=addresses(workers), threads=1, timeout=CALM) as llm:
            assert np.isfinite(llm.eval(IDS)).all()
    assert all(worker.complaints() == [] for worker in workers)


def test_ctrl_c_of_a_worker_is_no_error(start):
    (worker,) = start()
    worker.signal(signal.SIGINT)
    assert wait_until(lambda: not worker.alive(), AT_ONCE)
    assert worker.complaints() == []


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at /proc")
def test_ctrl_c_leaves_nothing(local_run):
    with local_run() as root:
        assert len(root.stdout.read(10)) == 10
        root.send_signal(signal.SIGINT)
        begin = time.monotonic()
        root.stdout.read()
        assert root.wait(10) == 130
    assert time.monotonic() - begin < AT_ONCE


def test_a_worker_may_end_when_no_root_comes_after_one_that_was_killed():
    with transports.get("blocking").listen("127.0.0.1:0") as listener:
        peer = Worker(listener, 1, patience=0.3)
        thread = threading.Thread(target=peer.serve)
        thread.start()
        try:
            with dllama.LLM(workers=[listener.address], threads=1, timeout=CALM) as llm:
                llm.eval(IDS)
            thread.join(1.0)
            assert thread.is_alive(), "the root has left, nothing has failed"
            command = [sys.executable, "-c", ROOT, str(DEMO), listener.address]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as root:
                for _ in range(10):
                    assert first_line(root)
                root.kill()
            thread.join(TIMEOUT + SOON)
            assert peer.forsaken
        finally:
            peer.stop()
            thread.join(10)
