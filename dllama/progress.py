"""Progress bars that count bytes."""

from __future__ import annotations

from typing import NoReturn

from tqdm import tqdm


def byte_bar(total: int, what: str, shown: bool) -> tqdm[NoReturn]:
    """Create a bar that appears after a second and disappears at the end.

    Args:
        total: bytes.
        what: label.
        shown: whether to show the bar, which also needs a terminal.
    """
    return tqdm(
        total=total,
        desc=what,
        unit="B",
        unit_scale=True,
        leave=False,
        delay=1.0,
        disable=None if shown else True,
    )
