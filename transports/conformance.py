"""Tests that every transport must pass. Subclass Conformance in a test file and run pytest:

    class TestMine(Conformance):
        transport = MINE

Nothing here needs pytest itself. Every test takes a folder of its own (pytest's tmp_path).
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dllama._kernels.comm.communicator import Communicator
from dllama._kernels.comm.link import Link
from dllama.errors import ConfigError, DllamaError, TransportError, TransportTimeoutError
from dllama.transports import tls
from dllama.transports.base import Transport

SIZES = (1, 2, 4095, 65536, (1 << 20) + 1, 64 << 20)
LIMIT = 20.0  # seconds that anything that works may take
BUSY = 10.0  # seconds that a busy machine may take for what is immediate; less than LIMIT
CONNECT_AND_WAIT = """\
import sys, time
from dllama import transports
link = transports.get(sys.argv[1]).connect(sys.argv[2], 10.0)
link.send(b"here")
time.sleep(60)
"""


class Conformance:
    """Tests of one transport.

    Attributes:
        transport: what is tested.
        encrypted: whether there is TLS on the links, as dllama puts it on those of any transport.
    """

    transport: Transport
    encrypted = False

    def address(self, folder: Path) -> str:
        """Return a free address to listen at."""
        return self.transport.local_address(folder, 1)

    @contextlib.contextmanager
    def pair(self, folder: Path) -> Iterator[tuple[Link, Link]]:
        """Yield both ends of a connection."""
        with self.transport.listen(self.address(folder)) as listener:
            near = self.transport.connect(listener.address, LIMIT)
            far = listener.accept(LIMIT)
            assert far is not None
            with near, far:
                near.timeout = far.timeout = LIMIT
                if self.encrypted:
                    with background(tls.secure, far, False):
                        tls.secure(near, True)
                yield near, far

    def test_bytes_arrive_as_they_were_sent(self, tmp_path: Path) -> None:
        with self.pair(tmp_path) as (near, far):
            before = near.sent_bytes, far.received_bytes
            for size in SIZES:
                data = np.random.default_rng(size).bytes(size)
                found = bytearray(size)
                with background(near.send, data):
                    far.recv_into(found)
                assert found == data
            assert near.sent_bytes - before[0] == far.received_bytes - before[1] == sum(SIZES)

    def test_pieces_of_any_size(self, tmp_path: Path) -> None:
        data = np.random.default_rng(0).bytes(3 << 20)
        cut = random.Random(0)

        def send(link: Link) -> None:
            at = 0
            while at < len(data):
                size = cut.randint(1, 200_000)
                link.send(data[at : at + size])
                at += size

        found = bytearray(len(data))
        with self.pair(tmp_path) as (near, far), background(send, near):
            for at in range(0, len(data), 77_777):
                far.recv_into(memoryview(found)[at : at + 77_777])
        assert found == data

    def test_no_bytes(self, tmp_path: Path) -> None:
        with self.pair(tmp_path) as (near, far):
            before = near.sent_bytes
            near.send(b"")
            far.recv_into(bytearray())
            assert near.sent_bytes == before

    def test_wait_says_whether_bytes_have_come(self, tmp_path: Path) -> None:
        with self.pair(tmp_path) as (near, far):
            assert not far.wait(0.0)
            assert not far.wait(0.05)
            near.send(b"x")
            assert far.wait(LIMIT)
            far.recv_into(bytearray(1))
            assert not far.wait(0.0)
            assert not far.ended()
            near.send(b"y")
            near.close()
            assert far.wait(LIMIT)
            far.recv_into(bytearray(1))
            assert far.wait(LIMIT)
            assert far.ended()

    def test_three_nodes_exchange_at_once(self, tmp_path: Path) -> None:
        """All send more than any buffer holds, so a node must receive while it waits to send."""
        rows, dim = 512, 4096
        for algorithm in ("exchange", "two-step"):
            sums = [np.zeros((rows, dim), np.float32) for _ in range(3)]

            def work(rank: int, links: list[Link | None], algorithm: str, out: Any) -> None:
                communicator = Communicator(
                    links,
                    rank,
                    dim=dim,
                    max_rows=rows,
                    wire="f32",
                    algorithm=algorithm,
                    timeout=LIMIT,
                )
                own = np.full((rows, dim), 10.0**rank, np.float32)
                communicator.all_reduce(own, out[rank])

            with self.mesh(tmp_path, 3) as links:
                threads = [background(work, rank, links[rank], algorithm, sums) for rank in (1, 2)]
                with threads[0], threads[1]:
                    work(0, links[0], algorithm, sums)
            for total in sums:
                np.testing.assert_array_equal(total, np.full((rows, dim), 111.0, np.float32))

    @contextlib.contextmanager
    def mesh(self, folder: Path, nodes: int) -> Iterator[list[list[Link | None]]]:
        """Yield the links between all nodes: links[a][b] is a's link to b."""
        links: list[list[Link | None]] = [[None] * nodes for _ in range(nodes)]
        with contextlib.ExitStack() as stack:
            for a in range(nodes):
                for b in range(a):
                    folder_of_two = folder / f"{time.monotonic_ns()}"
                    folder_of_two.mkdir()
                    near, far = stack.enter_context(self.pair(folder_of_two))
                    links[a][b], links[b][a] = near, far
            yield links

    def test_a_silent_peer_is_given_up(self, tmp_path: Path) -> None:
        with self.pair(tmp_path) as (near, far):
            near.timeout = 0.2
            begin = time.monotonic()
            with raises(TransportTimeoutError, "0.2 s"):
                near.recv_into(bytearray(1))
            assert 0.15 < time.monotonic() - begin < BUSY
            far.send(b"late")
            with raises(TransportTimeoutError, "0.2 s"):
                near.recv_into(bytearray(4))

    def test_a_peer_that_dribbles_is_given_up(self, tmp_path: Path) -> None:
        """What a link is allowed in all counts from when it was said, or from earlier."""
        with self.pair(tmp_path) as (near, far), background(dribble, far):
            begin = time.monotonic()
            near.allow(LIMIT)
            near.recv_into(bytearray(2))
            near.allow(0.3, begin - 0.1)
            with raises(TransportTimeoutError, "not done within 0.3 s"):
                near.recv_into(bytearray(1000))
            assert 0.15 < time.monotonic() - begin < BUSY
            near.close()

    def test_of_two_limits_the_earlier_one_is_named(self, tmp_path: Path) -> None:
        """However late it is when the link looks at them."""
        with self.pair(tmp_path) as (near, _):
            near.timeout = 0.0
            near.allow(0.3, time.monotonic() - LIMIT)
            with raises(TransportTimeoutError, "not done within 0.3 s"):
                near.recv_into(bytearray(1))

    def test_signals_are_heeded(self, tmp_path: Path) -> None:
        def heed(*_: object) -> None:
            raise InterruptedError

        before = signal.signal(signal.SIGALRM, heed)
        try:
            with self.pair(tmp_path) as (near, far):
                for wait in (lambda: near.recv_into(bytearray(1)), lambda: near.wait(LIMIT)):
                    signal.setitimer(signal.ITIMER_REAL, 0.05)
                    begin = time.monotonic()
                    with contextlib.suppress(InterruptedError):
                        wait()
                        raise AssertionError("the signal was not heeded")
                    assert time.monotonic() - begin < BUSY
                far.send(b"x")
                near.recv_into(bytearray(1))
        finally:
            signal.signal(signal.SIGALRM, before)

    @staticmethod
    def _interrupt_later(link: Link) -> None:
        time.sleep(0.1)
        link.interrupt()

    def test_another_thread_ends_a_wait(self, tmp_path: Path) -> None:
        with self.pair(tmp_path) as (near, far):
            with background(self._interrupt_later, near):
                with raises(TransportError, "closed"):
                    near.recv_into(bytearray(1))
                with raises(TransportError, "closed"):
                    far.recv_into(bytearray(1))
            near.close()
            near.interrupt()

    def test_a_peer_that_does_not_read_is_given_up(self, tmp_path: Path) -> None:
        with self.pair(tmp_path) as (near, _):
            near.timeout = 0.2
            with raises(TransportTimeoutError, "sending"):
                near.send(bytearray(256 << 20))

    def test_a_closed_peer_is_an_error_that_stays(self, tmp_path: Path) -> None:
        with self.pair(tmp_path) as (near, far):
            far.send(b"last")
            far.close()
            found = bytearray(4)
            near.recv_into(found)
            assert found == b"last"
            for _ in range(2):
                with raises(TransportError, "closed"):
                    near.recv_into(bytearray(1))
            assert near.failed
            with raises(TransportError, "closed"):
                near.send(b"x")

    def test_a_killed_peer_is_noticed(self, tmp_path: Path) -> None:
        with self.transport.listen(self.address(tmp_path)) as listener:
            words = [sys.executable, "-c", CONNECT_AND_WAIT, self.transport.name, listener.address]
            with subprocess.Popen(words) as process:
                try:
                    link = listener.accept(LIMIT)
                    assert link is not None
                    with link:
                        link.timeout = LIMIT
                        link.recv_into(bytearray(4))
                        process.kill()
                        begin = time.monotonic()
                        with raises(TransportError, ""):
                            link.recv_into(bytearray(1))
                        assert time.monotonic() - begin < BUSY
                finally:
                    process.kill()

    def test_closing_twice_is_allowed(self, tmp_path: Path) -> None:
        listener = self.transport.listen(self.address(tmp_path))
        near = self.transport.connect(listener.address, LIMIT)
        far = listener.accept(LIMIT)
        assert far is not None
        for _ in range(2):
            near.close()
            far.close()
            listener.close()
        with raises(TransportError, ""):
            listener.accept(0.01)
        with raises(TransportError, "closed"):
            near.send(b"x")

    def test_nobody_connects(self, tmp_path: Path) -> None:
        with self.transport.listen(self.address(tmp_path)) as listener:
            begin = time.monotonic()
            assert listener.accept(0.05) is None
            assert time.monotonic() - begin < BUSY

    def test_nobody_listens(self, tmp_path: Path) -> None:
        with self.transport.listen(self.address(tmp_path)) as listener:
            address = listener.address
        with raises(TransportError, "connecting to"):
            self.transport.connect(address, 0.5)

    def test_an_address_in_use(self, tmp_path: Path) -> None:
        with self.transport.listen(self.address(tmp_path)) as listener:
            with raises(TransportError, "listening at"):
                self.transport.listen(listener.address)
            self.transport.connect(listener.address, LIMIT).close()

    def test_malformed_addresses(self, tmp_path: Path) -> None:
        for address in ("", "nowhere", "1:2:3", "host:port", "unix:relative"):
            with raises(ConfigError, "address is"):
                self.transport.listen(address)
            with raises(ConfigError, "address is"):
                self.transport.connect(address, 1.0)

    def test_a_connection_is_adopted(self, tmp_path: Path) -> None:
        with self.pair(tmp_path) as (near, far), tls.adopt(self.transport, near) as adopted:
            assert near.failed
            adopted.timeout = LIMIT
            adopted.send(b"still here")
            found = bytearray(10)
            far.recv_into(found)
            assert found == b"still here"


def dribble(link: Link) -> None:
    """Send a byte every now and then until the other end has gone."""
    with contextlib.suppress(TransportError):
        while True:
            link.send(b"x")
            time.sleep(0.01)


@contextlib.contextmanager
def background(work: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """Run `work` in a thread meanwhile; its error is raised at the end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work(*arguments)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(LIMIT)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def raises(kind: type[DllamaError], words: str) -> Iterator[None]:
    """Expect an error whose message contains these words."""
    found: DllamaError | None = None
    try:
        yield
    except kind as error:
        found = error
    assert found is not None, f"no {kind.__name__}"
    assert words in str(found), f"{found} lacks {words!r}"
