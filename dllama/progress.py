"""The bar that shows how far bytes are."""

from __future__ import annotations

from typing import NoReturn

from tqdm import tqdm


def byte_bar(total: int, what: str, shown: bool) -> tqdm[NoReturn]:
    """A bar of so many bytes for what takes more than a second, gone at the end.

    shown: on a terminal only.
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
