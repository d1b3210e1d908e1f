"""Whose announcements are heard: those of many senders, and few of each."""

from __future__ import annotations

import pytest
from zeroconf import DNSOutgoing, DNSPointer

from dllama.cluster.finding.announcing import SERVICE
from dllama.cluster.finding.senders import MAX_OF_ONE, MAX_SERVICES, Crowd, pointers

PTR, CLASS, RESPONSE = 12, 1, 0x8400


def packet(*names: str, kind: str = SERVICE, flags: int = RESPONSE, seconds: int = 120) -> bytes:
    message = DNSOutgoing(flags)
    for name in names:
        message.add_answer_at_time(DNSPointer(kind, PTR, CLASS, seconds, f"{name}.{SERVICE}"), 0)
    return message.packets()[0]


def test_the_names_in_a_packet():
    assert pointers(packet("pi-1", "pi-2"), SERVICE) == [f"pi-1.{SERVICE}", f"pi-2.{SERVICE}"]


@pytest.mark.parametrize(
    "other",
    [
        packet("pi", kind="_http._tcp.local."),
        packet("pi", flags=0),
        packet("pi", seconds=0),
        packet("pi")[:-3],
        b"",
        bytes(12),
        b"\xff" * 100,
    ],
    ids=["kind", "question", "goodbye", "cut", "empty", "zeros", "ones"],
)
def test_packets_that_announce_nothing(other):
    assert pointers(other, SERVICE) == []


def test_who_announces_many_does_not_crowd_out_others():
    crowd = Crowd()
    taken = [name for name in map(str, range(2000)) if crowd.admits(name, "10.0.0.66")]
    assert len(taken) == MAX_OF_ONE
    assert crowd.admits("pi-2", "10.0.0.2")
    assert not crowd.admits("PI-2", "10.0.0.3")  # known
    assert not crowd.admits("1999", "10.0.0.66")
    assert crowd.admits("1999", "10.0.0.2")  # whoever made it known before


def test_there_is_a_limit_of_all():
    crowd = Crowd()
    assert (
        sum(crowd.admits(str(n), f"10.0.{n >> 8}.{n & 255}") for n in range(2000)) == MAX_SERVICES
    )
