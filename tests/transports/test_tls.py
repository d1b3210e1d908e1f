"""TLS on links of all transports, and what it does when bytes are altered."""

from __future__ import annotations

from dllama import transports
from dllama.transports.conformance import Conformance


class TestBlocking(Conformance):
    transport = transports.get("blocking")
    encrypted = True


class TestNonblocking(Conformance):
    transport = transports.get("nonblocking")
    encrypted = True


class TestUnix(Conformance):
    transport = transports.get("unix")
    encrypted = True
