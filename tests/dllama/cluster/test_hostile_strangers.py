"""Strangers that send nonsense to a worker: one line in the log each, no hang, no allocation."""

from __future__ import annotations

import json
import logging
import socket
import struct
import tracemalloc

import pytest
from hostile import CALM, GREETING, HUGE, LITTLE, SOON, Between, Served, frame, root_of, talk
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from mutations import changed

from dllama.cluster import worker
from dllama.cluster.protocol import HEADER, HELLO, Kind

pytestmark = pytest.mark.slow


def test_the_proxy_changes_nothing_by_itself(served, expected):
    with Between(served.address, lambda *_: None) as between:
        talk(between.address, timeout=CALM)
    served.check(expected)
    assert served.complaints(0) == []


def test_random_bytes_to_a_worker(served, expected, rng, caplog):
    caplog.set_level(logging.INFO, "dllama.worker")
    for size in (0, 1, 7, 8, 27, 28, 100, 5000):
        served.hear(rng.bytes(size))
        served.hear(GREETING + rng.bytes(size))
    # Who greets and leaves before its first message is a node that was killed, as may be who sends
    # nothing at all, if it does not only look whether the port is open.
    assert len(served.complaints(12)) == 12
    assert sum("left before" in record.getMessage() for record in caplog.records) == 4
    served.check(expected)


@pytest.mark.parametrize("kind", [0, *Kind, 99, HUGE])
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
@pytest.mark.parametrize("kind", [Kind.JOIN, Kind.PEER, Kind.ABOUT])
def test_first_message_that_is_no_object(served, kind, content):
    reply = served.hear(GREETING + frame(kind, content))
    assert HEADER.unpack(reply[HELLO.size : HELLO.size + HEADER.size])[0] == Kind.ERROR
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
    data = GREETING + frame(Kind.PEER, {"session": session, "rank": rank})
    reply = served.hear(data, stay=True)
    assert HEADER.unpack(reply[HELLO.size : HELLO.size + HEADER.size])[0] == Kind.ERROR
    assert len(served.complaints()) == 1


def test_data_link_for_a_session_that_has_ended(served):
    """A node that was late does not cause a second line in the log."""
    sessions = []

    def remember(sender, kind, content):
        if kind == Kind.JOIN:
            sessions.append(json.loads(content)["session"])

    with Between(served.address, remember) as between, root_of(between.address):
        pass
    (session,) = sessions
    reply = served.hear(GREETING + frame(Kind.PEER, {"session": session, "rank": 0}))
    assert len(reply) == HELLO.size  # and the end
    assert served.complaints(0) == []


def check_refusal(served: Served, join: dict) -> None:
    """Check that the worker replies to a JOIN with an ERROR and logs one line."""
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
    """The header claims a width of 2^20 and 1024 layers."""
    header = bytearray.fromhex(invitation["header"])
    for at in range(8, len(header), 8):
        (key,) = struct.unpack_from("<i", header, at)
        value = {2: 1 << 20, 3: 1 << 24, 4: 1024, 9: 1 << 24}.get(key)
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
