"""Addresses that commands listen at, and who can reach them."""

from __future__ import annotations

import ipaddress

from dllama import transports
from dllama.errors import ConfigError
from dllama.transports.sockets import parse_tcp


def is_public(address: str) -> bool:
    """Whether a listener at this address can be reached from other machines."""
    if transports.scheme_of(address) == "unix":
        return False
    host, _ = parse_tcp(address.partition("://")[2] or address)
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def check_guarded(address: str, secret: bytes | None, insecure: bool, option: str) -> None:
    """ConfigError where other machines could connect without a secret, which `option` gives."""
    if secret is None and not insecure and is_public(address):
        raise ConfigError(
            f"--listen {address}: other machines could connect: give {option}, or "
            f"--insecure for a network you trust"
        )
