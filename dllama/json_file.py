"""Reading JSON objects from files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dllama.errors import FormatError, ModelError
from dllama.git_lfs import refuse_pointer

ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


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
        check_unicode(value, data)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, "JSON", f"broken ({error})", "an object") from error
    if not isinstance(value, dict):
        raise FormatError(path, "JSON", type(value).__name__, "an object")
    return value


def check_unicode(value: object, data: bytes) -> None:
    """Raise ValueError if a text of a JSON value has half a surrogate pair.

    Args:
        value: what `data` stands for. No text can have such a half where this is UTF-8, unless it
            is escaped.
        data: JSON.
    """
    if b"\\u" in data and ESCAPE.search(data):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text is not valid Unicode: it has half a surrogate pair") from None
