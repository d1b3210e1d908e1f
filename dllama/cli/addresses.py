"""What a command needs to listen where other machines can reach it."""

from __future__ import annotations

from dllama.cluster.secrets import check_length
from dllama.errors import ConfigError
from dllama.transports import is_public


def check_guarded(address: str, secret: bytes | None, insecure: bool, option: str) -> None:
    """ConfigError if other machines could connect without a secret, or with one to guess.

    Args:
        address: where the command listens.
        secret: what a client must know, None for nothing.
        insecure: whether the user allowed to have none.
        option: the option that gives a secret, for the message.
    """
    if secret is None and not insecure and is_public(address):
        raise ConfigError(
            f"listening at {address}: other machines could connect: give {option}, or "
            f"--insecure for a network you trust"
        )
    check_length(secret, address, option)
