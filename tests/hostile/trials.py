"""What a trial with bad input may end with: it works, or one error of dllama's that says why."""

from __future__ import annotations

import abc
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from dllama.checks import one_line
from dllama.errors import MOST, DllamaError

LONGEST = 7 * MOST  # characters of a message whose characters are escaped
FORBIDDEN = ("unexpected error", "Traceback", "internal error")


class Fault(Exception):  # noqa: N818 (the word of the documentation)
    """Something that must not happen, whatever the input."""


class Kind(abc.ABC):
    """Trials of one kind.

    Args:
        folder: where they may write.

    Attributes:
        seconds: that a trial may take. Those that start processes wait for less in each step.
    """

    seconds = 60.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abc.abstractmethod
    def trial(self, rng: random.Random) -> bool:
        """Do a trial, and return whether its input was accepted; all but that and True is a Fault.

        The same random numbers are the same trial.
        """

    def close(self) -> None:  # noqa: B027 (most have nothing to close)
        """End what the trials share; a Fault if something is wrong with it."""

    def emptied(self, name: str = "case") -> Path:
        """Return an empty folder, for the input of a trial. It is kept if the trial fails."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path


def accepted(action: Callable[[], object], *names: str) -> bool:
    """Whether an action works; False if an error refuses it that says where the fault is.

    Args:
        action: what to do. An error that is not one of dllama's is left to the caller.
        names: of which the message has one.
    """
    try:
        action()
    except DllamaError as error:
        check_message(str(error), *names)
        return False
    return True


def check_message(message: str, *names: str) -> None:
    """Raise a Fault if a message is not short, does not have one of some names, or is a fault's."""
    line = one_line(" ".join(message.split()))
    if not 0 < len(line) <= LONGEST or line.startswith("unexpected "):
        raise Fault(f"a message of {len(line)} characters: {line[:300]}")
    if names and not any(one_line(name) in line for name in names):
        raise Fault(f"none of {', '.join(names)} is in: {line}")
    check_text(message)


def check_text(text: str) -> None:
    """Raise a Fault if a text says that something was not foreseen."""
    for word in FORBIDDEN:
        if word in text:
            raise Fault(f"{word} in: {text[-2000:]}")
