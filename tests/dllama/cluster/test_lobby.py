"""Strangers that are slow or silent keep nobody out, whatever a worker runs out of."""

from __future__ import annotations

import _thread
import contextlib
import errno
import resource
import socket
import threading
import time
from pathlib import Path

import pytest
from failing import AT_ONCE, CALM, check_service, wait_until
from hostile import GREETING

import dllama
from dllama import transports
from dllama.cluster import acceptor, lobby, worker
from dllama.cluster.lobby import Lobby
from dllama.cluster.protocol import HEADER, Kind
from dllama.errors import ExhaustedError

pytestmark = pytest.mark.slow


class Stranger:
    """A link that is only ever interrupted."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.ended = False

    def interrupt(self) -> None:
        self.ended = True

    close = interrupt


def strangers(address: str, count: int) -> list[Stranger]:
    return [Stranger(f"{address}:{port}") for port in range(count)]


@pytest.fixture
def hurried(monkeypatch):
    """Nobody is spared."""
    monkeypatch.setattr(lobby, "SPARED", 0.0)


@contextlib.contextmanager
def silent(address: str, count: int, said: bytes = b""):
    """Yield connections that say nothing more."""
    host, port = address.split(":")
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            for _ in range(count)
        ]
        for one in made:
            one.sendall(said)
        yield made


def test_the_address_with_most_strangers_loses_its_oldest(hurried):
    room = Lobby(100.0)
    few, many = strangers("10.0.0.1", 1), strangers("10.0.0.2", 31)
    others = [one for n in range(32) for one in strangers(f"10.0.1.{n}", 1)]
    for one in (*few, *many, *others):
        room.enter(one)
    assert not any(one.ended for one in (*few, *many, *others))
    late = Stranger("10.0.0.3:1")
    room.enter(late)
    assert [one.ended for one in many] == [True] + [False] * 30
    assert not any(one.ended for one in (*few, *others, late))
    assert room.leave(many[0])
    assert not room.leave(many[1])
    assert not room.leave(late)


def test_one_address_has_half_of_the_places(hurried):
    room = Lobby(100.0)
    many = strangers("[2001:db8::1]", 20) + strangers("[2001:db8::2]", 13)
    for one in many:
        room.enter(one)
    assert [one.ended for one in many] == [True] + [False] * 32


@pytest.mark.parametrize(
    ("kind", "limit"), [(resource.RLIMIT_NOFILE, 40), (resource.RLIMIT_AS, 40 * lobby.MEMORY)]
)
def test_few_files_or_little_memory_make_few_places(hurried, monkeypatch, kind, limit):
    limits = {kind: limit}
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (limits.get(kind, resource.RLIM_INFINITY),) * 2
    )
    room = Lobby(100.0)
    many = [one for n in range(20) for one in strangers(f"10.0.1.{n}", 1)]
    for one in many:
        room.enter(one)
    assert [one.ended for one in many] == [True] * 10 + [False] * 10


def test_who_came_just_now_is_spared(monkeypatch):
    monkeypatch.setattr(lobby, "SPARED", 0.2)
    room = Lobby(100.0)
    many = strangers("10.0.0.2", 33)
    for one in many[:32]:
        room.enter(one)
    begin = time.monotonic()
    room.enter(many[32])
    assert time.monotonic() - begin > 0.1
    assert many[0].ended


def test_room_that_becomes_free_is_taken_at_once(monkeypatch):
    monkeypatch.setattr(lobby, "SPARED", CALM)
    room = Lobby(100.0)
    many = strangers("10.0.0.2", 33)
    for one in many[:32]:
        room.enter(one)
    timer = threading.Timer(0.05, lambda: room.leave(many[5]))
    timer.start()
    begin = time.monotonic()
    room.enter(many[32])
    timer.join()
    assert time.monotonic() - begin < AT_ONCE
    assert not any(one.ended for one in many)


def test_strangers_that_no_thread_greets_are_forgotten():
    room = Lobby(0.0)
    first, second = strangers("10.0.0.2", 2)
    room.enter(first)
    room.enter(second)
    assert first.ended
    assert not room.leave(first)


def test_a_root_gets_in_although_slow_strangers_fill_all_places(served, expected):
    with silent(served.address, 70) as dribbling:
        ended = threading.Event()

        def dribble() -> None:
            at = 0
            while not ended.wait(0.05):
                for one in dribbling:
                    with contextlib.suppress(OSError):
                        one.sendall(GREETING[at : at + 1])
                at += 1

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            served.check(expected, seconds=AT_ONCE)
        finally:
            ended.set()
            thread.join()
    assert any("gives way" in line for line in served.complaints(7))


def test_a_handshake_of_a_byte_now_and_then_ends_in_time(served, monkeypatch):
    monkeypatch.setattr(worker, "GREETING", 0.5)
    said = GREETING + HEADER.pack(Kind.JOIN, 1000)
    begin = time.monotonic()
    with silent(served.address, 1) as (one,), contextlib.suppress(OSError):
        for at in range(1000):
            one.sendall(said[at : at + 1] or b"{")
            time.sleep(0.02)
    assert time.monotonic() - begin < AT_ONCE
    (line,) = served.complaints()
    assert "not done within 0.5 s" in line


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_worker_goes_on_when_nothing_can_be_accepted(served, expected, monkeypatch, number):
    left = [3]

    def accept(self):
        if left[0]:
            left[0] -= 1
            raise OSError(number, "none left")
        return real(self)

    real = socket.socket.accept
    monkeypatch.setattr(socket.socket, "accept", accept)
    monkeypatch.setattr(acceptor, "BACKOFF", 0.01)
    served.check(expected, seconds=AT_ONCE)
    assert left == [0]
    (line,) = served.complaints()
    assert "none left" in line


def test_errors_of_one_connection_are_none_of_the_listener(monkeypatch):
    def accept(self):
        raise OSError(errno.EPROTO, "the connection is broken")

    with transports.get("blocking").listen("127.0.0.1:0") as listener:
        monkeypatch.setattr(socket.socket, "accept", accept)
        assert listener.accept(0.1) is None
        monkeypatch.undo()
        monkeypatch.setattr(
            socket.socket, "accept", lambda _: (_ for _ in ()).throw(OSError(errno.EMFILE, "files"))
        )
        with pytest.raises(ExhaustedError, match=f"{listener.address}: files"):
            listener.accept(0.1)


def test_a_worker_without_a_listener_ends_with_an_error(caplog):
    with transports.get("blocking").listen("127.0.0.1:0") as listener:
        one = worker.Worker(listener, 1)
        listener.close()
        with pytest.raises(dllama.TransportError, match="closed"):
            one.serve()


def test_strangers_give_way_when_no_thread_can_be_started(served, expected, monkeypatch):
    """And one alone, whose thread cannot be started, costs a line."""
    real, room = _thread.start_new_thread, [True]

    def start_new_thread(*arguments):
        if not room[0]:
            raise RuntimeError("can't start new thread")
        return real(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", start_new_thread)
    monkeypatch.setattr(acceptor, "BACKOFF", 0.01)
    with silent(served.address, 1) as (first,):
        assert wait_until(lambda: served._worker._lobby._since, AT_ONCE)
        room[0] = False
        with silent(served.address, 1) as (second,):
            assert first.recv(100)[:6] == b"dllama"
            assert second.recv(100) == b""
    assert [line for line in served.complaints(2) if "start new thread" in line]
    room[0] = True
    served.check(expected, seconds=AT_ONCE)


def vm_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmSize")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="sets limits of another process")
@pytest.mark.parametrize("kind", ["files", "memory"])
def test_idle_strangers_of_a_worker_with_limits_keep_no_root_out(start, expected, kind):
    (process,) = start()
    with contextlib.ExitStack() as stack:
        pid = process._process.pid
        limit, most = (
            (resource.RLIMIT_NOFILE, 24)
            if kind == "files"
            else (resource.RLIMIT_AS, vm_bytes(pid) + (200 << 20))
        )
        resource.prlimit(pid, limit, (most, most))
        stack.enter_context(silent(process.address, 64))
        check_service([process], expected, seconds=AT_ONCE)
    check_service([process], expected, seconds=AT_ONCE)
    assert process.alive()
    assert [line for line in process.complaints() if "connections are slow" in line]
