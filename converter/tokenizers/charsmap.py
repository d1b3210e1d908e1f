"""Checks the character map of a SentencePiece model before a library uses it.

The map consists of the size of a trie in bytes, the trie (a double array of uint32, as built by
Darts-clone) and the replacements, strings that end with a zero byte. Libraries follow its indices
without checking them, so a broken map would crash them in the middle of a text.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 1 << 22
# How many nodes are checked at a time, with 255 children each.
RUN = 1024

Units = NDArray[np.int64]


def check_charsmap(data: bytes) -> None:
    """Raise ValueError unless every text can be looked up in the map."""
    if not 4 <= len(data) <= MAX_BYTES:
        raise ValueError(f"the character map has {len(data)} bytes, expected 4 to {MAX_BYTES}")
    (size,) = struct.unpack_from("<I", data)
    if size % 4 or not 0 < size <= len(data) - 4:
        raise ValueError(f"the trie of the character map has {size} bytes")
    trie = np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64)
    replacements = data[4 + size :]
    replacements.decode()
    _check_trie(trie, replacements)


def _check_trie(trie: Units, replacements: bytes) -> None:
    """Visit every node that a text can reach."""
    bytes_ = np.frombuffer(replacements, np.uint8)
    starts = np.append((bytes_ & 0xC0) != 0x80, True)  # start of a character, or the end
    seen = np.zeros(trie.size, bool)
    todo = _checked(_offsets(trie[:1]), trie)
    while todo.size:
        seen[todo] = True
        nodes, todo = todo[:RUN], todo[RUN:]
        found, values = _children(trie, nodes)
        if not (values < starts.size).all() or not starts[values].all():
            raise ValueError("the character map points outside its replacements")
        todo = np.concatenate([todo, found[~seen[found]]])
        seen[found] = True


def _children(trie: Units, nodes: Units) -> tuple[Units, Units]:
    """Return the nodes below these, and the values stored there."""
    index = nodes[:, None] ^ np.arange(1, 256)
    units = trie[index]
    labels = units & (1 << 31 | 0xFF)
    below = labels == np.arange(1, 256)
    units = units[below]
    found = _checked(index[below] ^ _offsets(units), trie)
    values = trie[found[(units >> 8 & 1) == 1]] & ((1 << 31) - 1)
    return np.unique(found), values


def _offsets(units: Units) -> Units:
    """Return the offsets of the units' children, as Darts-clone packs them."""
    return (units >> 10) << ((units & 1 << 9) >> 6)


def _checked(nodes: Units, trie: Units) -> Units:
    """Return the nodes if all their children lie within the trie."""
    if ((nodes | 0xFF) >= trie.size).any():
        raise ValueError("the trie of the character map points outside itself")
    return nodes
