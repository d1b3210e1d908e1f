"""Roots that send nonsense in a session: the worker says one line and serves the next root."""

from __future__ import annotations

import contextlib
import time

import pytest
from hostile import (
    CALM,
    HUGE,
    ROOT,
    SOON,
    TIMEOUT,
    Between,
    frame,
    instead,
    root_error,
    talk,
)

import dllama
from dllama.cluster.protocol import Kind, Want
from dllama.cluster.run_message import Run
from dllama.runtime.batch import Batch, Span

pytestmark = pytest.mark.slow


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


MOST, LEAST = (1 << 31) - 1, -(1 << 31)
ROWS = [(6, 0, [0])]
# Spans, wanted rows, copies, encoding, want.
BAD_RUNS = [
    ([], [], [], 0, Want.NOTHING),
    ([(0, 0, [0])], [], [], 0, Want.NOTHING),
    ([(65, 0, [0])], [64], [], 0, Want.TOP),
    ([(MOST, 0, [0])], [5], [], 0, Want.TOP),
    ([(LEAST, 0, [0])], [5], [], 0, Want.TOP),
    ([(MOST, 0, [0]), (MOST, 0, [0])], [5], [], 0, Want.TOP),
    ([(7, 0, [0]), (-1, 0, [0])], [5], [], 0, Want.TOP),
    ([(3, 0, [0]), (3, 0, [1]), (3, 0, [0])], [5], [], 0, Want.TOP),
    ([(6, -1, [0])], [5], [], 0, Want.TOP),
    ([(6, 59, [0])], [5], [], 0, Want.TOP),
    ([(6, MOST, [0])], [5], [], 0, Want.TOP),
    ([(6, LEAST, [0])], [5], [], 0, Want.TOP),
    ([(6, 0, [])], [5], [], 0, Want.TOP),
    ([(6, 0, [-1])], [5], [], 0, Want.TOP),
    ([(6, 0, [2])], [5], [], 0, Want.TOP),
    ([(6, 0, [0, 1])], [5], [], 0, Want.TOP),
    ([(6, 0)], [5], [], 0, Want.TOP),
    ([(6, 0, [0], [0])], [5], [], 0, Want.TOP),
    (ROWS, [6], [], 0, Want.NOTHING),
    (ROWS, [-1], [], 0, Want.NOTHING),
    (ROWS, [MOST], [], 0, Want.TOP),
    (ROWS, [5, 5], [], 0, Want.TOP),
    (ROWS, [], [], 0, Want.TOP),
    (ROWS, [], [], 0, Want.LOGITS),
    (ROWS, [5], [], 3, Want.LOGITS),
    (ROWS, [5], [], 255, Want.LOGITS),
    (ROWS, [5], [], 0, 3),
    (ROWS, [5], [], 0, 255),
    (ROWS, [5], [(0, 0, 2)], 0, Want.LOGITS),
    (ROWS, [5], [(0, MOST, LEAST)], 0, Want.LOGITS),
    (ROWS, [5], [(1, 0, 0)], 0, Want.LOGITS),
    (ROWS, [5], [(LEAST, 0, 0)], 0, Want.LOGITS),
]


def packed(spans, wanted, copies, encoding, want) -> bytes:
    batch = Batch([Span(rows, at, [*held]) for rows, at, *held in spans], wanted, copies)
    return Run(batch, encoding, want).pack()


@pytest.mark.parametrize("values", BAD_RUNS)
def test_runs_out_of_range(served, expected, values):
    change = instead(ROOT, Kind.RUN, frame(Kind.RUN, packed(*values)))
    said = root_error(served, change, CALM)
    assert "RUN" in said or "cannot run" in said
    assert len(served.complaints()) == 1
    served.check(expected)


GOOD_RUN = packed(ROWS, [5], [], 0, Want.LOGITS)


@pytest.mark.parametrize(
    "message",
    [
        frame(Kind.RUN, b""),
        frame(Kind.RUN, GOOD_RUN[:-1]),
        frame(Kind.RUN, GOOD_RUN + bytes(4)),
        frame(Kind.RUN, GOOD_RUN[:10]),
        frame(Kind.RUN, bytes([255] * 16) + GOOD_RUN[16:]),
        frame(Kind.RUN, GOOD_RUN, HUGE),
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
    run = frame(Kind.RUN, packed([(7, 0, [0])], range(7), [], 1, Want.LOGITS))
    root_error(served, instead(ROOT, Kind.RUN, run))
    assert len(served.complaints()) == 1
    served.check(expected)


DRAW, CUT = [0.8, 3, 0], [-2000, -1e30, -1, -1e30]
IDS = "AQAAAA=="  # 1
BEST = {"ask": "best", "first": 0, "count": 1}
BAD_QUESTIONS = [
    {},
    *[{"row": row} | BEST for row in (-1, 1, None, "0", 10**30, True)],
    {"ask": None},
    {"ask": ["best"]},
    {"ask": "nothing"},
    {"ask": "__class__"},
    {"ask": "best"},
    *[BEST | {"first": first} for first in ("x", None, [], 1e400, float("nan"), -1, 1 << 62)],
    *[BEST | {"count": count} for count in ("x", None, [], 1e400, float("nan"), -1, 0, 10**12)],
    *[{"ask": "weigh", "draw": draw} for draw in (None, [], ["x"], [1, 2, 3, 4], {}, "abc")],
    *[{"ask": "weigh", "draw": [t, 3, 0]} for t in ("x", None, [], 0, -1, 1e-300, 1e400)],
    *[{"ask": "race", "draw": DRAW, "cut": cut} for cut in (None, ["x"], [1] * 5, [None] * 4)],
    {"ask": "race", "draw": [0.8, 10**30, 0], "cut": CUT},
    {"ask": "race", "draw": [0.8, "x", 0], "cut": CUT},
    {"ask": "race", "draw": DRAW, "cut": [10**30, 0.0, 1, 0.0]},
    {"ask": "race", "draw": [0, 3, 0], "cut": CUT},
    {"ask": "race", "draw": DRAW, "cut": [0, float("nan"), 0, float("nan")]},
    {"ask": "weigh_before", "draw": DRAW},
    {"ask": "weigh_before", "draw": [0, 0, 0], "cut": CUT},
    {"ask": "weigh_before", "draw": DRAW, "cut": [0, "x", 0, 0]},
    *[{"ask": "penalise", "ids": ids, "penalty": 1.1} for ids in (None, "x", [1], "AAA=", 5)],
    {"ask": "penalise", "ids": "/////w==", "penalty": 1.1},  # -1
    *[{"ask": "penalise", "ids": IDS, "penalty": value} for value in (None, "x", [], 10**400)],
    *[{"ask": "penalise", "ids": IDS, "penalty": value} for value in (0, -1, float("nan"))],
    *[{"ask": "score", "token": token, "count": 1} for token in (None, "x", -1, 10**30)],
    *[{"ask": "score", "token": 1, "count": count} for count in (None, "x", -1, 10**30)],
]


@pytest.mark.parametrize("question", BAD_QUESTIONS, ids=lambda question: str(question)[:60])
def test_questions_that_are_none(served, question):
    ask_instead(served, [{"row": 0} | question])


@pytest.mark.parametrize(
    "questions",
    [None, 5, "x", [5], [None], ["best"], [{"row": 0} | BEST] * 2, [{"row": 0} | BEST] * 10000],
    ids=lambda questions: str(questions)[:60],
)
def test_lists_of_questions_that_are_none(served, questions):
    ask_instead(served, questions)


def ask_instead(served, questions) -> None:
    # The second: the first is for the clock, when there is no pass to ask about.
    content = {"questions": questions}
    root_error(served, instead(ROOT, Kind.ASK, frame(Kind.ASK, content), skip=1))
    (line,) = served.complaints()
    assert "wrong questions" in line


ODD_QUESTIONS = [
    *[{"questions": [{"row": 0} | BEST | change]} for change in
      ({}, {"first": 1 << 30}, {"count": 1 << 14})],
    {"questions": [{"row": 0, "ask": "penalise", "ids": IDS, "penalty": 1e-300}]},
    {"questions": [{"row": 0, "ask": "score", "token": 1 << 30, "count": 5}]},
    {"questions": []},
    {"ask": "timeline"},
    {"ask": "labels"},
]  # fmt: skip


@pytest.mark.parametrize("question", ODD_QUESTIONS, ids=lambda question: str(question)[:60])
@pytest.mark.parametrize("when", [0, 1], ids=["before a pass", "after a pass"])
def test_questions_that_no_root_asks(served, expected, question, when):
    """Whatever the reply is, the worker goes on without a traceback."""
    change = instead(ROOT, Kind.ASK, frame(Kind.ASK, question), skip=when)
    with Between(served.address, change) as between:
        begin = time.monotonic()
        with contextlib.suppress(dllama.DllamaError):
            talk(between.address)
        assert time.monotonic() - begin < 2 * TIMEOUT + SOON
    served.check(expected)
    assert len(served.complaints(0)) <= 1
