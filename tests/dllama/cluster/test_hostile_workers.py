"""Workers that send nonsense in a session: the root raises one error that names the worker."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hostile import (
    GREETING,
    HUGE,
    IDS,
    LITTLE,
    ROOT,
    TIMEOUT,
    WORKER,
    Between,
    frame,
    instead,
    root_error,
    root_of,
    talk,
)

import dllama
from dllama.cluster.protocol import HEADER, Kind
from dllama.sampling.remote import TOP

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100000, b"[1e400]"],
    ids=lambda content: content[:8].hex(),
)
@pytest.mark.parametrize("kind", [Kind.ACCEPT, Kind.READY, Kind.REPLY])
def test_replies_that_are_no_object(served, expected, kind, content):
    root_error(served, instead(WORKER, kind, frame(kind, content)))
    served.check(expected)
    served.complaints(0)


@pytest.mark.parametrize("kind", [Kind.ACCEPT, Kind.READY, Kind.REPLY, Kind.TOP, Kind.LOGITS])
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
    root_error(served, instead(WORKER, Kind.REPLY, frame(Kind.REPLY, {"clock": clock})))
    served.check(expected)


BAD_REPLIES = [
    {"ids": "x", "logits": None, "octave": "x", "sums": 5, "inside": 1, "edge": 2, "mass": "x"},
    {"ids": [[]], "logits": [{}], "octave": 1e400, "sums": [None], "inside": [1], "edge": [],
     "logit": "x", "token": "y", "mass": 1e400},
    {"ids": [10**30], "logits": ["x"], "octave": None, "sums": [1e400], "inside": [None, None],
     "edge": [0, 0, "x"], "logit": 1.0, "token": 1e400, "mass": [7]},
]  # fmt: skip


# The questions of a session: 1, 3 and 5 are penalise, 2, 4 and 6 best, then come weigh and race.
QUESTIONS = [1, 2, 7, 8]


@pytest.mark.parametrize("reply", [{}, *BAD_REPLIES], ids=["nothing", "texts", "lists", "numbers"])
@pytest.mark.parametrize("skip", QUESTIONS)
def test_replies_of_wrong_types(served, reply, skip):
    content = {"replies": [reply]}
    said = root_error(served, instead(WORKER, Kind.REPLY, frame(Kind.REPLY, content), skip))
    assert "wrong reply to" in said


@pytest.mark.parametrize("replies", [None, 5, "x", {}, [], [{}, {}]], ids=str)
@pytest.mark.parametrize("skip", QUESTIONS)
def test_lists_of_replies_that_are_none(served, replies, skip):
    content = {"replies": replies}
    said = root_error(served, instead(WORKER, Kind.REPLY, frame(Kind.REPLY, content), skip))
    assert "replies are" in said


@pytest.mark.parametrize(
    ("reply", "skip"),
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
def test_timelines_of_wrong_types(served, expected, reply, skip):
    change = instead(WORKER, Kind.REPLY, frame(Kind.REPLY, reply), skip)
    with Between(served.address, change) as between:
        llm = root_of(between.address, trace=True)
        with llm, pytest.raises(dllama.ProtocolError, match="worker 1: timeline"):
            llm.eval(IDS)
    served.check(expected)


ODD_REPLIES = [
    {"ids": [-5, 1 << 40], "logits": [1e30, 2e30], "octave": 1 << 40, "sums": [-1],
     "inside": [1e300, 1 << 40], "edge": [1e300, 1 << 40, 0.0], "logit": 1e30, "token": 1 << 40,
     "mass": -1},
    {"ids": [7], "logits": [1e30, 2e30], "octave": -1, "sums": [], "inside": [1e300, -7],
     "edge": [1e300, -7, 0.0], "logit": 1e30, "token": -7, "mass": 1 << 70},
    {"ids": [], "logits": [], "octave": 0, "sums": [0] * 5000, "inside": [float("nan"), 0],
     "edge": [float("nan"), 0, float("nan")], "logit": float("inf"), "token": 0, "mass": 0},
]  # fmt: skip


@pytest.mark.parametrize("reply", ODD_REPLIES, ids=["too large", "negative", "empty"])
@pytest.mark.parametrize("skip", [*QUESTIONS, 9])
def test_replies_that_make_no_sense(served, reply, skip):
    """They may give a text or an error, but only an error that dllama raises on purpose."""
    content = {"replies": [reply]}
    change = instead(WORKER, Kind.REPLY, frame(Kind.REPLY, content), skip)
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
