"""What nodes, or a server and its clients, know and strangers do not."""

from __future__ import annotations

import os
from pathlib import Path

from dllama.errors import ConfigError
from dllama.transports import is_public

LEAST = 16  # bytes
VARIABLE = "DLLAMA_SECRET"


def read_secret(path: str | Path | None, variable: str = VARIABLE) -> bytes | None:
    """Read a secret, without white space at its ends.

    Args:
        path: a file; None for the environment variable.
        variable: its name.

    Returns:
        The secret, or None if there is neither.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    if path is None:
        found = os.fsencode(os.environ.get(variable, "")).strip()
        return found or None
    try:
        secret = Path(path).expanduser().read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"secret file {path}: {error.strerror}") from error
    if not secret:
        raise ConfigError(f"secret file {path} is empty")
    return secret


def check_length(secret: bytes | None, address: str, option: str) -> None:
    """ConfigError for a secret that can be guessed, at an address that other machines can reach.

    Whoever sees a handshake can try secrets at home, without asking a node.

    Args:
        secret: None for none.
        address: where it is proved.
        option: the option that gives it, for the message.
    """
    if secret is not None and len(secret) < LEAST and is_public(address):
        raise ConfigError(
            f"{option}: the secret has {len(secret)} bytes, at {address} it needs at least "
            f"{LEAST}: dllama secret makes one"
        )
