"""Text files that commands read, and reports that they write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from dllama.errors import InputError, OutputError


def read_text(path: str, option: str) -> str:
    """Read a text file; InputError names the option if that fails."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{option} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{option} {path}: not UTF-8 at byte {error.start}") from error


def check_output(path: str | None) -> None:
    """OutputError if a file cannot be written, so that this is known before the work."""
    if path is None:
        return
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"{path}: is a folder, expected a file to write")
    if not os.access(target.parent, os.W_OK):
        reason = "not writable" if target.parent.is_dir() else "not a folder"
        raise OutputError(f"{path}: cannot write: {target.parent} is {reason}")


def write_json(path: str, value: object, indent: int | None = 2) -> None:
    """Write a JSON file, complete or not at all; a device or pipe is written directly."""
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    write(path, lambda target: target.write_text(text, encoding="utf-8"))


def write(path: str, save: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, then rename it, so that it is complete or absent.

    A device or pipe is written directly.

    Args:
        path: the file to write.
        save: writes to the path that it is given.

    Raises:
        OutputError: the file cannot be written; the message names it.
    """
    target = Path(path).resolve()
    try:
        if target.exists() and not target.is_file():
            save(target)
        else:
            _replace(target, save)
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror}") from error


def _replace(target: Path, save: Callable[[Path], object]) -> None:
    """Write under a temporary name, then rename."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.open("x").close()
        save(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
