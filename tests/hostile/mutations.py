"""Damage: to bytes, to JSON values and to texts. The same random numbers do the same damage."""

from __future__ import annotations

import copy
import json
import random
import re
import struct
from collections.abc import Iterator
from typing import Any

HEAD = 4096  # bytes in which most damage is done, since headers are there
BORDERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, -(2**70), 10**400, 1e308, 1e-320),
    *(float("nan"), float("inf"), "", "1", "\ud800", "\x00", "x\x1b[2J\r\n\u202e", "a" * 5000),
    *([], [[]], [None], [2**70], {}, {"": {"": []}}, {"type": ["a"]}, {"type": "text"}),
)
WORD = re.compile(r"\w+|\s+|[^\w\s]+")
NESTED = 5000


def damaged(data: bytes, rng: random.Random, head: int = HEAD) -> bytes:
    """Bytes with one to four changes, most of them in the first `head` bytes."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(head, len(made)) if rng.random() < 0.8 else len(made)) if made else 0
        rng.choice(CHANGES)(made, at, rng)
    return bytes(made)


def _flip(data: bytearray, at: int, rng: random.Random) -> None:
    if data:
        data[at] ^= 1 << rng.randrange(8)


def _number(data: bytearray, at: int, rng: random.Random) -> None:
    """Write a number at a border of an integer type, where fields of that size may be."""
    size, kind = rng.choice([(1, "B"), (2, "H"), (4, "I"), (8, "Q")])
    at -= at % size
    number = rng.choice(BORDERS) & ((1 << 8 * size) - 1)
    data[at : at + size] = struct.pack(f"<{kind}", number)


def _float(data: bytearray, at: int, rng: random.Random) -> None:
    at -= at % 4
    data[at : at + 4] = struct.pack("<f", rng.choice([float("nan"), float("inf"), 1e38, -0.0]))


def _cut(data: bytearray, at: int, _: random.Random) -> None:
    del data[at:]


def _drop(data: bytearray, at: int, rng: random.Random) -> None:
    del data[at : at + rng.choice([1, 4, 8, 100])]


def _splice(data: bytearray, at: int, rng: random.Random) -> None:
    """Copy a part of the data to another place."""
    begin = rng.randrange(len(data) + 1)
    data[at:at] = data[begin : begin + rng.choice([1, 4, 8, 100, 1000])]


def _noise(data: bytearray, at: int, rng: random.Random) -> None:
    size = rng.choice([1, 4, 16, 200])
    data[at : at + rng.choice([0, size])] = rng.randbytes(size)


CHANGES = (_flip, _number, _number, _float, _cut, _drop, _splice, _noise)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON value are, its own place first."""
    yield place
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


def changed(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of a JSON value with another value in a place."""
    if not place:
        return value
    made = copy.deepcopy(body)
    inner = made
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return made


def damaged_json(value: Any, rng: random.Random, flat: bool = False) -> bytes:
    """JSON with a wrong value in one to three places; sometimes with damage to its text.

    Args:
        value: the JSON value.
        rng: random numbers.
        flat: whether to change only values at the top, since there are too many below.
    """
    for _ in range(rng.randint(1, 3)):
        known = [(key,) for key in value] if flat else [*places(value)][1:]
        if not known:
            break
        place = rng.choice(known)
        if rng.random() < 0.15:
            value = _without(value, place)
        else:
            other = rng.choice(WRONG) if rng.random() < 0.8 else _inside(value, rng.choice(known))
            value = changed(value, place, other)
    text = json.dumps(value)
    if rng.random() < 0.15:
        return damaged(text.encode(), rng)
    if rng.random() < 0.1:
        return _twice(value, text, rng).encode()
    return text.encode()


def _inside(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _without(value: Any, place: tuple[Any, ...]) -> Any:
    made = copy.deepcopy(value)
    del _inside(made, place[:-1])[place[-1]]
    return made


def _twice(value: Any, text: str, rng: random.Random) -> str:
    """The text of an object with a key given twice, or of something that is nested deeply."""
    if not isinstance(value, dict) or not value:
        return text
    key, open_ = json.dumps(rng.choice([*value])), rng.choice(["[", '{"a":'])
    other = rng.choice(["1", "null", open_ * NESTED])
    return f"{text[:-1]}, {key}: {other}}}"


def damaged_text(text: str, rng: random.Random, evil: tuple[str, ...]) -> str:
    """A text some of whose words are dropped, doubled, swapped or replaced by others.

    Args:
        text: the text.
        rng: random numbers.
        evil: words to put in, besides the text's own.
    """
    words = WORD.findall(text)
    for _ in range(rng.randint(1, 5)):
        at, other = rng.randrange(len(words)), rng.randrange(len(words))
        change = rng.randrange(5)
        if change == 0:
            words[at] = ""
        elif change == 1:
            words[at] *= rng.choice([2, 2, 50])
        elif change == 2:
            words[at], words[other] = words[other], words[at]
        elif change == 3:
            words[at] = words[other]
        else:
            words[at] = rng.choice(evil)
    return "".join(words)
