"""The addresses at which commands listen, and who can reach them."""

from __future__ import annotations

import ipaddress

from dllama import transports
from dllama.errors import ConfigError
from dllama.transports.sockets import parse_tcp


def is_public(address: str) -> bool:
    """Whether a listener at this address can be reached from other machines."""
    if transports.of_address(address).local:
        return False
    host, _ = parse_tcp(address.partition("://")[2] or address)
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def check_guarded(address: str, secret: bytes | None, insecure: bool, option: str) -> None:
    """ConfigError if other machines could connect without a secret.

    Args:
        address: where the command listens.
        secret: what a client must know, None for nothing.
        insecure: whether the user allowed it.
        option: the option that gives a secret, for the message.
    """
    if secret is None and not insecure and is_public(address):
        raise ConfigError(
            f"listening at {address}: other machines could connect: give {option}, or "
            f"--insecure for a network you trust"
        )
