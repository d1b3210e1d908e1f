"""Greetings: who uses TLS, and that nobody in between is taken for a node."""

from __future__ import annotations

import contextlib
import ssl
import threading

import pytest
from between import LIMIT, Impostor, Tap, own_host, wire

from dllama import transports
from dllama.cluster import protocol
from dllama.cluster.protocol import HELLO, Flag, PlainError
from dllama.errors import (
    AuthenticationError,
    DllamaError,
    ProtocolError,
    TransportError,
    TransportTimeoutError,
)  # fmt: skip

SECRET = b"a secret of 19 bytes"


def greet(near, far, secrets=(SECRET, SECRET), plain=(False, False)) -> list[Exception | None]:
    """Greet from both ends at once; return the error of each."""
    errors: list[Exception | None] = [None, None]

    def one(end, link, caller):
        try:
            protocol.greet(link, secrets[end], caller=caller, plain=plain[end])
        except DllamaError as error:
            errors[end] = error
            link.close()

    listener = threading.Thread(target=one, args=(1, far, False))
    listener.start()
    one(0, near, True)
    listener.join(LIMIT)
    assert not listener.is_alive()
    return errors


@contextlib.contextmanager
def tapped(alter):
    """Yield both ends of a connection with a proxy between them, and the proxy."""
    transport = transports.get("blocking")
    with (
        transport.listen(f"{own_host()}:0") as listener,
        Tap(listener.address, alter) as tap,
        transport.connect(tap.address, LIMIT) as near,
        listener.accept(LIMIT) as far,
    ):
        near.timeout = far.timeout = LIMIT
        yield near, far, tap


@pytest.mark.parametrize(
    ("away", "plain", "encrypted"),
    [
        (True, (False, False), True),
        (True, (True, True), False),
        (False, (False, False), False),
        (False, (True, False), False),
    ],
)
@pytest.mark.parametrize("secrets", [(SECRET, SECRET), (None, None)], ids=["secret", "none"])
def test_who_uses_tls(away, plain, encrypted, secrets):
    with wire(own_host() if away else "127.0.0.1") as (near, far):
        assert (near.exposed, far.exposed) == (away, away)
        assert greet(near, far, secrets, plain) == [None, None]
        assert [link.encryption is not None for link in (near, far)] == [encrypted] * 2
        protocol.send_json(near, protocol.Kind.JOIN, {"a": 1})
        assert protocol.receive_json(far, protocol.Kind.JOIN) == {"a": 1}


def test_a_side_that_is_reached_over_loopback_follows_the_other_one():
    """As when a tunnel ends on one of the machines."""
    with wire("127.0.0.1") as (near, far):
        flags = Flag.SECRET | Flag.TLS | Flag.ASKS_TLS
        far.send(HELLO.pack(protocol.MAGIC, protocol.VERSION, flags, bytes(16)))
        near.timeout = 0.1
        with pytest.raises(TransportTimeoutError):
            protocol.greet(near, SECRET, caller=True)
        hello = bytearray(HELLO.size + 6)
        far.recv_into(hello)
        assert hello[HELLO.size :][:2] == b"\x16\x03"  # a handshake record
        assert hello[HELLO.size + 5] == 1  # ClientHello


@pytest.mark.parametrize("caller", [True, False])
def test_a_plain_node_and_one_that_asks_for_tls_name_each_other(caller):
    with wire(own_host()) as (near, far):
        near.peer, far.peer = "worker 1", "the root"
        errors = greet(near, far, plain=(caller, not caller))
        names = ["worker 1", "the root"] if caller else ["the root", "worker 1"]
        said = errors if caller else errors[::-1]
        assert [type(error) for error in said] == [PlainError] * 2
        assert str(said[0]).startswith(f"{names[0]} asks for TLS, this node was started with --pl")
        assert str(said[1]).startswith(f"{names[1]} was started with --plain, this node asks for T")
        assert all(str(error).endswith("give --plain everywhere or nowhere") for error in said)


@pytest.mark.parametrize("flags", [Flag(0), Flag.SECRET, Flag.SECRET | Flag.TLS])
@pytest.mark.parametrize("way", [True, False])
def test_nobody_is_talked_out_of_tls(flags, way):
    """Whoever alters a Hello on the way gets an error out of it, and nothing in plain."""

    def alter(caller, before, data):
        if before == 0 and caller == way:
            _, version, _, nonce = HELLO.unpack(data[: HELLO.size])
            data = HELLO.pack(protocol.MAGIC, version, flags, nonce) + data[HELLO.size :]
        return data

    with tapped(alter) as (near, far, tap):
        assert all(isinstance(error, DllamaError) for error in greet(near, far))
        assert near.failed
        assert far.failed
        assert SECRET not in tap.seen


def test_another_secret_over_tls():
    with wire(own_host()) as (near, far):
        errors = greet(near, far, (SECRET, SECRET[::-1]))
        assert isinstance(errors[1], AuthenticationError)
        assert isinstance(errors[0], DllamaError)
        assert "has another secret, or somebody is between the two" in str(errors[1])


@pytest.mark.parametrize("secret", [SECRET, None])
def test_who_ends_tls_on_both_sides_is_found_out_by_the_secret(secret):
    """Without one, nothing tells him from a node, as docs/security.md says."""
    transport = transports.get("blocking")
    with (
        transport.listen(f"{own_host()}:0") as listener,
        Impostor(listener.address) as impostor,
        transport.connect(impostor.address, LIMIT) as near,
        listener.accept(LIMIT) as far,
    ):
        near.timeout = far.timeout = LIMIT
        errors = greet(near, far, (secret, secret))
        if secret is None:
            assert errors == [None, None]
            near.send(b"prompt".ljust(protocol.PROOF_BYTES))
            far.recv_into(bytearray(protocol.PROOF_BYTES))
            far.send(bytes(protocol.PROOF_BYTES))
        else:
            assert isinstance(errors[1], AuthenticationError)
            assert isinstance(errors[0], TransportError)  # disconnected; a worker says why first
    assert (impostor.heard[:6] == b"prompt") == (secret is None)


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (b"", TransportTimeoutError, "no byte moved for 0.2 s"),
        (b"\x16\x03\x03\x00\x50\x02", TransportTimeoutError, "no byte moved for 0.2 s"),
        (b"HTTP/1.1 400 Bad Request\r\n" * 999, ProtocolError, "no TLS 1.3: "),
        (bytes(70000), ProtocolError, "no TLS 1.3: "),
        (b"\x14\x03\x03\x00\x01\x01" * 20000, ProtocolError, "no TLS 1.3: "),
    ],
    ids=["silent", "half a record", "http", "zeros", "endless"],
)
@pytest.mark.parametrize("caller", [True, False])
def test_who_breaks_off_or_spoils_a_handshake(said, error, words, caller):
    with wire(own_host()) as pair:
        near, far = pair if caller else pair[::-1]
        flags = Flag.SECRET | Flag.TLS | Flag.ASKS_TLS
        far.send(HELLO.pack(protocol.MAGIC, protocol.VERSION, flags, bytes(16)) + said)
        near.timeout = 0.2
        with pytest.raises(error, match=words):
            protocol.greet(near, SECRET, caller=caller)


def test_tls_of_another_version_is_refused():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(ours, theirs)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with wire(own_host()) as (near, far):
        flags = Flag.SECRET | Flag.TLS
        near.send(HELLO.pack(protocol.MAGIC, protocol.VERSION, flags, bytes(16)) + theirs.read())
        with pytest.raises(ProtocolError, match=r"no TLS 1\.3: unsupported protocol"):
            protocol.greet(far, SECRET, caller=False)
