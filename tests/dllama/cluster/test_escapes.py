"""What peers send looks like no line of a log, and like no command to a terminal."""

from __future__ import annotations

import copy

import pytest
from hostile import CALM, GREETING, IDS, OPTIONS, ROOT, WORKER, Between, frame, instead, root_error

import dllama
from dllama.cluster.protocol import HEADER, Kind

pytestmark = pytest.mark.slow

EVIL = "x\x1b[2J\r\ndllama: error: forged\x9b\u202e\x07"
JOINED = ["session", "name", "transport", "header", "weights", "addresses"]


def printable(text: str) -> bool:
    return text.isprintable() and len(text) < 2000


@pytest.mark.parametrize("field", JOINED)
@pytest.mark.parametrize("text", [EVIL, EVIL * 20000], ids=["short", "long"])
def test_texts_of_an_invitation(served, invitation, field, text):
    join = copy.deepcopy(invitation)
    join[field] = ["", text] if field == "addresses" else text
    served.hear(GREETING + frame(Kind.JOIN, join))
    (line,) = served.complaints()
    assert printable(line)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (Kind.PEER, {"session": EVIL, "rank": 0}),
        (Kind.PEER, {"session": "x", "rank": EVIL}),
        (Kind.PEER, {"session": [EVIL] * 1000, "rank": {EVIL: EVIL}}),
        (Kind.ABOUT, {"fill": EVIL}),
        (Kind.ERROR, {"message": EVIL, "blames": EVIL, "late": EVIL}),
    ],
)
def test_texts_of_other_first_messages(served, kind, content):
    reply = served.hear(GREETING + frame(kind, content), stay=kind is Kind.PEER)
    (line,) = served.complaints()
    assert printable(line)
    assert printable(reply[len(GREETING) + HEADER.size :].decode())


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (Kind.ACCEPT, {"cached": False, "name": EVIL}),
        (Kind.ERROR, {"message": EVIL}),
        (Kind.READY, {"memory": {EVIL: 1}}),
        (Kind.READY, {"memory": {"weights": EVIL, "kv_cache": 0, "buffers": 0}}),
        (Kind.REPLY, {"clock": EVIL}),
    ],
)
def test_texts_of_a_worker(served, kind, content):
    """After its name, the session is cut, so that a message with the name comes."""
    change = instead(WORKER, Kind.ACCEPT if kind == Kind.ERROR else kind, frame(kind, content))
    cut = instead(ROOT, Kind.TENSOR, frame(Kind.TENSOR, b""))

    def both(*message):
        return change(*message) or (cut(*message) if kind == Kind.ACCEPT else None)

    assert printable(root_error(served, both) if kind != Kind.ACCEPT else named_error(served, both))


def named_error(served, change) -> str:
    with Between(served.address, change) as between:
        with pytest.raises(dllama.DllamaError, match="dllama error forged") as error:
            dllama.LLM(workers=[between.address], **{**OPTIONS, "timeout": CALM})
        return str(error.value)


def test_replies_to_questions(served):
    for replies in (EVIL, [EVIL], [{"x": EVIL}]):
        change = instead(WORKER, Kind.REPLY, frame(Kind.REPLY, {"replies": replies}), skip=1)
        with (
            Between(served.address, change) as between,
            dllama.LLM(workers=[between.address], **{**OPTIONS, "timeout": CALM}) as llm,
            pytest.raises(dllama.DllamaError, match="worker 1") as error,
        ):
            for _ in llm.generate(IDS, 3, temperature=0.8, top_k=5, seed=3, ignore_eos=True):
                pass
        assert printable(str(error.value))
