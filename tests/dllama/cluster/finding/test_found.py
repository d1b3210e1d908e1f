"""Workers that are found: who they are, what cannot be used, and over which network they are."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest
from hostile import frame, stranger
from zeroconf import ServiceInfo

import dllama
from dllama import transports
from dllama.cluster.finding import discovery, found
from dllama.cluster.finding.announcing import SERVICE
from dllama.cluster.finding.browsing import Heard, hosts_of
from dllama.cluster.finding.found import ANOTHER_SECRET, FREE, NO_REPLY, Found, Path, meet
from dllama.cluster.finding.interfaces import (
    IPV4,
    IPV6,
    Interface,
    interfaces,
    is_here,
    is_of_a_machine,
    kind_of,
    towards,
)
from dllama.cluster.protocol import HELLO, MAGIC, VERSION, Flag, Kind
from dllama.cluster.session import in_zone_of

HERE = [Interface("lo", 1, ("127.0.0.1", "::1"))]


def hello(flags: int = 0, version: int = VERSION) -> bytes:
    return HELLO.pack(MAGIC, version, flags, bytes(16))


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
    none = meet(Heard("pi-2", (), 1), None, HERE)
    assert none.why == "pi-2 is announced without a usable address"


@pytest.mark.parametrize(
    ("greeting", "plain", "state", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "another protocol", "does not speak"),
        (hello(version=VERSION - 1), False, "another version", f"version {VERSION - 1}"),
        (hello(Flag.TLS | Flag.ASKS_TLS), True, "TLS differs", "--plain everywhere or nowhere"),
        (hello() + frame(Kind.ERROR, {"message": "no"}), False, "wrong reply", "no"),
        (hello() + frame(Kind.REPLY, {}), False, "wrong reply", "name"),
    ],
)
def test_each_reason_why_a_service_is_no_worker_to_use(greeting, plain, state, words):
    with stranger(greeting) as address:
        port = int(address.rpartition(":")[2])
        one = meet(Heard("pi-2", ("127.0.0.1",), port), None, HERE, plain)
    assert (one.state, one.about) == (state, None)
    assert one.why.startswith(f"pi-2 ({address})")
    assert words in one.why


def test_a_flood_of_hostile_services_makes_a_short_error(monkeypatch, caplog):
    many = [
        Found(f"pi-{n}", f"10.0.0.2:{n}", NO_REPLY, f"pi-{n} (10.0.0.2:{n}): connecting failed")
        for n in range(2000)
    ]
    eth = Interface("eth0", 2, ("10.0.0.1", "fe80::1"))
    monkeypatch.setattr(discovery, "interfaces", lambda: [eth, *HERE])
    monkeypatch.setattr(discovery, "listen", lambda *_: many)
    with pytest.raises(dllama.TransportError) as error:
        dllama.LLM(discover=True)
    assert str(error.value).endswith("pi-7 (10.0.0.2:7): connecting failed; and 1992 more")
    assert "_dllama._tcp on eth0 (10.0.0.1, fe80::1), lo (127.0.0.1, ::1); not" in str(error.value)
    assert len(str(error.value)) < 700
    many.append(Found("pi", "10.0.0.3:1", FREE))
    assert discovery.find_workers(None) == many[-1:]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 9
    assert lines[-1] == "1992 more announced workers: not used"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.0.0.2", True), ("169.254.0.2", True), ("192.0.2.1", True), ("8.8.8.8", True),
        ("fd77::2", True), ("fe80::2%eth0", True), ("2001:db8::2", True), ("2a00::2", True),
        ("127.0.0.1", False), ("127.9.9.9", False), ("::1", False), ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.2", False), ("64:ff9b::7f00:1", False), ("0.0.0.0", False), ("::", False),
        ("224.0.0.251", False), ("ff02::fb", False), ("255.255.255.255", False),
        ("240.0.0.1", False),
    ],
)  # fmt: skip
def test_addresses_that_no_other_machine_has_are_not_asked(host, expected):
    info = ServiceInfo(
        SERVICE, f"pi-2.{SERVICE}", 9999, server="pi.local.",
        addresses=[ip_address(one.partition("%")[0]).packed for one in (host, "10.0.0.3")],
    )  # fmt: skip
    places = [Interface("eth0", 2, ("10.0.0.1", "fe80::1"))]
    bare = {one.partition("%")[0] for one in hosts_of(info, places)}
    wanted = {host.partition("%")[0]} if expected and not host.startswith("fe80") else set()
    assert bare == wanted | {"10.0.0.3"}
    assert is_of_a_machine(host) == expected


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
