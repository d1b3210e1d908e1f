"""Questions that change the logits of a row for all later ones, but for Score."""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.sampling.questions import NUMBER, WORDS, Json, Question, read_token
from dllama.sampling.shard import Shard, Top

MOST_IDS = 1 << 16  # of a Penalise or a Shift
MOST_MASK = 1 << 19  # bytes of an Allow


class Change(Question[Top]):
    """A change, whose reply is the new top.

    In the top of a shard with a logit that is not usable, the logit is NaN.
    """

    def reply_as_json(self, reply: Top) -> Json:
        return {"logit": reply[0], "token": reply[1]}

    def read_reply(self, content: Json, ids: range) -> Top:
        return float(content["logit"]), read_token(content["token"], ids)


@dataclass(frozen=True)
class Penalise(Change):
    """Makes tokens less likely.

    Args:
        ids: int64 (n,), at most MOST_IDS and each once.
        penalty: above 1 if they are to be less likely.
    """

    ids: NDArray[np.int64]
    penalty: float
    name = "penalise"

    def answer(self, shard: Shard) -> Top:
        shard.penalise(self.ids, self.penalty)
        return shard.marked_top()

    def as_json(self) -> Json:
        return {"ids": _packed(self.ids, "<i4"), "penalty": self.penalty}

    @classmethod
    def from_json(cls, content: Json) -> Penalise:
        ids, penalty = _read_ids(content), float(content["penalty"])
        if not 0 < penalty < math.inf:
            raise ValueError(f"penalty {penalty}")
        return cls(ids, penalty)

    def size(self) -> int:
        return WORDS + NUMBER * 3 + _packed_size(self.ids)


@dataclass(frozen=True)
class Shift(Change):
    """Adds to the logits of tokens.

    Args:
        ids: int64 (n,), at most MOST_IDS and each once.
        amounts: float32 (n,), what is added; -inf makes a token impossible.
    """

    ids: NDArray[np.int64]
    amounts: NDArray[np.float32]
    name = "shift"

    def answer(self, shard: Shard) -> Top:
        shard.shift(self.ids, self.amounts)
        return shard.marked_top()

    def as_json(self) -> Json:
        return {"ids": _packed(self.ids, "<i4"), "amounts": _packed(self.amounts, "<f4")}

    @classmethod
    def from_json(cls, content: Json) -> Shift:
        ids, amounts = _read_ids(content), _unpacked(content["amounts"], "<f4").astype(np.float32)
        if len(ids) != len(amounts) or not (amounts < math.inf).all():
            raise ValueError(f"ids {ids}, amounts {amounts}")
        return cls(ids, amounts)

    def size(self) -> int:
        return WORDS + NUMBER * 2 + _packed_size(self.ids) + _packed_size(self.amounts)


@dataclass(frozen=True)
class Allow(Change):
    """Makes all other tokens impossible.

    Args:
        mask: uint8 (n,), at most MOST_MASK, of the whole vocabulary: bit i % 8 of byte i // 8 is
            token i.
    """

    mask: NDArray[np.uint8]
    name = "allow"

    def answer(self, shard: Shard) -> Top:
        shard.allow(self.mask)
        return shard.marked_top()

    def as_json(self) -> Json:
        packed = zlib.compress(self.mask.tobytes(), 1)  # with few tokens or nearly all, it is short
        return {"mask": base64.b64encode(packed).decode()}

    @classmethod
    def from_json(cls, content: Json) -> Allow:
        packed, reader = base64.b64decode(content["mask"], validate=True), zlib.decompressobj()
        try:
            raw = reader.decompress(packed, MOST_MASK)
        except zlib.error as error:
            raise ValueError(f"mask: {error}") from error
        if not reader.eof or reader.unused_data:
            raise ValueError(f"mask of {len(packed)} bytes")
        return cls(np.frombuffer(raw, np.uint8))

    def size(self) -> int:
        most = len(self.mask) + len(self.mask) // 1000 + 16  # bytes that zlib makes of it
        return WORDS + NUMBER * 2 + 4 * -(-most // 3)


def _packed(values: NDArray[Any], dtype: str) -> str:
    """Return numbers of 4 bytes as a text."""
    return base64.b64encode(values.astype(dtype).tobytes()).decode()


def _unpacked(text: str, dtype: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype)


def _packed_size(values: NDArray[Any]) -> int:
    """Return the bytes of `_packed` at most."""
    return 4 * -(-4 * len(values) // 3)


def _read_ids(content: Json) -> NDArray[np.int64]:
    """Return the ids of a change, or raise ValueError."""
    ids = _unpacked(content["ids"], "<i4").astype(np.int64)
    if (ids[:1] < 0).any() or (np.diff(ids) <= 0).any():
        raise ValueError(f"ids {ids}")
    return ids
