"""Trials with damaged requests to a server, which must go on as if nothing had come."""

from __future__ import annotations

import json
import random
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bodies import (
    CHAT,
    CHAT_COMPLETION,
    COMPLETION,
    EMBED,
    MESSAGE,
    PROMPT,
    RESPONSE,
    VECTORS,
)
from mutations import damaged, damaged_json
from trials import FORBIDDEN, Fault, Kind, check_text

BODIES: dict[str, Any] = {
    "/v1/responses": RESPONSE,
    "/v1/messages": MESSAGE,
    "/v1/chat/completions": CHAT_COMPLETION,
    "/v1/completions": COMPLETION,
    "/v1/embeddings": {**VECTORS, "dimensions": 256},
    "/api/chat": CHAT,
    "/api/generate": PROMPT,
    "/api/embed": {**EMBED, "dimensions": 256},
    "/tokenize": {"prompt": "a", "add_special_tokens": True},
    "/detokenize": {"tokens": [5, 6]},
}
STARTING = 60.0
ANSWER = 40.0  # seconds that a response may take; some ask for long texts
HEALTH = 5.0  # seconds that /health may take on a busy machine
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
UNAVAILABLE = 503  # where too many wait


class ServerProcess:
    """A process that runs `dllama serve`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._log = folder / "server.log"
        words = ["serve", "--listen", "127.0.0.1:0", "--threads", "1", *options]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dllama", *words],
                stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder,
            )  # fmt: skip
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], STARTING)[0], "no server"
        line = self.process.stdout.readline().strip()
        assert line.startswith("listening at "), self._log.read_text()
        host, _, port = line.rpartition("//")[2].rpartition(":")
        self.address = host, int(port)

    def check(self) -> None:
        """Raise a Fault unless it is healthy and its log has only its own lines."""
        said = exchange(self.address, request("GET", "/health"), HEALTH)
        if status_of(said) != 200:
            raise Fault(f"/health says {said[:300]!r}")
        log = self._log.read_text()
        check_text(log)
        for line in log.splitlines():
            if not line.startswith("dllama: ") or not line.isprintable():
                raise Fault(f"a line of the log: {line[:300]!r}")

    def stop(self) -> None:
        with self.process as process:
            process.kill()


def request(method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    """Build a request after which the server closes the connection."""
    fields = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    fields += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"] if body else []
    return ("\r\n".join(fields) + "\r\n\r\n").encode() + body


def exchange(address: tuple[str, int], data: bytes, seconds: float, half: bool = False) -> bytes:
    """Send data and return all that comes until the server closes the connection.

    Args:
        address: of the server.
        data: what to send.
        seconds: after which it is a Fault that the connection is still open.
        half: whether to close the sending half of the connection.
    """
    said, end = b"", time.monotonic() + seconds
    try:
        with socket.create_connection(address, timeout=seconds) as connection:
            connection.sendall(data)
            if half:
                connection.shutdown(socket.SHUT_WR)
            while got := connection.recv(1 << 16):
                said += got
                connection.settimeout(max(0.01, end - time.monotonic()))
    except TimeoutError:
        raise Fault(f"no end within {seconds:g} s, after {said[-300:]!r}") from None
    except ConnectionError:  # it had enough of this request
        pass
    return said


def status_of(said: bytes) -> int:
    """The status of a response; 0 if there is none."""
    found = STATUS.match(said)
    return int(found[1]) if found else 0


class Http(Kind):
    """Bodies with wrong values, and requests with damage anywhere."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server = ServerProcess(folder, "--queue", "8", "--alias", "m", "--template", "plain")
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + STARTING
        while status_of(exchange(self._server.address, request("GET", "/ready"), HEALTH)) != 200:
            assert time.monotonic() < end, "the server is not ready"
            time.sleep(0.05)

    def trial(self, rng: random.Random) -> bool:
        path, raw = rng.choice([*BODIES]), rng.random() < 0.3
        data = request("POST", path, damaged_json(BODIES[path], rng))
        if raw:
            data = damaged(data, rng, head=200)
        (self.emptied() / "request").write_bytes(data)
        said = exchange(self._server.address, data, ANSWER, half=raw)
        status = status_of(said)
        if not (200 <= status < 500 or status == UNAVAILABLE or (raw and not said)):
            raise Fault(f"{path} says {said[:1000]!r}")
        for word in FORBIDDEN:
            if word.encode() in said:
                raise Fault(f"{path} says {said[:1000]!r}")
        if status >= 400 and b"application/json" in said:
            self._check_error(said)
        if rng.random() < 0.05:
            self._server.check()
        return 200 <= status < 300

    def _check_error(self, said: bytes) -> None:
        """Raise a Fault unless the body of an error is JSON.

        What is behind the length that a damaged request names begins another one, which gets a
        response of its own.
        """
        head, _, body = said.partition(b"\r\n\r\n")
        if length := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
            body = body[: int(length[1])]
        try:
            json.loads(body)
        except ValueError:
            raise Fault(f"an error that is not JSON: {said[:1000]!r}") from None

    def close(self) -> None:
        try:
            self._server.check()
        finally:
            self._server.stop()


KINDS = {"http": Http}
