"""Reading JSON objects from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dllama.errors import FormatError, ModelError
from dllama.git_lfs import refuse_pointer


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a ModelError or FormatError names the file."""
    try:
        return parse_json(path.read_bytes(), path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error


def read_json_if_any(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if there is no such file."""
    return read_json(path) if path.is_file() else {}


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object; path: the file that the bytes come from, for the FormatError
    (or ModelError, if it is a Git LFS pointer)."""
    refuse_pointer(data, path)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, "JSON", f"broken ({error})", "an object") from error
    if not isinstance(value, dict):
        raise FormatError(path, "JSON", type(value).__name__, "an object")
    return value
