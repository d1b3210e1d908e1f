"""Sampling over several nodes: the root asks each node about its shard of the vocabulary.

So the logits stay where they are. A message has questions about different rows. It is so short that
neither it nor its reply has more bytes than a message may have.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dllama.checks import shown
from dllama.errors import ProtocolError
from dllama.sampling.changes import Allow, Penalise, Shift
from dllama.sampling.lockstep import Questions, Replies
from dllama.sampling.questions import Best, Question, Race, Score, Weigh, WeighBefore
from dllama.sampling.shard import Shard, Top

TOP = struct.Struct("<dq")
ENVELOPE = 100  # bytes of a message beside its questions or replies
WRONG = (KeyError, TypeError, ValueError, OverflowError)
Json = dict[str, Any]
# Sends a message to the other nodes, does something meanwhile, and returns their replies.
Exchange = Callable[[Json, Callable[[], None]], list[Json]]
KINDS: dict[str, type[Question[Any]]] = {
    kind.name: kind for kind in (Penalise, Shift, Allow, Best, Weigh, Race, WeighBefore, Score)
}
Nodes = Sequence[tuple[str, range]]  # name and ids of the other nodes' shards


def ask(questions: Questions, nodes: Nodes, exchange: Exchange, most: int) -> Replies:
    """Return the replies of all nodes to questions about different rows, for each by rank.

    Args:
        questions: any number.
        nodes: the others.
        exchange: how to reach them.
        most: bytes of a message.

    Raises:
        ProtocolError: a reply is wrong; the message names the node.
    """
    return [
        replies
        for portion in _portions(questions, most)
        for replies in _ask(portion, nodes, exchange)
    ]


def _ask(questions: Questions, nodes: Nodes, exchange: Exchange) -> Replies:
    """Return the replies to questions that fit into a message."""
    asked = [
        {"row": row.number, "ask": question.name, **question.as_json()}
        for row, question in questions
    ]
    own: Replies = []
    contents = exchange(
        {"questions": asked},
        lambda: own.extend(row.reply(question) for row, question in questions),
    )
    others = [
        _read(questions, content, *node) for node, content in zip(nodes, contents, strict=True)
    ]
    return [[*here, *there] for here, *there in zip(own, *others, strict=True)]


def _portions(questions: Questions, most: int) -> Iterator[Questions]:
    """Yield the questions in messages."""
    portion: Questions = []
    size = ENVELOPE
    for row, question in questions:
        if portion and size + question.size() > most:
            yield portion
            portion, size = [], ENVELOPE
        portion.append((row, question))
        size += question.size()
    yield portion


def _read(questions: Questions, content: Json, name: str, ids: range) -> list[Any]:
    """Read a node's replies to questions; ProtocolError names the node of a wrong one."""
    replies = content.get("replies")
    if not isinstance(replies, list) or len(replies) != len(questions):
        found = len(replies) if isinstance(replies, list) else shown(replies)
        raise ProtocolError(f"{name}: replies are {found}, expected {len(questions)}")
    parsed = []
    for (_, question), reply in zip(questions, replies, strict=True):
        try:
            parsed.append(question.read_reply(reply, ids))
        except WRONG as error:
            raise ProtocolError(f"{name}: wrong reply to {question.name}: {error!r}") from error
    return parsed


def reply(rows: Sequence[Shard], content: Json, most: int) -> Json:
    """Return what a node says about its vocabulary shard.

    Args:
        rows: the shard of each row whose logits are wanted.
        content: of the root's message, with questions about some of them.
        most: bytes of a message.

    Raises:
        ProtocolError: these are no questions, two are about a row, or the replies are too long.
    """
    try:
        asked = [_question(one, len(rows)) for one in content["questions"]]
        size = ENVELOPE + sum(question.size() for _, question in asked)
        if size > most or len({row for row, _ in asked}) < len(asked):
            raise ValueError(f"{len(asked)} questions about {len(rows)} rows, {size} bytes")
        answers = [question.reply_as_json(question.answer(rows[row])) for row, question in asked]
    except WRONG as error:
        raise ProtocolError(f"wrong questions {shown(content)}: {error}") from error
    return {"replies": answers}


def _question(content: Json, rows: int) -> tuple[int, Question[Any]]:
    """Read a question and the row that it is about."""
    row = content["row"]
    if type(row) is not int or not 0 <= row < rows:
        raise ValueError(f"row {shown(row)} of {rows}")
    return row, KINDS[content["ask"]].from_json(content)


def top_message(rows: Sequence[Shard]) -> bytes:
    """Return the content of a TOP message: the top of each row, NaN for one that is not usable."""
    return b"".join(TOP.pack(*shard.marked_top()) for shard in rows)


def check_tops(tops: Sequence[Top], nodes: Nodes) -> None:
    """Raise ProtocolError unless the tops of a row are in the shards of these nodes."""
    for (_, token), (name, ids) in zip(tops, nodes, strict=True):
        if token not in ids:
            raise ProtocolError(f"{name}: best token is {token}, expected one of {ids}")
