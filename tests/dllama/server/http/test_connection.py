"""Connections: silent ones keep nobody out, and those that are stuck end."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import pytest
from serving import http

from dllama.server.http import connection
from dllama.server.http.connection import Lobby

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def connected(server) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


def wait_closed(one: socket.socket) -> None:
    """Read until the server closes a connection; TimeoutError if it does not."""
    with suppress(ConnectionError):
        while one.recv(9999):
            pass


@pytest.mark.parametrize("begun", [b"", GET[:-2], POST + b"Content-Length: 9\r\n\r\n1234"])
def test_silent_connections_make_room(server, begun, monkeypatch):
    monkeypatch.setattr(connection, "MAX_WAITING", 16)
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(server)) for _ in range(16)]
        for one in silent:
            one.sendall(begun)
        body = {"prompt": "a", "max_tokens": 1}
        assert http(f"{server.url}/v1/completions", body)[0] == 200
        wait_closed(silent[0])
        silent[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            silent[-1].recv(1)


def test_headers_that_do_not_come_in_time(server, monkeypatch):
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.2)
    with connected(server) as first, connected(server) as second:
        second.sendall(GET)
        assert second.recv(9999).startswith(b"HTTP/1.1 200")
        for one in (first, second):
            one.sendall(b"G")  # does not begin the time again
            wait_closed(one)


def test_a_client_that_does_not_read_loses_its_connection(server, monkeypatch):
    monkeypatch.setattr(connection, "STUCK_SECONDS", 0.2)
    with connected(server) as one:
        one.settimeout(0.1)
        page = GET.replace(b"/health", b"/") * 100
        with pytest.raises(ConnectionError):
            send_for_ever(one, page)


def send_for_ever(one: socket.socket, data: bytes) -> None:
    """Send as much as a connection takes."""
    while True:
        with suppress(TimeoutError):
            one.sendall(data)


@pytest.mark.parametrize("length", [b"Content-Length: 6\r\n", b"Content-Length: 0\r\n"])
def test_a_request_with_two_lengths_is_refused_and_closed(server, length):
    with connected(server) as one:
        one.sendall(POST + b"Transfer-Encoding: chunked\r\n" + length + b"\r\n0\r\n\r\n" + GET)
        said = b""
        while part := one.recv(9999):
            said += part
    assert said.startswith(b"HTTP/1.1 400")
    assert said.count(b"HTTP/1.1") == 1
    assert b"both Transfer-Encoding and Content-Length" in said


class Waiting:
    """What a lobby knows of a connection."""

    def __init__(self, lobby: Lobby, network: str) -> None:
        self.lobby, self.network, self.dropped = lobby, network, False
        lobby.enter(self)

    def drop(self) -> None:
        self.dropped = True
        self.lobby.leave(self)


def test_the_address_with_most_connections_loses_its_oldest(monkeypatch):
    monkeypatch.setattr(connection, "MAX_WAITING", 4)
    lobby = Lobby()
    waiting = [Waiting(lobby, network) for network in "aabbbb"]
    assert [one.dropped for one in waiting] == [False, False, True, True, False, False]
