"""Packages that only some formats need."""

from __future__ import annotations

import importlib
from typing import Any

from dllama.errors import UnsupportedError


def require(package: str, extra: str, what: object) -> Any:
    """Import a package.

    Args:
        package: its name.
        extra: the extra of dllama that installs it.
        what: what needs it, for the error message.

    Raises:
        UnsupportedError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UnsupportedError(
            f"{what} needs the package {package} ({error}): pip install 'dllama[{extra}]'"
        ) from error
