"""Packages that only some sources need."""

from __future__ import annotations

import importlib
from typing import Any

from dllama.errors import UnsupportedError


def require(package: str, extra: str, what: object) -> Any:
    """A package; UnsupportedError says what needs it and which extra of dllama brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UnsupportedError(
            f"{what} needs the package {package} ({error}): pip install 'dllama[{extra}]'"
        ) from error
