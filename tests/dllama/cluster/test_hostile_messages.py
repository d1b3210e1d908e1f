"""Workers and roots that send nonsense: one line or one error each, no hang, no memory for it."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import socket
import struct
import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import dllama
from dllama import transports
from dllama.cluster import protocol, worker
from dllama.cluster.messages import RUN
from dllama.cluster.protocol import HEADER, HELLO, Kind, Want
from dllama.sampling.remote import TOP

IDS = [5, 9, 17, 300, 41, 2]
pytestmark = pytest.mark.slow

TIMEOUT = 0.6  # of sessions in which a node may wait in vain
GRACE = 1.0  # seconds that the two sides have to hang up
CALM = 5.0  # of sessions in which each has its answer at once
SOON = 2.5  # seconds that a busy machine may add to any time limit
HUGE = (1 << 32) - 1
LITTLE = 32 << 20  # bytes: less than any huge message, more than a session needs
OPTIONS = {"threads": 1, "timeout": TIMEOUT, "buffer": "f32", "max_seq_len": 64}
GREETING = HELLO.pack(protocol.MAGIC, protocol.VERSION, 0, bytes(16))
ROOT, WORKER = "root", "worker"


def frame(kind: int, content: bytes | dict | list, length: int | None = None) -> bytes:
    """A message; length: what its header says, if not the truth."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return HEADER.pack(kind, len(raw) if length is None else length) + raw


class Served:
    """A worker of this process, at an address."""

    def __init__(self, caplog) -> None:
        self._caplog = caplog
        self._listener = transports.get("blocking").listen("127.0.0.1:0")
        self._worker = worker.Worker(self._listener, 1)
        self._thread = threading.Thread(target=self._worker.serve)
        self._thread.start()
        self.address = self._listener.address

    def stop(self) -> None:
        self._worker.stop()
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive()

    def complaints(self, count: int = 1, seconds: float = TIMEOUT + SOON) -> list[str]:
        """Warnings and worse, when there are so many of them; none has a traceback."""
        end = time.monotonic() + seconds
        while len(found := self._found()) < count and time.monotonic() < end:
            time.sleep(0.005)
        assert all(record.exc_info is None for record in found), found
        return [record.getMessage() for record in found]

    def _found(self) -> list[logging.LogRecord]:
        return [r for r in self._caplog.records if r.levelno >= logging.WARNING]

    def check(self, expected, seconds: float = TIMEOUT + SOON) -> None:
        """It serves a root correctly, soon if it has not yet noticed the end of another."""
        with root_of(self.address, seconds) as llm:
            error = np.abs(llm.eval(IDS) - expected).max()
        assert error < 0.05 * expected.std()

    def hear(self, data: bytes) -> bytes:
        """What it says to a stranger who says something and waits for the end."""
        host, port = self.address.split(":")
        said = b""
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection((host, int(port)), timeout=10) as connection,
        ):
            connection.sendall(data)
            with contextlib.suppress(OSError):  # it may have hung up already
                connection.shutdown(socket.SHUT_WR)
            while got := connection.recv(1 << 16):
                said += got
        return said


def root_of(address: str, seconds: float = TIMEOUT + SOON, **options) -> dllama.LLM:
    """A root that waits some seconds for a worker that has not noticed the end of another."""
    end = time.monotonic() + seconds
    while True:
        try:
            return dllama.LLM(workers=[address], **{**OPTIONS, "timeout": 5.0, **options})
        except dllama.ProtocolError as refusal:
            if "serves another root" not in str(refusal) or time.monotonic() > end:
                raise
            time.sleep(0.005)


class Between:
    """Passes on what a root and a worker say to each other.

    change(sender, kind, content) gives the bytes to pass on instead of a message, None to pass
    it on as it is; b"" and an end with CUT. Kinds are "hello", those of messages, and "data" for
    what nodes exchange in a pass.
    """

    def __init__(self, target: str, change) -> None:
        self._target = target
        self._change = change
        self._lock = threading.Lock()
        self._sockets, self._threads = [], []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._server.getsockname())
        self._start(self._serve)

    def _start(self, target, *arguments) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _serve(self) -> None:
        host, port = self._target.split(":")
        with contextlib.suppress(OSError):
            while True:
                near = self._server.accept()[0]
                far = socket.create_connection((host, int(port)))
                self._sockets += [near, far]
                raw = threading.Event()
                self._start(self._pump, near, far, ROOT, raw)
                self._start(self._pump, far, near, WORKER, raw)

    def _pump(self, source, sink, sender: str, raw: threading.Event) -> None:
        try:
            self._pass(sink, sender, "hello", read(source, HELLO.size))
            last = False
            while not last:
                kind, length = HEADER.unpack(read(source, HEADER.size))
                content = read(source, length)
                if kind == Kind.PEER:
                    raw.set()
                last = raw.is_set()  # PEER and its answer are the only messages of a data link
                self._pass(sink, sender, kind, content)
            while data := source.recv(1 << 16):
                self._pass(sink, sender, "data", data)
            raise EOFError
        except EOFError:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _pass(self, sink, sender: str, kind, content: bytes) -> None:
        true = content if isinstance(kind, str) else frame(kind, content)
        with self._lock:
            changed = self._change(sender, kind, content)
        if isinstance(changed, Cut):
            sink.sendall(true[: changed.at])
            for end in self._sockets:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            raise ConnectionError("cut")
        sink.sendall(true if changed is None else changed)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        latest = time.monotonic() + GRACE  # to pass on what was said last
        for thread in self._threads:
            thread.join(max(0, latest - time.monotonic()))
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for end in self._sockets:
            end.close()


class Cut:
    """End both connections after some bytes of a message."""

    def __init__(self, at: int) -> None:
        self.at = at


def read(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        got = source.recv(count - len(data))
        if not got:
            raise EOFError
        data += got
    return data


def instead(sender: str, kind, replacement, skip: int = 0):
    """A change of Between: one message of a kind, after some others of it, is another."""
    seen = iter(range(1 << 30))

    def change(who, what, content):
        if who == sender and what == kind and next(seen) == skip:
            return replacement
        return None

    return change


def talk(address: str, **options) -> None:
    """All that a root ever asks of a worker."""
    sampling = {"temperature": 0.8, "top_k": 5, "repetition_penalty": 1.1, "seed": 3}
    with root_of(address, **{"timeout": TIMEOUT, **options}) as llm:
        llm.eval(IDS)
        for _ in llm.generate(IDS, 3, **sampling, ignore_eos=True):
            pass
        for _ in llm.generate([1], 2, temperature=0.8, seed=3, ignore_eos=True):
            pass


def root_error(served: Served, change, timeout: float = TIMEOUT) -> str:
    """The error of a root that a change brings about; it names the worker and comes in time."""
    with Between(served.address, change) as between:
        begin = time.monotonic()
        with pytest.raises(dllama.DllamaError) as error:
            talk(between.address, timeout=timeout)
        assert time.monotonic() - begin < 2 * timeout + SOON
        assert f"worker 1 ({between.address})" in str(error.value)
        assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def served(caplog, monkeypatch):
    monkeypatch.delenv("DLLAMA_SECRET", raising=False)
    monkeypatch.setattr(worker, "GREETING", 2.0)
    monkeypatch.setattr(worker, "TICK", 0.02)
    caplog.set_level(logging.WARNING, "dllama.worker")
    one = Served(caplog)
    yield one
    one.stop()


@pytest.fixture(scope="module")
def expected():
    """Logits of one node."""
    with dllama.LLM(threads=1) as llm:
        return llm.eval(IDS)


@pytest.fixture(scope="module")
def conversation():
    """(sender, kind, content) of all messages of a good session, in order."""
    messages = []

    def record(sender, kind, content):
        messages.append((sender, kind, content))

    listener = transports.get("blocking").listen("127.0.0.1:0")
    peer = worker.Worker(listener, 1)
    thread = threading.Thread(target=peer.serve)
    thread.start()
    with listener, Between(listener.address, record) as between:
        talk(between.address, timeout=CALM)
        peer.stop()
        thread.join(10)
    assert {kind for _, kind, _ in messages} >= set(Kind) - {Kind.ERROR}
    return messages


@pytest.fixture(scope="module")
def invitation(conversation):
    """The content of a good JOIN, with a short timeout."""
    content = next(content for _, kind, content in conversation if kind == Kind.JOIN)
    join = json.loads(content)
    join["config"]["timeout"] = 0.2
    return join


def test_the_proxy_changes_nothing_by_itself(served, expected):
    with Between(served.address, lambda *_: None) as between:
        talk(between.address, timeout=CALM)
    served.check(expected)
    assert served.complaints(0) == []


# What strangers say to a worker.


def test_random_bytes_to_a_worker(served, expected, rng):
    for size in (0, 1, 7, 8, 27, 28, 100, 5000):
        served.hear(rng.bytes(size))
        served.hear(GREETING + rng.bytes(size))
    assert len(served.complaints(16)) == 16
    served.check(expected)


@pytest.mark.parametrize("kind", [0, *Kind, 13, HUGE])
def test_huge_first_message(served, expected, kind):
    tracemalloc.start()
    try:
        served.hear(GREETING + HEADER.pack(kind, HUGE) * 3)
        assert tracemalloc.get_traced_memory()[1] < LITTLE
    finally:
        tracemalloc.stop()
    assert len(served.complaints()) == 1
    served.check(expected)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * 100000, b'{"a":' * 50000, b"NaN"],
)
@pytest.mark.parametrize("kind", [Kind.JOIN, Kind.PEER])
def test_first_message_that_is_no_object(served, kind, content):
    answer = served.hear(GREETING + frame(kind, content))
    assert HEADER.unpack(answer[HELLO.size : HELLO.size + HEADER.size])[0] == Kind.ERROR
    assert len(served.complaints()) == 1


def test_silence_and_half_a_greeting_are_given_up(served, expected, monkeypatch):
    monkeypatch.setattr(worker, "GREETING", 0.3)
    host, port = served.address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as one,
        socket.create_connection((host, int(port)), timeout=5) as two,
    ):
        two.sendall(GREETING + HEADER.pack(Kind.JOIN, 100))
        for connection in (one, two):
            while connection.recv(1 << 16):
                pass
    assert len(served.complaints(2)) == 2
    served.check(expected)


@pytest.mark.parametrize("session", ["", "x", None, 7, [], {}])
@pytest.mark.parametrize("rank", [0, -1, 10**30, True, "0", None, 1.5, []])
def test_data_link_for_no_session(served, session, rank, monkeypatch):
    monkeypatch.setattr(worker, "GREETING", 0.3)
    answer = served.hear(GREETING + frame(Kind.PEER, {"session": session, "rank": rank}))
    assert HEADER.unpack(answer[HELLO.size : HELLO.size + HEADER.size])[0] == Kind.ERROR
    assert len(served.complaints()) == 1


def test_data_link_for_a_session_that_has_ended(served):
    """A node that was late is not a second line of the log for one root."""
    sessions = []

    def remember(sender, kind, content):
        if kind == Kind.JOIN:
            sessions.append(json.loads(content)["session"])

    with Between(served.address, remember) as between, root_of(between.address):
        pass
    (session,) = sessions
    answer = served.hear(GREETING + frame(Kind.PEER, {"session": session, "rank": 0}))
    assert len(answer) == HELLO.size  # and the end
    assert served.complaints(0) == []


def changed(join: dict, path: tuple[str, ...], value) -> dict:
    """A JOIN with another value of a field."""
    join = copy.deepcopy(join)
    inner = join
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return join


def check_refusal(served: Served, join: dict) -> None:
    """A JOIN is answered by an ERROR and a line of the log."""
    served._caplog.clear()
    said = served.hear(GREETING + frame(Kind.JOIN, join))[HELLO.size :]
    kinds = []
    while said:
        kind, length = HEADER.unpack(said[: HEADER.size])
        kinds.append(kind)
        said = said[HEADER.size + length :]
    assert kinds[-1] == Kind.ERROR
    assert len(served.complaints()) == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@hypothesis_settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_fields_of_join_of_wrong_types(served, invitation, data):
    paths = [(name,) for name in sorted(invitation)]
    paths += [("config", name) for name in sorted(invitation["config"])]
    path = data.draw(st.sampled_from(paths))
    good = invitation
    for name in path:
        good = good[name]
    alike = (int, float) if isinstance(good, float) else (type(good),)
    value = data.draw(VALUES.filter(lambda value: type(value) not in alike))
    check_refusal(served, changed(invitation, path, value))


BAD_FIELDS = [
    *[(("rank",), value) for value in (-1, 0, 2, 255, 256, 10**30)],
    *[(("addresses",), value) for value in ([], [""], ["", "", ""], ["a:1"] * 1000, [1, 2], [[]])],
    *[(("transport",), value) for value in ("", "x", "unix\0", "../blocking")],
    *[(("header",), value) for value in ("", "zz", "00" * 8, "cdab000a08000000", "ü")],
    *[(("threads",), value) for value in (-1, 1 << 20, 10**30)],
    *[(("config", "seq_len"), value) for value in (-1, 0, 1 << 31, 1 << 32, 10**30)],
    *[(("config", "batch"), value) for value in (-1, 0, 4097, 65, 10**30)],
    *[(("config", "logits"), value) for value in (-1, 0, 4097, 10**30)],
    *[(("config", "contexts"), value) for value in (-1, 0, 65, 10**30)],
    *[(("config", "buffer"), value) for value in ("", "f64", "q40")],
    *[(("config", "all_reduce"), value) for value in ("", "ring")],
    *[
        (("config", "timeout"), value)
        for value in (-1, 0, 0.01, 1e9, 10**400, float("nan"), float("inf"))
    ],
    *[
        (("config", "shares"), [1.0, value])
        for value in (-1, 0, float("nan"), float("inf"), 10**400, 1e300, 1e-300, "1", None, True)
    ],
    *[(("config", "shares"), value) for value in ([], [1.0], [1.0] * 3, [0, 0])],
]


@pytest.mark.parametrize(
    ("path", "value"), BAD_FIELDS, ids=[f"{p[-1]}={str(v)[:20]}" for p, v in BAD_FIELDS]
)
def test_fields_of_join_out_of_range(served, invitation, path, value):
    check_refusal(served, changed(invitation, path, value))


def test_join_without_a_field(served, invitation):
    for name in invitation:
        check_refusal(served, {k: v for k, v in invitation.items() if k != name})
    for name in invitation["config"]:
        config = {k: v for k, v in invitation["config"].items() if k != name}
        check_refusal(served, {**invitation, "config": config})


def test_a_huge_model_costs_no_memory_before_its_weights_come(served, expected, invitation):
    """2^20 wide, 4096 layers, as a header may say."""
    header = bytearray.fromhex(invitation["header"])
    for at in range(8, len(header), 8):
        (key,) = struct.unpack_from("<i", header, at)
        value = {2: 1 << 20, 3: 1 << 24, 4: 4096, 9: 1 << 24}.get(key)
        if value:
            struct.pack_into("<i", header, at + 4, value)
    tracemalloc.start()
    try:
        served.hear(GREETING + frame(Kind.JOIN, {**invitation, "header": header.hex()}))
        assert len(served.complaints()) == 1
        assert tracemalloc.get_traced_memory()[1] < 4 * LITTLE
    finally:
        tracemalloc.stop()
    served.check(expected)


def test_root_that_leaves_after_join_frees_the_worker_at_once(served, expected, invitation):
    served.hear(GREETING + frame(Kind.JOIN, changed(invitation, ("config", "timeout"), 5.0)))
    served.check(expected, seconds=SOON)


# What a root sends in a session.


def weights_of(conversation) -> list[bytes]:
    return [content for _, kind, content in conversation if kind == Kind.TENSOR]


@pytest.mark.parametrize("which", [0, 20, -1])
@pytest.mark.parametrize("how", ["size", "checksum", "content", "kind", "huge"])
def test_wrong_weights(served, expected, conversation, which, how):
    tensors = weights_of(conversation)
    content, skip = tensors[which], which % len(tensors)
    bad = {
        "size": frame(Kind.TENSOR, content[:-1]),
        "checksum": frame(Kind.TENSOR, content[:-1] + bytes([content[-1] ^ 1])),
        "content": frame(Kind.TENSOR, bytes([content[0] ^ 1]) + content[1:]),
        "kind": frame(Kind.LOGITS, content),
        "huge": frame(Kind.TENSOR, content, HUGE),
    }[how]
    said = root_error(served, instead(ROOT, Kind.TENSOR, bad, skip), CALM)
    assert "tensor" in said
    (line,) = served.complaints()
    assert "tensor" in line
    served.check(expected)


BAD_RUNS = [
    (0, 0, 0, 0, Want.TOP, 0, 0),
    (65, 0, 64, 0, Want.TOP, 0, 0),
    (HUGE, 0, HUGE - 1, 0, Want.TOP, 0, 0),
    (6, -1, 5, 0, Want.TOP, 0, 0),
    (6, 59, 5, 0, Want.TOP, 0, 0),
    (6, (1 << 63) - 1, 5, 0, Want.TOP, 0, 0),
    (6, -(1 << 63), 5, 0, Want.TOP, 0, 0),
    (6, 0, 7, 0, Want.NOTHING, 0, 0),
    (6, 0, HUGE, 0, Want.NOTHING, 0, 0),
    (6, 0, 6, 0, Want.TOP, 0, 0),
    (6, 0, 6, 0, Want.LOGITS, 0, 0),
    (6, 0, 0, 3, Want.LOGITS, 0, 0),
    (6, 0, 0, 255, Want.LOGITS, 0, 0),
    (6, 0, 0, 0, 3, 0, 0),
    (6, 0, 0, 0, 255, 0, 0),
    (6, 0, 0, 0, Want.LOGITS, 2, 0),
    (6, 0, 0, 0, Want.LOGITS, 0, 2),
    (6, 0, 0, 0, Want.LOGITS, 65535, 65535),
]


@pytest.mark.parametrize("values", BAD_RUNS)
def test_runs_out_of_range(served, expected, values):
    change = instead(ROOT, Kind.RUN, frame(Kind.RUN, RUN.pack(*values)))
    said = root_error(served, change, CALM)
    assert "cannot run" in said
    assert len(served.complaints()) == 1
    served.check(expected)


@pytest.mark.parametrize(
    "message",
    [
        frame(Kind.RUN, b""),
        frame(Kind.RUN, bytes(RUN.size + 1)),
        frame(Kind.RUN, bytes(RUN.size), HUGE),
        frame(Kind.JOIN, b"{}"),
        frame(Kind.TENSOR, bytes(100)),
        frame(Kind.BYE, b"1"),
        frame(Kind.ASK, b"[]"),
        frame(Kind.ASK, b"{", HUGE),
        frame(Kind.ERROR, {"message": "no\nmore\x07", "blames": "x"}),
        frame(0, b""),
        frame(99, b"x"),
        bytes(range(255)),
    ],
    ids=lambda message: message[:12].hex(),
)
def test_nonsense_in_place_of_a_run(served, expected, message):
    root_error(served, instead(ROOT, Kind.RUN, message), CALM)
    (line,) = served.complaints()
    assert line.isprintable()
    served.check(expected)


def test_run_of_more_tokens_than_come(served, expected):
    run = frame(Kind.RUN, RUN.pack(7, 0, 0, 1, Want.LOGITS, 0, 0))
    root_error(served, instead(ROOT, Kind.RUN, run))
    assert len(served.complaints()) == 1
    served.check(expected)


DRAW, CUT = [0.8, 3, 0], [-2000, -1e30, -1, -1e30]
BAD_QUESTIONS = [
    {},
    {"ask": None},
    {"ask": ["top"]},
    {"ask": "nothing"},
    {"ask": "__class__"},
    {"ask": "best"},
    *[{"ask": "best", "count": count} for count in ("x", None, [], 1e400, float("nan"))],
    *[{"ask": "masses", "draw": draw} for draw in (None, [], ["x"], [1, 2, 3, 4], {}, "abc")],
    *[{"ask": "masses", "draw": [t, 3, 0]} for t in ("x", None, [])],
    *[{"ask": "race", "draw": DRAW, "cut": cut} for cut in (None, ["x"], [1] * 5, [None] * 4)],
    {"ask": "race", "draw": [0.8, 10**30, 0], "cut": CUT},
    {"ask": "race", "draw": [0.8, "x", 0], "cut": CUT},
    {"ask": "race", "draw": DRAW, "cut": [10**30, 0.0, 1, 0.0]},
    {"ask": "mass_before", "draw": DRAW},
    {"ask": "mass_before", "draw": DRAW, "cut": [0, "x", 0, 0]},
    *[{"ask": "penalise", "ids": ids, "penalty": 1.1} for ids in (None, "x", [None], [10**30], 5)],
    *[{"ask": "penalise", "ids": [1], "penalty": value} for value in (None, "x", [], 10**400)],
    *[{"ask": "likelihood", "token": token, "count": 1} for token in (None, "x", -1, 10**30)],
    *[{"ask": "likelihood", "token": 1, "count": count} for count in (None, "x", -1, 10**30)],
]


@pytest.mark.parametrize("question", BAD_QUESTIONS, ids=lambda question: str(question)[:60])
def test_questions_that_are_none(served, question):
    # The second: the first is for the clock, when there is no pass to ask about.
    root_error(served, instead(ROOT, Kind.ASK, frame(Kind.ASK, question), skip=1))
    assert len(served.complaints()) == 1


ODD_QUESTIONS = [
    *[{"ask": "best", "count": count} for count in (-1, 0, 10**12, 1 << 62)],
    *[{"ask": "masses", "draw": [t, 3, 0]} for t in (0, -1, 1e-300, float("nan"), float("inf"))],
    {"ask": "race", "draw": [0, 3, 0], "cut": CUT},
    {"ask": "race", "draw": [float("nan"), -1, -1], "cut": [0, float("nan"), 0, float("nan")]},
    {"ask": "mass_before", "draw": [0, 0, 0], "cut": CUT},
    *[{"ask": "penalise", "ids": [1], "penalty": value} for value in (0, -1, float("nan"))],
    {"ask": "penalise", "ids": [-(1 << 62), -1, 1 << 62], "penalty": 1.1},
    *[{"ask": "likelihood", "token": t, "count": n} for t, n in ((0, 5), (1 << 30, 1 << 31))],
    {"ask": "timeline"},
    {"ask": "labels"},
]


@pytest.mark.parametrize("question", ODD_QUESTIONS, ids=lambda question: str(question)[:60])
@pytest.mark.parametrize("when", [0, 1], ids=["before a pass", "after a pass"])
def test_questions_that_no_root_asks(served, expected, question, when):
    """Whatever the answer is, the worker goes on without a traceback."""
    change = instead(ROOT, Kind.ASK, frame(Kind.ASK, question), skip=when)
    with Between(served.address, change) as between:
        begin = time.monotonic()
        with contextlib.suppress(dllama.DllamaError):
            talk(between.address)
        assert time.monotonic() - begin < 2 * TIMEOUT + SOON
    served.check(expected)
    assert len(served.complaints(0)) <= 1


# What a worker answers.


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100000, b"[1e400]"],
    ids=lambda content: content[:8].hex(),
)
@pytest.mark.parametrize("kind", [Kind.ACCEPT, Kind.READY, Kind.ANSWER])
def test_answers_that_are_no_object(served, expected, kind, content):
    root_error(served, instead(WORKER, kind, frame(kind, content)))
    served.check(expected)
    served.complaints(0)


@pytest.mark.parametrize("kind", [Kind.ACCEPT, Kind.READY, Kind.ANSWER, Kind.TOP, Kind.LOGITS])
@pytest.mark.parametrize("how", ["huge", "kind", "zeros", "error", "hello", "random"])
def test_other_messages_than_expected(served, expected, rng, kind, how):
    bad = {
        "huge": HEADER.pack(kind, HUGE) * 100,
        "kind": frame(99, b"x" * 16),
        "zeros": bytes(100),
        "error": frame(Kind.ERROR, {"message": "bad\x1b[31m\nworker" * 1000, "blames": [7]}),
        "hello": GREETING,
        "random": rng.bytes(2000),
    }[how]
    tracemalloc.start()
    try:
        said = root_error(served, instead(WORKER, kind, bad))
        assert tracemalloc.get_traced_memory()[1] < LITTLE
    finally:
        tracemalloc.stop()
    assert said.isprintable()
    assert len(said) < 2000
    served.check(expected)
    served.complaints(0)


@pytest.mark.parametrize("who", [ROOT, WORKER])
@pytest.mark.parametrize("bad", [b"SSH-2.0-x\r\n" + bytes(30), bytes(28)], ids=["ssh", "zeros"])
def test_another_protocol(served, expected, who, bad):
    root_error(served, instead(who, "hello", bad))
    root_error(served, instead(who, "hello", bad, skip=1))  # of the data link
    served.check(expected)
    served.complaints(0)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"memory": None},
        {"memory": 3},
        {"memory": [1]},
        {"memory": {"weights": "x"}},
        {"memory": {"weights": None}},
        {"memory": {"weights": 1e400}},
        {"memory": {"weights": []}},
    ],
    ids=str,
)
def test_ready_of_wrong_types(served, expected, content):
    root_error(served, instead(WORKER, Kind.READY, frame(Kind.READY, content)))
    served.check(expected)


@pytest.mark.parametrize("clock", ["x", None, [], {}, 1e400, float("nan")], ids=str)
def test_clock_of_wrong_types(served, expected, clock):
    root_error(served, instead(WORKER, Kind.ANSWER, frame(Kind.ANSWER, {"clock": clock})))
    served.check(expected)


BAD_ANSWERS = [
    {"ids": "x", "logits": None, "octave": "x", "sums": 5, "inside": 1, "edge": 2, "mass": "x"},
    {"ids": [[]], "logits": [{}], "octave": 1e400, "sums": [None], "inside": [1], "edge": [],
     "logit": "x", "token": "y", "mass": 1e400},
    {"ids": [10**30], "logits": ["x"], "octave": None, "sums": [1e400], "inside": [None, None],
     "edge": [0, 0, "x"], "logit": 1.0, "token": 1e400, "mass": [7]},
]  # fmt: skip


@pytest.mark.parametrize("answer", [{}, *BAD_ANSWERS], ids=["nothing", "texts", "lists", "numbers"])
@pytest.mark.parametrize("skip", [2, 3, 4, 5])
def test_answers_of_wrong_types(served, answer, skip):
    root_error(served, instead(WORKER, Kind.ANSWER, frame(Kind.ANSWER, answer), skip))


@pytest.mark.parametrize(
    ("answer", "skip"),
    [
        ({}, 1),
        ({"began": 1e400, "ms": []}, 1),
        ({"began": 0, "ms": None}, 1),
        ({"began": 0, "ms": [1]}, 1),
        ({}, 2),
        ({"labels": 5}, 2),
        ({"labels": [[1]]}, 2),
    ],
)
def test_timelines_of_wrong_types(served, expected, answer, skip):
    change = instead(WORKER, Kind.ANSWER, frame(Kind.ANSWER, answer), skip)
    with Between(served.address, change) as between:
        llm = root_of(between.address, trace=True)
        with llm, pytest.raises(dllama.ProtocolError, match="worker 1: timeline"):
            llm.eval(IDS)
    served.check(expected)


ODD_ANSWERS = [
    {"ids": [-5, 1 << 40], "logits": [1e30, 2e30], "octave": 1 << 40, "sums": [-1],
     "inside": [1e300, 1 << 40], "edge": [1e300, 1 << 40, 0.0], "logit": 1e30, "token": 1 << 40,
     "mass": -1},
    {"ids": [7], "logits": [1e30, 2e30], "octave": -1, "sums": [], "inside": [1e300, -7],
     "edge": [1e300, -7, 0.0], "logit": 1e30, "token": -7, "mass": 1 << 70},
    {"ids": [], "logits": [], "octave": 0, "sums": [0] * 5000, "inside": [float("nan"), 0],
     "edge": [float("nan"), 0, float("nan")], "logit": float("inf"), "token": 0, "mass": 0},
]  # fmt: skip


@pytest.mark.parametrize("answer", ODD_ANSWERS, ids=["too large", "negative", "empty"])
@pytest.mark.parametrize("skip", [2, 3, 4, 5, 6, 7])
def test_answers_that_make_no_sense(served, answer, skip):
    """A text may come of them, or an error, but not one that dllama does not raise on purpose."""
    change = instead(WORKER, Kind.ANSWER, frame(Kind.ANSWER, answer), skip)
    with Between(served.address, change) as between, contextlib.suppress(dllama.DllamaError):
        talk(between.address)


@pytest.mark.parametrize(
    ("logit", "token"), [(1e30, -7), (1e30, 1 << 40), (1e30, -(1 << 63)), (float("inf"), 0)]
)
def test_top_out_of_range(served, expected, logit, token):
    change = instead(WORKER, Kind.TOP, frame(Kind.TOP, TOP.pack(logit, token)))
    with (
        Between(served.address, change) as between,
        pytest.raises(dllama.DllamaError, match=r"worker 1 \("),
    ):
        greedy(between.address)
    served.check(expected)


def greedy(address: str) -> list[int]:
    with root_of(address, timeout=TIMEOUT) as llm:
        return [token.id for token in llm.generate(IDS, 3, temperature=0.0, ignore_eos=True)]


def test_worker_that_says_it_has_the_weights(served, expected):
    root_error(served, instead(WORKER, Kind.ACCEPT, frame(Kind.ACCEPT, {"cached": True})))
    served.check(expected)


# Conversations that end early.


def stages(conversation) -> list[tuple[str, object, int, int]]:
    """Sender, kind, number and size of the messages of a conversation to end at."""
    count: dict = {}
    found = []
    for sender, kind, content in conversation:
        number = count.setdefault((sender, kind), 0)
        count[sender, kind] += 1
        many = kind in (Kind.TENSOR, "data", Kind.ASK, Kind.ANSWER, Kind.RUN, Kind.TOP)
        if kind != Kind.BYE and (not many or number in (0, 1, 2, 30)):
            found.append((sender, kind, number, len(content)))
    return found


def test_conversations_that_end_early(served, expected, conversation):
    """At the beginning, in the header, and in the content of every kind of message, and in the
    content of later ones."""
    for sender, kind, number, size in stages(conversation):
        middle = HEADER.size + size // 2
        for at in sorted({0, 4, middle}) if number == 0 else [middle]:
            served._caplog.clear()
            with Between(served.address, instead(sender, kind, Cut(at), number)) as between:
                case = f"{sender}'s {kind!r} number {number}, cut at {at}"
                begin, said = time.monotonic(), "worker 1"
                try:
                    talk(between.address)
                except dllama.DllamaError as error:
                    said = str(error)
                else:
                    # What "data" is depends on how the bytes come.
                    assert kind == "data", case
                assert "worker 1" in said, case
                assert time.monotonic() - begin < 2 * TIMEOUT + SOON, case
            # Of the session and of its data link; one of the case before may come late.
            lines = [line for line in served.complaints(1) if "another root" not in line]
            assert len(lines) <= 4, (case, lines)
    served.check(expected)


def test_random_changes_of_a_conversation(served, expected, conversation):
    """A byte of any message but weights and data is another: an error, or a text."""
    seed = int(os.environ.get("DLLAMA_SEED", "1"))
    rng = np.random.default_rng(seed)
    begin = time.monotonic()
    cases = [stage for stage in stages(conversation) if stage[1] not in (Kind.TENSOR, "data")]
    while time.monotonic() - begin < 4.0:
        sender, kind, number, size = cases[rng.integers(len(cases))]
        at, flip = rng.integers(size + HEADER.size), 1 << rng.integers(8)
        content = next(c for s, k, c in conversation if s == sender and k == kind)
        true = bytearray(content if kind == "hello" else frame(kind, content))
        true[at % len(true)] ^= flip
        with Between(served.address, instead(sender, kind, bytes(true), number)) as between:
            try:
                talk(between.address, timeout=0.3)
            except dllama.DllamaError:
                pass
            except Exception as error:
                pytest.fail(f"seed {seed}: {sender}'s {kind!r}, byte {at} ^ {flip}: {error!r}")
    served.check(expected)
    served.complaints(0)
