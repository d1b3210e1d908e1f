"""Workers that are found: who they are, what cannot be used, and over which network they are."""

from __future__ import annotations

import socket

import pytest

import dllama
from dllama import transports
from dllama.cluster import discovery, found
from dllama.cluster.browsing import Heard
from dllama.cluster.found import ANOTHER_SECRET, FREE, NO_REPLY, Found, Path, meet
from dllama.cluster.interfaces import IPV4, IPV6, Interface, interfaces, is_here, kind_of, towards
from dllama.cluster.session import in_zone_of

HERE = [Interface("lo", 1, ("127.0.0.1", "::1"))]


@pytest.fixture
def port(served):
    served._worker.name = "pi-2"
    return int(served.address.rpartition(":")[2])


def test_a_worker_that_answers_under_the_name_that_is_announced(port):
    one = meet(Heard("pi-2", ("127.0.0.1",), port), None, HERE)
    assert (one.name, one.address, one.state) == ("pi-2", f"127.0.0.1:{port}", FREE)
    assert one.here
    assert one.paths == (Path("lo", IPV4, one.address),)


def test_an_address_where_another_worker_answers_does_not_count(port):
    one = meet(Heard("pi-3", ("127.0.0.1",), port), None, HERE)
    assert (one.state, one.about, one.paths) == (NO_REPLY, None, ())
    assert one.why == f"pi-3 (127.0.0.1:{port}): another worker has this address"


def test_a_worker_without_the_secret(port):
    one = meet(Heard("pi-2", ("127.0.0.1",), port), b"a secret of 19 bytes", HERE)
    assert one.state == ANOTHER_SECRET
    assert one.why.startswith(f"pi-2 (127.0.0.1:{port}) has no secret")


def test_what_is_announced_and_not_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    one = meet(Heard("pi-2", ("127.0.0.1",), free), None, HERE)
    assert (one.state, one.about) == (NO_REPLY, None)
    assert "Connection refused" in one.why
    assert meet(Heard("pi-2", (), 1), None, HERE).why == "pi-2 is announced without an address"


def worker(name: str, *paths: tuple[str, str]) -> Found:
    """A worker whose addresses say where they are."""
    ways = tuple(Path(one, kind, f"{name} {one} {kind}") for one, kind in paths)
    return Found(name, "first", FREE, paths=ways)


ETH, WIFI = "eth0", "wlan0"


@pytest.mark.parametrize(
    ("workers", "times", "expected"),
    [
        ([[(ETH, IPV4)], [(ETH, IPV4)]], {}, (ETH, IPV4)),
        ([[(ETH, IPV6), (ETH, IPV4)], [(ETH, IPV6)]], {}, (ETH, IPV6)),  # the kind that all have
        ([[(ETH, IPV4), (WIFI, IPV4)]] * 2, {ETH: 9.0, WIFI: 1.0}, (WIFI, IPV4)),
        ([[(ETH, IPV4), (WIFI, IPV4)]] * 2, {ETH: 1.1, WIFI: 1.0}, (ETH, IPV4)),  # as fast
        ([[(ETH, IPV4), (WIFI, IPV4)], [(ETH, IPV4)]], {}, (ETH, IPV4)),  # where both are
        ([[(ETH, IPV4)], [(WIFI, IPV4)]], {}, None),
    ],
)
def test_the_fastest_network_of_all(monkeypatch, workers, times, expected):
    def seconds_of(name, path, secret, plain):
        return times[path.interface] + 0.01 * int(name)

    monkeypatch.setattr(discovery, "seconds_of", seconds_of)
    known = [worker(str(index), *paths) for index, paths in enumerate(workers)]
    addresses = [one.address for one in discovery.choose(known, None)]
    if expected is None:
        assert addresses == ["first"] * 2
    else:
        assert addresses == [f"{index} {' '.join(expected)}" for index in range(len(known))]


def test_the_time_of_a_network_is_measured(port):
    path = Path("lo", IPV4, f"127.0.0.1:{port}")
    assert 0 < found.seconds_of("pi-2", path, None) < 5


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("[fe80::2%eth0]:9999", "[fe80::2%wlan1]:9999"),
        ("[fd77::2]:9999", "[fd77::2]:9999"),
        ("10.0.0.2:9999", "10.0.0.2:9999"),
    ],
)
def test_link_local_addresses_get_the_zone_of_the_node_that_connects(address, expected):
    assert in_zone_of("root (laptop, [fe80::1%wlan1]:5555)", address) == expected
    assert in_zone_of("root (laptop, 10.0.0.1:5555)", address) == address


def test_interfaces_of_this_machine():
    for one in interfaces():
        assert one.addresses
        assert not set(one.addresses) & {"127.0.0.1", "::1"}
        for host in one.addresses:
            assert is_here(host, [one])
    assert towards("127.0.0.1", HERE) == HERE[0]
    assert towards("127.0.0.1", []) is None
    assert [kind_of(host) for host in ("10.0.0.1", "fd77::1", "fe80::1")] == [
        "IPv4", "IPv6", "link-local IPv6",
    ]  # fmt: skip


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_a_listener_at_all_addresses_takes_ipv4_too():
    with transports.get("blocking").listen("[::]:0") as listener:
        port = int(listener.address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            link = listener.accept(5)
            assert link.peer == f"127.0.0.1:{connection.getsockname()[1]}"
            link.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": ["10.0.0.2:1"]}, "workers and discover"),
        ({"transport": "unix"}, "over TCP"),
        ({"nodes": 0}, "nodes is 0"),
    ],
)
def test_options_that_do_not_go_with_it(options, message):
    with pytest.raises(dllama.ConfigError, match=message):
        dllama.LLM(discover=True, **options)


def test_a_secret_to_guess_is_not_proved_to_whoever_is_found(tmp_path):
    (tmp_path / "secret").write_text("short")
    with pytest.raises(dllama.ConfigError, match="has 5 bytes"):
        dllama.LLM(discover=True, secret_file=tmp_path / "secret")


def test_no_network(monkeypatch):
    monkeypatch.setattr(discovery, "interfaces", lambda: [])
    with pytest.raises(dllama.TransportError, match="no network interface"):
        dllama.LLM(discover=True)
