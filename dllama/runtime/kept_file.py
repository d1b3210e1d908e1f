"""Files in the user's cache folder that keep what was measured, from start to start.

Delete one to measure anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

log = logging.getLogger("dllama.engine")

MOST_BYTES = 1 << 16  # of a file
T = TypeVar("T")


def cache_folder() -> Path:
    """Return dllama's folder among those of the user for what may be lost."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dllama"


def kept_path(kind: str, key: Sequence[object]) -> Path:
    """Return the path of a file; kind: of measurement, key: all that it depends on, as JSON."""
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return cache_folder() / f"{kind}-{digest[:16]}.json"


def read_kept(path: Path, parse: Callable[[object], T]) -> T | None:
    """Return what a file holds, None if there is none or it is broken.

    Args:
        path: of the file.
        parse: checks and returns the JSON value in it; ValueError says what is wrong.
    """
    try:
        with path.open("rb") as file:
            return parse(json.loads(file.read(MOST_BYTES)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s: to be measured anew: %s", path, error)
        return None


def write_kept(path: Path, content: Mapping[str, object]) -> None:
    """Write a file, whole or not at all; where that cannot be, the next start measures again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s: not kept: %s", path, error.strerror)
