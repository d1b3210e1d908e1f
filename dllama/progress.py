"""What is told while something takes time: bars that count bytes, and a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

# Called with what is being done, and the share of it that is done, from 0 to 1.
Report = Callable[[str, float], None]


def nobody(what: str, share: float) -> None:
    """Take no notice."""


@dataclass(frozen=True)
class Progress:
    """Who is told.

    Args:
        shown: whether to show bars, which also need a terminal.
        report: is told how far it is.
    """

    shown: bool = False
    report: Report = nobody

    @classmethod
    def of(cls, progress: bool | Progress) -> Progress:
        """Return it, or for a flag whether to show bars."""
        return progress if isinstance(progress, Progress) else cls(progress)


SILENT = Progress()


@contextmanager
def byte_bar(total: int, what: str, progress: Progress) -> Iterator[Callable[[int], None]]:
    """Count bytes on a bar that appears after a second and disappears at the end.

    Args:
        total: bytes.
        what: label.
        progress: who is told.

    Yields:
        A function to call with the number of bytes of each piece.
    """
    done = 0
    with tqdm(
        total=total,
        desc=what,
        unit="B",
        unit_scale=True,
        leave=False,
        delay=1.0,
        disable=None if progress.shown else True,
    ) as bar:

        def count(size: int) -> None:
            nonlocal done
            done += size
            bar.update(size)
            progress.report(what, done / total if total else 1.0)

        progress.report(what, 0.0)
        yield count
