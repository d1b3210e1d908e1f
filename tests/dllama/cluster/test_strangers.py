"""Peers that are not nodes, have another version, or lack the secret are named and refused."""

from __future__ import annotations

import re
import socket
import time

import pytest
from failing import AT_ONCE, CALM, SOON, check_service, name, wait_until
from hostile import stranger

import dllama
from dllama.cluster import protocol
from dllama.errors import TransportTimeoutError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("greeting", "error", "words"),
    [
        (None, TransportTimeoutError, "not done within 0.5 s"),
        (protocol.MAGIC[:5], TransportTimeoutError, "not done within 0.5 s"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", dllama.ProtocolError, "does not speak dllama's"),
        (bytes(100), dllama.ProtocolError, "does not speak dllama's"),
        (
            protocol.HELLO.pack(protocol.MAGIC, protocol.VERSION + 1, 0, bytes(16)),
            dllama.ProtocolError,
            f"speaks version {protocol.VERSION + 1} of the protocol",
        ),
    ],
    ids=["silent", "half a hello", "http", "zeros", "version"],
)
def test_stranger_in_place_of_a_worker_is_named(start, expected, greeting, error, words):
    (worker,) = start()
    with stranger(greeting) as address:
        begin = time.monotonic()
        with pytest.raises(error, match=f"{name(2, address)}.*{words}") as held:
            dllama.LLM(workers=[worker.address, address], threads=1, shares=[1, 1, 1], timeout=0.5)
        assert time.monotonic() - begin < 0.5 + SOON
    check_service([worker], expected, seconds=AT_ONCE)
    assert held.value is not None


def test_root_of_another_version_is_refused_with_one_line(start, expected):
    (worker,) = start()
    host, port = worker.address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(protocol.HELLO.pack(protocol.MAGIC, 99, 0, bytes(16)))
        while connection.recv(1 << 16):
            pass
    check_service([worker], expected)
    (line,) = worker.complaints()
    assert re.match(r"dllama: warning: refused: 127\.0\.0\.1:\d+ speaks version 99", line)
    assert line.count("127.0.0.1") == 1


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ("right", "", "asks for a secret"),
        ("", "right", "has no secret"),
        ("right", "wrong", "has another secret"),
    ],
    ids=["missing here", "missing there", "another"],
)
@pytest.mark.parametrize("way", ["environment", "file"])
def test_secrets_that_do_not_match(
    start, expected, tmp_path, monkeypatch, theirs, ours, words, way
):
    file = tmp_path / "secret"
    file.write_text(f" {ours}\n")
    if way == "file" and theirs:
        (tmp_path / "theirs").write_text(theirs)
        (worker,) = start(options=["--secret-file", str(tmp_path / "theirs")])
    else:
        (worker,) = start(secret=theirs)
    options = {}
    if way == "file" and ours:
        options = {"secret_file": file}
    elif ours:
        monkeypatch.setenv("DLLAMA_SECRET", ours)
    begin = time.monotonic()
    with pytest.raises(dllama.AuthenticationError, match=f"{name(1, worker.address)} {words}"):
        dllama.LLM(workers=[worker.address], threads=1, timeout=CALM, **options)
    assert time.monotonic() - begin < AT_ONCE
    assert wait_until(lambda: len(worker.complaints()) == 1, AT_ONCE)
    file.write_text(f"{theirs}\n")
    monkeypatch.delenv("DLLAMA_SECRET", raising=False)
    check_service([worker], expected, secret_file=file if theirs else None)
    assert len(worker.complaints()) == 1
