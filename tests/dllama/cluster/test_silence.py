"""Nodes that fall silent: at the start, while others get weights, and when all is idle."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time

import pytest
from failing import CALM, SOON, TIMEOUT, Later, addresses, check_service, name, wait_until
from hostile import GREETING, frame, read
from namespaces import need_namespaces, network

import dllama
from dllama.cluster import forming
from dllama.cluster.protocol import HELLO, Kind
from dllama.cluster.weights.weight_transfer import send_weights
from dllama.errors import TransportTimeoutError
from dllama.model_path import DEMO

pytestmark = pytest.mark.slow

IDLE = """
import sys, time, dllama
with dllama.LLM(sys.argv[1], workers=[sys.argv[2]], threads=1, timeout=float(sys.argv[3])) as llm:
    llm.eval([1, 2, 3])
    print("idle", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def dribbling(first: bytes):
    """Yield the address of a listener that says something, and then a zero now and then."""
    ended = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as connection:
            read(connection, HELLO.size)
            connection.sendall(first)
            while not ended.wait(0.05):
                connection.sendall(b"\0")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


@pytest.mark.parametrize("first", [b"", GREETING + frame(Kind.ACCEPT, b"", 100000)])
def test_a_worker_that_dribbles_at_the_start_is_given_up(first):
    with dribbling(first) as address:
        begin = time.monotonic()
        with pytest.raises(TransportTimeoutError, match=r"not done within 0\.4 s"):
            dllama.LLM(workers=[address], threads=1, shares=[1, 1], timeout=0.4)
        assert time.monotonic() - begin < 0.4 + SOON


def test_a_worker_that_stops_while_another_one_gets_weights_is_named(start, monkeypatch):
    """The other one gets them so slowly that it takes longer than the timeout."""
    first, second = start(2)
    begun = threading.Event()

    def slowly(link, model, graph, progress, *others):
        def wait(size: int) -> None:
            begun.set()
            time.sleep(0.15 if "worker 1" in link.peer else 0.0)

        send_weights(link, model, graph, wait, *others)

    def freeze() -> None:
        assert begun.wait(CALM)
        second.signal(signal.SIGSTOP)
        frozen.append(time.monotonic())

    frozen: list[float] = []
    monkeypatch.setattr(forming, "send_weights", slowly)
    with Later(0.5, freeze):
        with pytest.raises(TransportTimeoutError, match=name(2, second.address)):
            dllama.LLM(workers=addresses([first, second]), threads=1, timeout=TIMEOUT)
        assert time.monotonic() - frozen[0] < TIMEOUT + SOON
    second.signal(signal.SIGCONT)


def test_a_root_that_is_idle_for_long_keeps_its_workers(start, expected):
    """Many times the timeout: only one that has gone sets them free."""
    workers = start(1)
    with dllama.LLM(workers=addresses(workers), threads=1, timeout=0.2, buffer="f32") as llm:
        before = llm.eval([1, 2, 3])
        time.sleep(1.0)
        llm.reset()
        assert (llm.eval([1, 2, 3]) == before).all()
    check_service(workers, expected)


def test_an_idle_worker_whose_root_has_lost_its_power_is_soon_free(tmp_path):
    """The cable is pulled out, so that neither an end nor anything else comes."""
    need_namespaces()
    timeout = 1.0
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef")
    python, log = [sys.executable, "-m", "dllama"], tmp_path / "log"
    with network(2) as (one, other), log.open("w") as errors:
        address = f"{other.address()}:9999"
        words = [*python, "worker", "--listen", address, "--threads", "1", "--secret-file", secret]
        worker = other.popen(words, stdout=-1, stderr=errors)
        assert worker.stdout.readline().startswith("listening")
        script = IDLE.replace("timeout=", f"secret_file={str(secret)!r}, timeout=")
        root = one.popen(
            [sys.executable, "-c", script, DEMO, address, timeout], stdin=-1, stdout=-1
        )
        assert root.stdout.readline() == "idle\n"
        one.set_link(up=False)
        begin = time.monotonic()
        assert wait_until(lambda: "ended" in log.read_text(), 2 * timeout + SOON)
        assert time.monotonic() - begin > timeout / 2  # not since the root has left
        worker.kill()
        root.kill()
        for process in (worker, root):
            process.communicate()
