"""What socket transports share."""

from __future__ import annotations

from dllama.transports.sockets import network_of


def test_the_network_of_an_address():
    assert network_of("10.1.2.3") == network_of("10.1.2.3:99") == "10.1.2.3"
    assert network_of("2001:db8::1") == network_of("[2001:db8::ffff:2]:99") == "2001:db8::/64"
    assert network_of("[::ffff:10.1.2.3]:99") == "10.1.2.3"
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("unix:/run/x.sock") == "unix:/run/x.sock"
    assert network_of("") == ""
