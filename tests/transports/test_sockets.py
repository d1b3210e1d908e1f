"""What socket transports share."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from dllama import transports
from dllama.errors import TransportError, TransportTimeoutError
from dllama.transports.blocking import BlockingLink
from dllama.transports.sockets import connect_tcp, network_of

CALM = 20.0  # a timeout that nothing should reach
SOON = 2.5  # seconds that a busy machine may add to any time limit

LEAVING = """
import ctypes, sys, threading, time
from dllama import transports
blocking = transports.get("blocking")
for _ in range(5):  # at several moments, one of which is the wrong one
    listener = blocking.listen("127.0.0.1:0")
    link = blocking.connect(listener.address, 20.0)
    link.timeout = 20.0
    listener.accept(20.0).detach().detach()  # open as long as the process lives
    recv = sys.argv[1] == "recv"
    wait, argument = (link.recv_into, bytearray(1)) if recv else (link.wait, 20.0)
    threading.Thread(target=wait, args=[argument], daemon=True).start()
    time.sleep(0.02)
libc = ctypes.CDLL(None)
libc.on_exit(libc.sleep, None)  # sleeps for the exit status, once Python has ended
sys.exit(1)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="on_exit is a function of glibc")
@pytest.mark.parametrize("wait", ["recv", "wait"])
def test_a_thread_that_waits_does_not_crash_a_process_that_ends(wait):
    done = subprocess.run([sys.executable, "-c", LEAVING, wait], timeout=CALM)
    assert done.returncode == 1


def test_the_network_of_an_address():
    assert network_of("10.1.2.3") == network_of("10.1.2.3:99") == "10.1.2.3"
    assert network_of("2001:db8::1") == network_of("[2001:db8::ffff:2]:99") == "2001:db8::/64"
    assert network_of("[::ffff:10.1.2.3]:99") == "10.1.2.3"
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("unix:/run/x.sock") == "unix:/run/x.sock"
    assert network_of("") == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others do not tell it")
def test_the_round_trip_of_a_link(tmp_path):
    for name, known in (("blocking", True), ("unix", False)):
        transport = transports.get(name)
        with transport.listen(transport.local_address(tmp_path, 0)) as listener:
            link = transport.connect(listener.address, CALM)
        assert (link.round_trip is not None) == known
        assert not known or 0 < link.round_trip < CALM
        link.close()
        assert link.round_trip is None


def test_a_silent_name_server_takes_no_longer_than_the_timeout(monkeypatch):
    ended = threading.Event()

    def silent(host, port, *_, flags=0, **__):
        if not flags:
            ended.wait(CALM)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    begin = time.monotonic()
    with pytest.raises(TransportTimeoutError, match=r"nowhere:9: no reply within 0\.2 s"):
        connect_tcp("nowhere:9", 0.2, BlockingLink)
    assert time.monotonic() - begin < 0.2 + SOON
    ended.set()
    with pytest.raises(TransportError, match="nowhere:9: no such name"):
        connect_tcp("nowhere:9", CALM, BlockingLink)


def test_all_addresses_of_a_host_share_the_timeout(monkeypatch):
    """And one that works counts, whatever stands before it."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        with contextlib.ExitStack() as stack:
            for _ in range(3):  # its queue is full
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(deaf.getsockname())
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            many = [(*kind, deaf.getsockname())] * 20
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: many)
            begin = time.monotonic()
            with pytest.raises(TransportTimeoutError, match="no reply within"):
                connect_tcp("deaf:9", 0.3, BlockingLink)
            assert time.monotonic() - begin < 0.3 + SOON
        closed = (*kind, ("127.0.0.1", 1))
        both = [closed, (*kind, server.getsockname())]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
        connect_tcp("two:9", CALM, BlockingLink).close()
