"""All transports in the public conformance suite, and what is special about each."""

from __future__ import annotations

import contextlib
import socket
import stat

import pytest

from dllama import transports
from dllama.errors import ConfigError, TransportError
from dllama.transports.conformance import LIMIT, Conformance
from dllama.transports.sockets import format_tcp, parse_tcp, parse_unix


class TestBlocking(Conformance):
    transport = transports.get("blocking")

    def address(self, folder):
        return "127.0.0.1:0"


class TestNonblocking(Conformance):
    transport = transports.get("nonblocking")


class TestUnix(Conformance):
    transport = transports.get("unix")


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize("name", ["blocking", "nonblocking"])
@pytest.mark.parametrize("host", ["localhost", "[::1]", "127.0.0.1"])
def test_hosts(name, host):
    if host == "[::1]" and not has_ipv6():
        pytest.skip("no IPv6 here")
    transport = transports.get(name)
    with transport.listen(f"{host}:0") as listener:
        assert not listener.address.endswith(":0")
        with transport.connect(listener.address, LIMIT) as near, listener.accept(LIMIT) as far:
            near.send(b"x")
            far.timeout = LIMIT
            far.recv_into(bytearray(1))


def test_modes_of_tcp_connect_to_each_other():
    with transports.get("blocking").listen("127.0.0.1:0") as listener:
        near = transports.get("nonblocking").connect(listener.address, LIMIT)
        with near, transports.get("nonblocking").adopt(listener.accept(LIMIT)) as far:
            near.send(b"x")
            far.recv_into(bytearray(1))


def test_sockets_send_at_once():
    transport = transports.get("blocking")
    with transport.listen("127.0.0.1:0") as listener:
        connection = transport.connect(listener.address, LIMIT).detach()
    with connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_unknown_host():
    with pytest.raises(TransportError, match=r"connecting to no-such-host\.invalid:1: "):
        transports.get("blocking").connect("no-such-host.invalid:1", 5.0)


def test_a_socket_file_is_private_and_removed(tmp_path):
    path = tmp_path / "socket"
    with transports.get("unix").listen(f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_socket_file_that_nobody_listens_at_is_replaced(tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    transports.get("unix").listen(f"unix:{path}").close()
    path.write_text("a file of somebody")
    with pytest.raises(TransportError, match="Address already in use"):
        transports.get("unix").listen(f"unix:{path}")
    assert path.read_text() == "a file of somebody"


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("a.b:1", ("a.b", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("tcp://10.0.0.1:9999", ("10.0.0.1", 9999)),
    ],
)
def test_tcp_addresses(address, parsed):
    assert parse_tcp(address) == parsed
    assert parse_tcp(format_tcp(*parsed)) == parsed


@pytest.mark.parametrize("address", ["a", "a:", ":1", "::1:1", "a:65536", "a:-1", "a:١", "a: 1"])
def test_malformed_tcp_addresses(address):
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        parse_tcp(address)


def test_unix_addresses(tmp_path):
    assert parse_unix("unix:/a/b") == parse_unix("unix:///a/b") == "/a/b"
    with pytest.raises(ConfigError, match="at most 100 bytes"):
        parse_unix(f"unix:/{'a' * 100}")


def test_names_and_schemes():
    assert transports.names()[: len(transports.BUILTIN)] == list(transports.BUILTIN)
    for name in transports.names():
        assert transports.get(name).name == name
    found = {address: transports.of_address(address).name for address in ("a:1", "unix:/a")}
    assert found == {"a:1": "blocking", "unix:/a": "unix"}
    with pytest.raises(ConfigError, match="expected one of blocking, nonblocking, "):
        transports.get("pigeon")
    with pytest.raises(ConfigError, match="no transport has the scheme 'ib'"):
        transports.of_address("ib://a")
