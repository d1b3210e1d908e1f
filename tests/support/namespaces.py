"""Networks of namespaces for tests, which are skipped where the system cannot make them."""

from __future__ import annotations

import functools

import pytest
from networks import Cable, Node, missing, network

__all__ = ["Cable", "Node", "need_namespaces", "network"]

_missing = functools.cache(missing)


def need_namespaces(quotas: bool = False, delay: bool = False) -> None:
    """Skip the test, with the reason, unless this system can make networks.

    Args:
        quotas: whether the test gives nodes quotas of processor time.
        delay: whether a cable has a delay, which many kernels lack (netem).
    """
    reason = _missing(quotas, delay)
    if reason is not None:
        pytest.skip(reason)
