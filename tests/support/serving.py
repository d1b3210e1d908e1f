"""A server in threads of the test process, whose model waits at a gate before every pass."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import openai

import dllama
from dllama.server.app import make_app
from dllama.server.desk import Desk
from dllama.server.http.guard import Access
from dllama.server.http.service import HttpServer, bind, url_of
from dllama.server.queue.dispatcher import Dispatcher
from dllama.server.queue.metrics import Metrics
from dllama.server.served import Served

LIMIT = 60.0  # seconds that anything may take on a busy machine


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another thread or process fulfils."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class Gate:
    """Open, or shut after a number of passes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left: int | None = None

    def open(self) -> None:
        self._set(None)

    def shut(self, after: int = 0) -> None:
        self._set(after)

    def _set(self, left: int | None) -> None:
        with self._changed:
            self._left = left
            self._changed.notify_all()

    def wait(self, cancelled: Callable[[], bool]) -> None:
        """Wait until one more pass may go through, or a text is cancelled."""
        with self._changed:
            while self._left == 0 and not cancelled():
                self._changed.wait(0.01)
            if self._left:
                self._left -= 1


class GatedLLM(dllama.LLM):
    """A model that waits at a gate."""

    def __init__(self, gate: Gate, **options) -> None:
        super().__init__(**{"threads": 1, **options})
        self._gate = gate
        self.texts = []

    def submit(self, *args, **options):
        self.texts.append(super().submit(*args, **options))
        return self.texts[-1]

    def step(self) -> None:
        self.texts = [text for text in self.texts if not text.done]
        self._gate.wait(lambda: any(text.cut for text in self.texts))
        super().step()


class Server:
    """All parts of a running server."""

    def __init__(
        self, *, key=None, limit=32, grace=LIMIT, template=None, origins=(), **options
    ) -> None:
        self.gate = Gate()
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(
            lambda: GatedLLM(self.gate, **options), self.metrics, limit, grace
        )
        self.desk = Desk(self.dispatcher)
        self._listener: socket.socket = bind("127.0.0.1:0")
        self._started = threading.Event()
        self._access, self._template = Access(key, True, origins), template
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(LIMIT)
        assert self._error is None, self._error
        self.url = url_of(self._listener)

    def stop(self) -> None:
        self.gate.open()
        self.dispatcher.stop()
        self._thread.join(LIMIT)

    def count(self, name: str) -> float:
        """Return the value of a metric without labels."""
        lines = self.metrics.text().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    def _run(self) -> None:
        with self._listener:
            app = make_app(self.desk, self.dispatcher, self.metrics, self._access)
            http = HttpServer(app, self._listener, self.dispatcher.stop)
            http.start()
            try:
                self._load()
                self.dispatcher.run()
            finally:
                http.stop()
                self.dispatcher.close()

    def _load(self) -> None:
        try:
            self.dispatcher.load(
                lambda llm: self.desk.open(Served.of(llm, {"temperature": 0.0}, self._template))
            )
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._started.set()


@contextmanager
def serving(**options) -> Iterator[Server]:
    """Run a server during a `with` block."""
    server = Server(**options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def connect(url: str, key: str = "none") -> openai.OpenAI:
    """OpenAI's client for a server."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=LIMIT)


def http(url, body=None, **headers):
    """Send a request without a client library; return status, headers and body of the response."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **headers}
    asked = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(asked, timeout=LIMIT) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()
