"""Sampling over several nodes: the root asks each node about its shard of the vocabulary.

The replies hold what dllama.sampling.sampler needs, so the logits stay where they are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.ops.sampling import MAX_OCTAVE, OCTAVES
from dllama.errors import ProtocolError
from dllama.options import MAX_SEED
from dllama.sampling.sampler import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    Cut,
    Draw,
    Likelihood,
    LocalShards,
    Masses,
    Race,
    VocabularyShards,
)

TOP = struct.Struct("<dq")
MAX_NUMBER = 1 << 31  # of ids, counts and tokens drawn in a question
T = TypeVar("T")
Reply = dict[str, Any]
Ask = Callable[[dict[str, Any]], list[Reply]]


class RemoteShards:
    """The shards of all nodes, by rank: this node's and those of the others.

    Methods raise ProtocolError, which names the node, for a wrong reply, and ValueError for a reply
    that says that a logit is NaN or infinite.

    Args:
        own: the shard of this node.
        tops: best (logit, id) of the others, which they send after each pass.
        others: name and ids of the other shards.
        ask: sends a question to the other nodes and returns their replies.
    """

    def __init__(
        self,
        own: LocalShards,
        tops: Sequence[tuple[float, int]],
        others: Sequence[tuple[str, range]],
        ask: Ask,
    ) -> None:
        self._own = own
        self._others = others
        self._tops: Sequence[tuple[float, int]] | None = tops
        self._ask = ask

    def penalise(self, history: Sequence[int], penalty: float) -> None:
        ids = sorted({int(token) for token in history})
        self._own.penalise(ids, penalty)
        self._asked(lambda r, _: r["done"], "penalise", ids=ids, penalty=penalty)
        self._tops = None

    def top(self) -> list[tuple[float, int]]:
        own = self._own.top()
        if self._tops is None:
            self._tops = self._asked(lambda r, _: (float(r["logit"]), int(r["token"])), "top")
        for (name, ids), (logit, token) in zip(self._others, self._tops, strict=True):
            if math.isnan(logit):
                raise ValueError(f"logit {token} is not a number or infinite")
            if token not in ids:
                raise ProtocolError(f"{name}: best token is {token}, expected one of {ids}")
        return own + list(self._tops)

    def best(self, count: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        def parse(r: Reply, ids: range) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            tokens = [_token(token, ids) for token in r["ids"]]
            logits = np.array(r["logits"], np.float32)
            if len(tokens) != min(count, len(ids)) or logits.shape != (len(tokens),):
                raise ValueError(f"{len(tokens)} tokens")
            return np.array(tokens, np.int64), logits

        return self._own.best(count) + self._asked(parse, "best", count=count)

    def masses(self, draw: Draw) -> list[Masses]:
        def parse(r: Reply, _: range) -> Masses:
            masses = Masses(int(r["octave"]), [int(value) for value in r["sums"]])
            if abs(masses.octave) > MAX_OCTAVE or len(masses.sums) != OCTAVES:
                raise ValueError(f"{len(masses.sums)} sums from octave {masses.octave}")
            return masses

        return self._own.masses(draw) + self._asked(parse, "masses", draw=draw)

    def race(self, draw: Draw, cut: Cut) -> list[Race]:
        def parse(r: Reply, ids: range) -> Race:
            (value, token), (edge, last, logit) = r["inside"], r["edge"]
            inside = (float(value), token if value == -math.inf else _token(token, ids))
            return Race(
                inside,
                (float(edge), last if edge == -math.inf else _token(last, ids), float(logit)),
            )

        return self._own.race(draw, cut) + self._asked(parse, "race", draw=draw, cut=cut)

    def mass_before(self, draw: Draw, cut: Cut) -> list[int]:
        others = self._asked(lambda r, _: int(r["mass"]), "mass_before", draw=draw, cut=cut)
        return self._own.mass_before(draw, cut) + others

    def likelihood(self, token: int, count: int) -> list[Likelihood]:
        def parse(r: Reply, ids: range) -> Likelihood:
            logit = float(r["logit"]) if token in ids else None
            best = [(_token(one, ids), float(value)) for one, value in r["best"]]
            found = Likelihood(float(r["largest"]), float(r["total"]), logit, best)
            numbers = [found.largest, found.total, logit or 0.0, *(value for _, value in best)]
            if any(math.isnan(number) or number == math.inf for number in numbers):
                raise ValueError("a number is NaN or infinite")
            if len(best) != min(count, len(ids)) or found.total < 0:
                raise ValueError(f"{len(best)} tokens, total {found.total}")
            return found

        own = self._own.likelihood(token, count)
        return own + self._asked(parse, "likelihood", token=token, count=count)

    def _asked(self, parse: Callable[[Reply, range], T], question: str, **words: Any) -> list[T]:
        """Ask the others and parse their replies; ProtocolError names the node of a wrong one."""
        parsed: list[T] = []
        replies = self._ask({"ask": question, **words})
        for (name, ids), found in zip(self._others, replies, strict=True):
            try:
                parsed.append(parse(found, ids))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise ProtocolError(f"{name}: wrong reply to {question}: {error!r}") from error
        return parsed


def _token(token: object, ids: range) -> int:
    """A token of a shard."""
    if type(token) is not int or token not in ids:
        raise ValueError(f"token {str(token)[:100]} is not one of {ids}")
    return token


def top_of(shards: LocalShards) -> bytes:
    """Return the TOP message of a shard: logit NaN and the id of a logit that is not usable."""
    try:
        return TOP.pack(*shards.top()[0])
    except ValueError as error:
        digits = [word for word in str(error).split() if word.isdigit()]
        return TOP.pack(math.nan, int(digits[0]) if digits else 0)


def reply(rows: Sequence[VocabularyShards], question: dict[str, Any]) -> dict[str, Any]:
    """What a node says about its vocabulary shard.

    Args:
        rows: for each row whose logits are wanted, the one shard of this node.
        question: of the root, about one of them.

    Raises:
        ProtocolError: it is not a question.
    """
    try:
        row = question["row"]
        if type(row) is not int or not 0 <= row < len(rows):
            raise ValueError(f"row {str(row)[:100]} of {len(rows)}")
        return _REPLIES[question["ask"]](rows[row], question)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"wrong question {str(question)[:200]}: {error}") from error


def _draw(question: dict[str, Any]) -> Draw:
    """Return the draw of a question, or raise ValueError."""
    temperature, seed, number = question["draw"]
    draw = Draw(float(temperature), int(seed), int(number))
    if not LEAST_TEMPERATURE <= draw.temperature <= MOST_TEMPERATURE:
        raise ValueError(f"temperature is {draw.temperature}")
    if not 0 <= draw.seed <= MAX_SEED or not 0 <= draw.number < MAX_NUMBER:
        raise ValueError(f"seed is {draw.seed}, number is {draw.number}")
    return draw


def _cut(question: dict[str, Any]) -> Cut:
    """Return the cut of a question, or raise ValueError."""
    octave, logit, token, least = question["cut"]
    cut = Cut(int(octave), float(logit), int(token), float(least))
    if not -2 * MAX_OCTAVE <= cut.octave <= MAX_OCTAVE or not -1 <= cut.token < MAX_NUMBER:
        raise ValueError(f"octave is {cut.octave}, token is {cut.token}")
    if math.isnan(cut.logit) or math.isnan(cut.least):
        raise ValueError("a bound is not a number")
    return cut


def _penalise(shards: VocabularyShards, question: dict[str, Any]) -> dict[str, Any]:
    ids = [int(token) for token in question["ids"]]
    if not all(0 <= token < MAX_NUMBER for token in ids):
        raise ValueError("an id is out of range")
    shards.penalise(ids, float(question["penalty"]))
    return {"done": True}


def _top(shards: VocabularyShards, question: dict[str, Any]) -> dict[str, Any]:
    logit, token = shards.top()[0]
    return {"logit": logit, "token": token}


def _best(shards: VocabularyShards, question: dict[str, Any]) -> dict[str, Any]:
    count = int(question["count"])
    if not 0 < count <= MAX_NUMBER:
        raise ValueError(f"count is {count}")
    ids, logits = shards.best(count)[0]
    return {"ids": ids.tolist(), "logits": logits.tolist()}


def _masses(shards: VocabularyShards, question: dict[str, Any]) -> dict[str, Any]:
    masses = shards.masses(_draw(question))[0]
    return {"octave": masses.octave, "sums": masses.sums}


def _race(shards: VocabularyShards, question: dict[str, Any]) -> dict[str, Any]:
    race = shards.race(_draw(question), _cut(question))[0]
    return {"inside": race.inside, "edge": race.edge}


def _mass_before(shards: VocabularyShards, question: dict[str, Any]) -> dict[str, Any]:
    return {"mass": shards.mass_before(_draw(question), _cut(question))[0]}


def _likelihood(shards: VocabularyShards, question: dict[str, Any]) -> dict[str, Any]:
    token, count = int(question["token"]), int(question["count"])
    if not 0 <= token < MAX_NUMBER or not 0 <= count <= MAX_NUMBER:
        raise ValueError(f"token is {token}, count is {count}")
    return shards.likelihood(token, count)[0]._asdict()


_REPLIES: dict[str, Callable[[VocabularyShards, dict[str, Any]], dict[str, Any]]] = {
    "penalise": _penalise,
    "top": _top,
    "best": _best,
    "masses": _masses,
    "race": _race,
    "mass_before": _mass_before,
    "likelihood": _likelihood,
}
