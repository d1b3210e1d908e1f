"""What messages call the nodes. Names come from other machines, so they are checked here."""

from __future__ import annotations

import socket
from collections.abc import Sequence

MOST = 63  # bytes: the longest label of a domain name
LISTED = 8  # nodes that a line lists
OTHERS = "-_ "  # that may be in a name, besides letters and digits


def clean(name: object, others: str = OTHERS) -> str:
    """Return a name as another node gives it, without what could pass for a part of a message."""
    text = name[: 2 * MOST] if isinstance(name, str) else ""
    kept = "".join(c for c in text if c.isalnum() or c in others).strip()
    while len(kept.encode(errors="replace")) > MOST:
        kept = kept[:-1]
    return kept


def listed(texts: Sequence[str], between: str = ", ") -> str:
    """Return texts in a line; of many, the first ones, and how many more there are."""
    more = len(texts) - LISTED
    return between.join([*texts[:LISTED], *([f"and {more} more"] if more > 0 else [])])


def host_name() -> str:
    """Return the name of this machine, without its domain."""
    return clean(socket.gethostname().partition(".")[0]) or "node"


def place(name: str, address: str) -> str:
    """Return "pi-2, 10.0.0.3:9999", or the address alone where there is no name."""
    return f"{name}, {address}" if name else address


def worker(rank: int, name: str, address: str) -> str:
    """Return "worker 2 (pi-2, 10.0.0.3:9999)"."""
    return f"worker {rank} ({place(name, address)})"
