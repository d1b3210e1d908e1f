"""What the sampler asks about a row, and how questions and replies go through messages.

Those that also change its logits are in changes.py. A question is asked about every vocabulary
shard. On another node it arrives as a JSON object, and so does the reply. Neither side trusts the
other one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.ops.sampling import MAX_OCTAVE, OCTAVES
from dllama.options import MAX_SEED, TEMPERATURE
from dllama.sampling.shard import Cut, Draw, Likelihood, Masses, Shard, Winners

LEAST_TEMPERATURE = 1e-6  # below it, the likeliest token is taken
MAX_NUMBER = 1 << 31  # of ids, counts and tokens drawn
MOST_BEST = 1 << 14  # tokens of a Best
WORDS = 200  # bytes of JSON at most without the numbers, of a question and its reply
NUMBER = 26  # bytes of JSON at most of a number and the signs around it
T = TypeVar("T")
Json = dict[str, Any]


class Question(ABC, Generic[T]):
    """A question to a shard, whose reply is a T.

    What reads JSON raises KeyError, TypeError, ValueError or OverflowError for what is wrong.
    """

    name: ClassVar[str]

    @abstractmethod
    def answer(self, shard: Shard) -> T:
        """Return the reply of a shard."""

    @abstractmethod
    def as_json(self) -> Json:
        """Return the question as a JSON object."""

    @classmethod
    @abstractmethod
    def from_json(cls, content: Json) -> Question[Any]:
        """Read a question."""

    @abstractmethod
    def reply_as_json(self, reply: T) -> Json:
        """Return a reply as a JSON object."""

    @abstractmethod
    def read_reply(self, content: Json, ids: range) -> T:
        """Read the reply of the shard with these ids."""

    @abstractmethod
    def size(self) -> int:
        """Return the bytes of JSON that the question and its reply have at most."""


@dataclass(frozen=True)
class Best(Question[tuple[NDArray[np.int64], NDArray[np.float32]]]):
    """Asks for the best tokens: ids (m,) and logits (m,), best first.

    Args:
        first: how many better ones to leave out.
        count: how many to return, at most MOST_BEST.
    """

    first: int
    count: int
    name = "best"

    def answer(self, shard: Shard) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return shard.best(self.first, self.count)

    def as_json(self) -> Json:
        return {"first": self.first, "count": self.count}

    @classmethod
    def from_json(cls, content: Json) -> Best:
        first, count = int(content["first"]), int(content["count"])
        if not 0 <= first < MAX_NUMBER or not 0 < count <= MOST_BEST:
            raise ValueError(f"first is {first}, count is {count}")
        return cls(first, count)

    def reply_as_json(self, reply: tuple[NDArray[np.int64], NDArray[np.float32]]) -> Json:
        return {"ids": reply[0].tolist(), "logits": reply[1].tolist()}

    def read_reply(
        self, content: Json, ids: range
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        tokens = [read_token(token, ids) for token in content["ids"]]
        logits = np.array(content["logits"], np.float32)
        expected = min(self.count, max(0, len(ids) - self.first))
        if len(tokens) != expected or logits.shape != (expected,):
            raise ValueError(f"{len(tokens)} tokens")
        return np.array(tokens, np.int64), logits

    def size(self) -> int:
        return WORDS + NUMBER * (2 + 2 * self.count)


@dataclass(frozen=True)
class Weigh(Question[Masses]):
    """Asks for the weights of all tokens, summed by octave."""

    draw: Draw
    name = "weigh"

    def answer(self, shard: Shard) -> Masses:
        return shard.masses(self.draw)

    def as_json(self) -> Json:
        return {"draw": self.draw}

    @classmethod
    def from_json(cls, content: Json) -> Weigh:
        return cls(_read_draw(content))

    def reply_as_json(self, reply: Masses) -> Json:
        return reply._asdict()

    def read_reply(self, content: Json, ids: range) -> Masses:
        masses = Masses(int(content["octave"]), [int(value) for value in content["sums"]])
        if abs(masses.octave) > MAX_OCTAVE or len(masses.sums) != OCTAVES:
            raise ValueError(f"{len(masses.sums)} sums from octave {masses.octave}")
        return masses

    def size(self) -> int:
        return WORDS + NUMBER * (4 + OCTAVES)


@dataclass(frozen=True)
class Race(Question[Winners]):
    """Asks for the winners among the tokens that a cut allows."""

    draw: Draw
    cut: Cut
    name = "race"

    def answer(self, shard: Shard) -> Winners:
        return shard.race(self.draw, self.cut)

    def as_json(self) -> Json:
        return {"draw": self.draw, "cut": self.cut}

    @classmethod
    def from_json(cls, content: Json) -> Race:
        return cls(_read_draw(content), _read_cut(content))

    def reply_as_json(self, reply: Winners) -> Json:
        return reply._asdict()

    def read_reply(self, content: Json, ids: range) -> Winners:
        (value, token), (edge, last, logit) = content["inside"], content["edge"]
        return Winners(
            (float(value), token if value == -math.inf else read_token(token, ids)),
            (float(edge), last if edge == -math.inf else read_token(last, ids), float(logit)),
        )

    def size(self) -> int:
        return WORDS + NUMBER * 12


@dataclass(frozen=True)
class WeighBefore(Question[int]):
    """Asks for the sum of the weights that a cut allows in its octave."""

    draw: Draw
    cut: Cut
    name = "weigh_before"

    def answer(self, shard: Shard) -> int:
        return shard.mass_before(self.draw, self.cut)

    def as_json(self) -> Json:
        return {"draw": self.draw, "cut": self.cut}

    @classmethod
    def from_json(cls, content: Json) -> WeighBefore:
        return cls(_read_draw(content), _read_cut(content))

    def reply_as_json(self, reply: int) -> Json:
        return {"mass": reply}

    def read_reply(self, content: Json, ids: range) -> int:
        return int(content["mass"])

    def size(self) -> int:
        return WORDS + NUMBER * 8


@dataclass(frozen=True)
class Score(Question[Likelihood]):
    """Asks for what gives the log probability of a token and of the best `count`."""

    token: int
    count: int
    name = "score"

    def answer(self, shard: Shard) -> Likelihood:
        return shard.likelihood(self.token, self.count)

    def as_json(self) -> Json:
        return {"token": self.token, "count": self.count}

    @classmethod
    def from_json(cls, content: Json) -> Score:
        token, count = int(content["token"]), int(content["count"])
        if not 0 <= token < MAX_NUMBER or not 0 <= count <= MOST_BEST:
            raise ValueError(f"token is {token}, count is {count}")
        return cls(token, count)

    def reply_as_json(self, reply: Likelihood) -> Json:
        return reply._asdict()

    def read_reply(self, content: Json, ids: range) -> Likelihood:
        logit = float(content["logit"]) if self.token in ids else None
        best = [(read_token(one, ids), float(value)) for one, value in content["best"]]
        found = Likelihood(float(content["largest"]), float(content["total"]), logit, best)
        numbers = [found.largest, found.total, logit or 0.0, *(value for _, value in best)]
        if any(math.isnan(number) or number == math.inf for number in numbers):
            raise ValueError("a number is NaN or infinite")
        if len(best) != min(self.count, len(ids)) or found.total < 0:
            raise ValueError(f"{len(best)} tokens, total {found.total}")
        return found

    def size(self) -> int:
        return WORDS + NUMBER * (5 + 2 * self.count)


def read_token(token: object, ids: range) -> int:
    """Return a token of the shard with these ids, or raise ValueError."""
    if type(token) is not int or token not in ids:
        raise ValueError(f"token {str(token)[:100]} is not one of {ids}")
    return token


def _read_draw(content: Json) -> Draw:
    """Return the draw of a question, or raise ValueError."""
    temperature, seed, number = content["draw"]
    draw = Draw(float(temperature), int(seed), int(number))
    if not LEAST_TEMPERATURE <= draw.temperature <= TEMPERATURE.most:
        raise ValueError(f"temperature is {draw.temperature}")
    if not 0 <= draw.seed <= MAX_SEED or not 0 <= draw.number < MAX_NUMBER:
        raise ValueError(f"seed is {draw.seed}, number is {draw.number}")
    return draw


def _read_cut(content: Json) -> Cut:
    """Return the cut of a question, or raise ValueError."""
    octave, logit, token, least = content["cut"]
    cut = Cut(int(octave), float(logit), int(token), float(least))
    if not -2 * MAX_OCTAVE <= cut.octave <= MAX_OCTAVE or not -1 <= cut.token < MAX_NUMBER:
        raise ValueError(f"octave is {cut.octave}, token is {cut.token}")
    if math.isnan(cut.logit) or math.isnan(cut.least):
        raise ValueError("a bound is not a number")
    return cut
