"""Trials with damage to what a root and a worker send each other, and to what strangers send."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from pathlib import Path

from failing import AT_ONCE, IDS, WorkerProcess
from hostile import GREETING, SOON, TIMEOUT, Between, Cut, frame, talk
from mutations import damaged, damaged_json
from trials import Fault, Kind, accepted, check_text

import dllama
from dllama.cluster.protocol import HEADER, HELLO
from dllama.cluster.protocol import Kind as Message

UNUSABLE = "logits are not usable"  # what damage to numbers may lead to
SILENCE = 8.0  # seconds that a worker may wait for the rest of a greeting


class WithWorker(Kind):
    """Trials that share a worker, which must serve after each."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.worker = WorkerProcess(folder, 1, "blocking", "", ())
        self.address = self.worker.address
        with dllama.LLM(threads=1) as llm:
            self._expected = llm.eval(IDS)

    def check_service(self) -> None:
        """Raise a Fault unless the worker soon serves a root with the right logits."""
        end = time.monotonic() + TIMEOUT + AT_ONCE
        while True:
            try:
                with dllama.LLM(workers=[self.address], threads=1, timeout=AT_ONCE) as llm:
                    error = abs(llm.eval(IDS) - self._expected).max()
                break
            except dllama.ProtocolError as refusal:
                if "serves another root" not in str(refusal) or time.monotonic() > end:
                    raise Fault(f"then the worker does not serve: {refusal}") from refusal
                time.sleep(0.01)
            except dllama.DllamaError as failure:
                raise Fault(f"then the worker does not serve: {failure}") from failure
        if not error < 0.1 * self._expected.std():
            raise Fault(f"then the logits are wrong by {error}")

    def close(self) -> None:
        try:
            if not self.worker.alive():
                raise Fault("the worker has ended")
            for line in self.worker.complaints():
                check_text(line)
                if not line.startswith("dllama: ") or not line.isprintable():
                    raise Fault(f"a line of the log: {line[:300]!r}")
        finally:
            self.worker.stop()


class Sessions(WithWorker):
    """Sessions in which a proxy damages one message, or cuts, delays or repeats it."""

    MESSAGES = 60  # of a session, among which the damaged one is

    def trial(self, rng: random.Random) -> bool:
        at, seen = rng.randrange(self.MESSAGES), iter(range(1 << 30))

        def change(_: str, kind, content: bytes) -> object:
            return self._changed(rng, kind, content) if next(seen) == at else None

        begin = time.monotonic()
        with Between(self.address, change) as between:
            good = accepted(
                lambda: talk(between.address), f"worker 1 ({between.address})", UNUSABLE,
            )  # fmt: skip
        seconds = time.monotonic() - begin
        if seconds > 4 * TIMEOUT + AT_ONCE:
            raise Fault(f"it took {seconds:.1f} s")
        self.check_service()
        return good

    def _changed(self, rng: random.Random, kind, content: bytes) -> object:
        whole = content if isinstance(kind, str) else frame(int(kind), content)
        choice = rng.randrange(5)
        if choice == 0:
            return Cut(rng.randrange(len(whole) + 1))
        if choice == 1:
            time.sleep(rng.choice([0.01, 0.1, 2 * TIMEOUT]))
            return None
        if choice == 2:
            return whole * 2
        if choice == 3 and content[:1] == b"{":
            return frame(int(kind), damaged_json(json.loads(content), rng))
        return damaged(whole, rng, head=64)


class Strangers(WithWorker):
    """Connections to a worker that begin with nonsense."""

    def trial(self, rng: random.Random) -> bool:
        kind = rng.choice([*Message, 0, 99])
        content = rng.choice([b"", b"{}", rng.randbytes(50), damaged_json(JOIN, rng)])
        length = rng.choice([None, None, 0, 1, 1 << 20, (1 << 32) - 1])
        data = damaged(GREETING, rng) if rng.random() < 0.3 else GREETING
        data += frame(kind, content, length)
        if rng.random() < 0.3:
            data = damaged(data, rng)
        (self.emptied() / "bytes").write_bytes(data)
        said = self._hear(data)
        if len(said) > 1 << 20:
            raise Fault(f"it said {len(said)} bytes")
        if rng.random() < 0.02:
            self.check_service()
        reply = said[HELLO.size : HELLO.size + HEADER.size]
        return len(reply) == HEADER.size and HEADER.unpack(reply)[0] != Message.ERROR

    def _hear(self, data: bytes) -> bytes:
        host, port = self.address.split(":")
        said = b""
        with socket.create_connection((host, int(port)), timeout=SILENCE + SOON) as connection:
            try:
                connection.sendall(data)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                while got := connection.recv(1 << 16):
                    said += got
            except ConnectionError:
                pass
            except TimeoutError:
                raise Fault(f"no end {SILENCE + SOON:g} s after {data[:80]!r}") from None
        return said

    def close(self) -> None:
        try:
            self.check_service()
        finally:
            super().close()


JOIN = {
    "session": "00" * 16, "name": "x", "rank": 1, "addresses": ["", "127.0.0.1:1"], "threads": 1,
    "transport": "blocking", "header": "cdab000a08000000", "weights": "", "shared": False,
    "config": {"seq_len": 64, "batch": 8, "logits": 8, "contexts": 1, "buffer": "f32",
               "all_reduce": "auto", "timeout": 0.5, "shares": [1.0, 1.0]},
}  # fmt: skip
KINDS = {"sessions": Sessions, "strangers": Strangers}
