"""Sampling over several nodes: the root asks each node about its slice of the vocabulary.

The answers are what dllama.sampler needs, so the logits stay where they are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dllama.errors import ProtocolError
from dllama.sampler import Cut, Draw, LocalSlices, Masses, Race, Slices

TOP = struct.Struct("<dq")
T = TypeVar("T")
Ask = Callable[[dict[str, Any]], list[dict[str, Any]]]


class RemoteSlices:
    """The slice of this node and those of the others, by rank.

    tops: what the others sent after the pass. ask: sends a question to all of them and returns
    their answers. ValueError for an answer that says a logit is NaN or inf.
    """

    def __init__(self, own: LocalSlices, tops: Sequence[tuple[float, int]], ask: Ask) -> None:
        self._own = own
        self._tops: Sequence[tuple[float, int]] | None = tops
        self._ask = ask

    def penalise(self, history: Sequence[int], penalty: float) -> None:
        ids = sorted({int(token) for token in history})
        self._own.penalise(ids, penalty)
        self._asked(bool, "penalise", ids=ids, penalty=penalty)
        self._tops = None

    def top(self) -> list[tuple[float, int]]:
        own = self._own.top()
        if self._tops is None:
            self._tops = self._asked(lambda a: (float(a["logit"]), int(a["token"])), "top")
        for logit, token in self._tops:
            if math.isnan(logit):
                raise ValueError(f"logit {token} is not a number or infinite")
        return own + list(self._tops)

    def best(self, count: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        def parse(a: dict[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            return np.array(a["ids"], np.int64), np.array(a["logits"], np.float32)

        return self._own.best(count) + self._asked(parse, "best", count=count)

    def masses(self, draw: Draw) -> list[Masses]:
        def parse(a: dict[str, Any]) -> Masses:
            return Masses(int(a["octave"]), [int(value) for value in a["sums"]])

        return self._own.masses(draw) + self._asked(parse, "masses", draw=draw)

    def race(self, draw: Draw, cut: Cut) -> list[Race]:
        def parse(a: dict[str, Any]) -> Race:
            (value, token), (edge, last, logit) = a["inside"], a["edge"]
            return Race((float(value), int(token)), (float(edge), int(last), float(logit)))

        return self._own.race(draw, cut) + self._asked(parse, "race", draw=draw, cut=cut)

    def mass_before(self, draw: Draw, cut: Cut) -> list[int]:
        answers = self._asked(lambda a: int(a["mass"]), "mass_before", draw=draw, cut=cut)
        return self._own.mass_before(draw, cut) + answers

    def _asked(self, parse: Callable[[dict[str, Any]], T], question: str, **words: Any) -> list[T]:
        """The answers of the others to a question; ProtocolError for what is none."""
        try:
            return [parse(answer) for answer in self._ask({"ask": question, **words})]
        except (KeyError, TypeError, OverflowError) as error:
            raise ProtocolError(f"a worker's answer to {question} lacks {error}") from error
        except ProtocolError:
            raise
        except ValueError as error:
            raise ProtocolError(f"a worker's answer to {question} is wrong: {error}") from error


def top_of(slices: LocalSlices) -> bytes:
    """The Top message of a slice; NaN and the id where a logit is not usable."""
    try:
        return TOP.pack(*slices.top()[0])
    except ValueError as error:
        digits = [word for word in str(error).split() if word.isdigit()]
        return TOP.pack(math.nan, int(digits[0]) if digits else 0)


def answer(slices: Slices, question: dict[str, Any]) -> dict[str, Any]:
    """The answer of the node that has one slice; ProtocolError for what is not a question."""
    try:
        return _ANSWERS[question["ask"]](slices, question)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"no answer to {str(question)[:200]}: {error}") from error


def _penalise(slices: Slices, question: dict[str, Any]) -> dict[str, Any]:
    slices.penalise([int(token) for token in question["ids"]], float(question["penalty"]))
    return {}


def _top(slices: Slices, question: dict[str, Any]) -> dict[str, Any]:
    logit, token = slices.top()[0]
    return {"logit": logit, "token": token}


def _best(slices: Slices, question: dict[str, Any]) -> dict[str, Any]:
    ids, logits = slices.best(int(question["count"]))[0]
    return {"ids": ids.tolist(), "logits": logits.tolist()}


def _masses(slices: Slices, question: dict[str, Any]) -> dict[str, Any]:
    masses = slices.masses(Draw(*question["draw"]))[0]
    return {"octave": masses.octave, "sums": masses.sums}


def _race(slices: Slices, question: dict[str, Any]) -> dict[str, Any]:
    race = slices.race(Draw(*question["draw"]), Cut(*question["cut"]))[0]
    return {"inside": race.inside, "edge": race.edge}


def _mass_before(slices: Slices, question: dict[str, Any]) -> dict[str, Any]:
    return {"mass": slices.mass_before(Draw(*question["draw"]), Cut(*question["cut"]))[0]}


_ANSWERS: dict[str, Callable[[Slices, dict[str, Any]], dict[str, Any]]] = {
    "penalise": _penalise,
    "top": _top,
    "best": _best,
    "masses": _masses,
    "race": _race,
    "mass_before": _mass_before,
}
