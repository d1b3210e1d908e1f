"""What nodes say to each other: greeting, proof of the secret, and framed messages.

A connection begins with a Hello from both sides, and TLS if one of them asks for it. If they have a
secret, both then prove it with an HMAC-SHA256 (RFC 2104) of both Hellos and of what identifies the
TLS connection, the caller first. Messages follow: kind and length, 4 bytes each, and the content.
All numbers are little-endian. docs/protocol.md describes the whole exchange.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
from enum import IntEnum, IntFlag
from typing import Any

from dllama._kernels.comm.link import Link
from dllama.checks import one_line
from dllama.errors import AuthenticationError, NodeError, ProtocolError
from dllama.transports import tls

VERSION = 11
MAGIC = b"dllama\r\n"
HELLO = struct.Struct("<8sHH16s")
HEADER = struct.Struct("<II")
MAX_JSON = 1 << 20  # bytes
MOST_ERROR = 1000  # characters of an error that are shown
ONE_PIECE = 1 << 16  # bytes of the longest content that is copied after its header
PROOF_BYTES = hashlib.sha256().digest_size
CALLER, LISTENER = b"caller", b"listener"


class Kind(IntEnum):
    """Kinds of messages."""

    JOIN = 1  # root to worker: JSON, the first message on a control link
    PEER = 2  # to a worker: JSON, the first message on a data link
    ACCEPT = 3  # JSON: the reply to JOIN and PEER
    ERROR = 4  # JSON: the sender cannot go on
    TENSOR = 5  # root to worker: a tensor slice and its CRC-32
    READY = 6  # worker to root: JSON, all weights are in place
    RUN = 7  # root to worker: a batch (run_message.py)
    TOP = 8  # worker to root: largest logit and its id, for each wanted row
    LOGITS = 9  # worker to root: float32 logits of its vocabulary shard, for each wanted row
    ASK = 10  # root to worker: JSON, questions about logits, or one about clock or times
    REPLY = 11  # worker to root: JSON
    BYE = 12  # root to worker: empty, the session ends
    ABOUT = 13  # to a worker: JSON, a question about itself, the only message on its link
    WEIGHTS = 14  # worker to root: JSON, how far it has read the weights that it keeps
    SPEED = 15  # JSON, asks a worker how fast it is, and its reply; nothing else is on their link


class Want(IntEnum):
    """What a worker sends after a pass without being asked."""

    NOTHING = 0
    TOP = 1
    LOGITS = 2


class Flag(IntFlag):
    """What a Hello says about its sender."""

    SECRET = 1  # it has a secret to prove
    TLS = 2  # it can use TLS
    ASKS_TLS = 4  # it does not go on without


class StrangerError(ProtocolError):
    """The other side speaks another protocol than dllama's."""


class VersionError(ProtocolError):
    """The other side speaks another version of the protocol."""


class PlainError(ProtocolError):
    """One side does without TLS, and the other one asks for it."""


def greet(link: Link, secret: bytes | None, caller: bool, plain: bool = False) -> None:
    """Exchange Hellos, encrypt the link, and exchange proofs. After an error, close the link.

    Each side asks for TLS if the link leaves its machine, whatever the other one says; so nobody in
    between can talk them out of it.

    Args:
        link: a new connection.
        secret: what both sides prove; None for no proof.
        caller: whether this side opened the connection.
        plain: do without TLS.

    Raises:
        StrangerError, VersionError, PlainError: the other side is no node, has another version, or
            only one side is plain.
        ProtocolError: the other side sent something else that is not allowed.
        AuthenticationError: one side has no secret, or another one, or somebody is in between.
        TransportError: the link failed.
    """
    flags = Flag.SECRET if secret is not None else Flag(0)
    if not plain:
        flags |= Flag.TLS | Flag.ASKS_TLS if link.exposed else Flag.TLS
    hello = HELLO.pack(MAGIC, VERSION, flags, os.urandom(16))
    link.send(hello)
    theirs, their_flags = _read_hello(link)
    if (flags ^ their_flags) & Flag.SECRET:
        who = "has no secret, this node has one" if secret else "asks for a secret"
        raise AuthenticationError(f"{link.peer} {who} (see --secret-file)")
    binding = tls.secure(link, caller) if _encrypted(link, flags, their_flags) else b""
    if secret is not None:
        _prove(link, secret, caller, hello, theirs, binding)


def _encrypted(link: Link, ours: Flag, theirs: Flag) -> bool:
    """Whether to use TLS; PlainError if one side asks for it and the other one is plain."""
    for asks, can, text in (
        (theirs, ours, "asks for TLS, this node was started with --plain"),
        (ours, theirs, "was started with --plain, this node asks for TLS"),
    ):
        if asks & Flag.ASKS_TLS and not can & Flag.TLS:
            raise PlainError(f"{link.peer} {text}: give --plain everywhere or nowhere")
    return bool((ours | theirs) & Flag.ASKS_TLS)


def _prove(
    link: Link, secret: bytes, caller: bool, hello: bytes, theirs: bytes, binding: bytes
) -> None:
    """Exchange proofs: HMACs of both Hellos, and of what identifies the TLS connection."""
    roles = (CALLER, LISTENER) if caller else (LISTENER, CALLER)
    own = hmac.digest(secret, roles[0] + hello + theirs + binding, "sha256")
    expected = hmac.digest(secret, roles[1] + theirs + hello + binding, "sha256")
    found = bytearray(PROOF_BYTES)
    if caller:
        link.send(own)
        link.recv_into(found)
    else:
        link.recv_into(found)
    if not hmac.compare_digest(found, expected):
        between = ", or somebody is between the two" if binding else ""
        raise AuthenticationError(f"{link.peer} has another secret{between}")
    if not caller:
        link.send(own)


def _read_hello(link: Link) -> tuple[bytes, Flag]:
    """Read the other side's Hello. A stranger is recognised by its first bytes."""
    raw = bytearray(HELLO.size)
    link.recv_into(memoryview(raw)[: len(MAGIC)])
    if raw[: len(MAGIC)] != MAGIC:
        raise StrangerError(f"{link.peer} does not speak dllama's protocol")
    link.recv_into(memoryview(raw)[len(MAGIC) :])
    _, version, flags, _ = HELLO.unpack(raw)
    if version != VERSION:
        raise VersionError(
            f"{link.peer} speaks version {version} of the protocol, this node {VERSION}: "
            f"run the same version of dllama everywhere"
        )
    return bytes(raw), Flag(flags)


def send(link: Link, kind: Kind, content: bytes | bytearray | memoryview = b"") -> None:
    """Send a message, in one piece unless it is too long to be worth a copy."""
    header = HEADER.pack(kind, len(content))
    if len(content) <= ONE_PIECE:
        link.send(header + bytes(content))
    else:
        link.send(header)
        link.send(content)


def send_json(link: Link, kind: Kind, content: dict[str, Any]) -> None:
    """Send a message whose content is a JSON object."""
    send(link, kind, json.dumps(content).encode())


def receive_header(link: Link) -> tuple[int, int]:
    """Read the kind and length of the next message; raise NodeError for an ERROR."""
    raw = bytearray(HEADER.size)
    link.recv_into(raw)
    kind, length = HEADER.unpack(raw)
    if kind == Kind.ERROR:
        content = read_json(link, length)
        blames = content.get("blames")
        raise NodeError(
            f"{link.peer}: {_error_text(content)}",
            blames if isinstance(blames, int) else None,
            content.get("late") is True,
        )
    return kind, length


def _error_text(content: dict[str, Any]) -> str:
    """Return the text of an ERROR as one line of bounded length, with escapes."""
    return one_line(str(content.get("message", "unknown error"))[:MOST_ERROR])


def receive(link: Link, kind: Kind, most: int) -> bytearray:
    """Receive a message.

    Args:
        link: where it comes from.
        kind: its kind.
        most: bytes that its content may have.

    Returns:
        The content.

    Raises:
        ProtocolError: it is of another kind, or too long; its content is not read.
        NodeError: it is an ERROR.
        TransportError: the link failed.
    """
    found, length = receive_header(link)
    if found != kind or length > most:
        raise ProtocolError(
            f"{link.peer} sent message {found} of {length} bytes, expected {kind.name} "
            f"({int(kind)}) of at most {most}"
        )
    content = bytearray(length)
    link.recv_into(content)
    return content


def receive_json(link: Link, kind: Kind) -> dict[str, Any]:
    """Receive a message whose content is a JSON object; raises as receive does."""
    return _parse(link, receive(link, kind, MAX_JSON))


def read_json(link: Link, length: int) -> dict[str, Any]:
    """Read the JSON object that follows a header; ProtocolError if it is something else."""
    if length > MAX_JSON:
        raise ProtocolError(f"{link.peer} sent a message of {length} bytes")
    content = bytearray(length)
    link.recv_into(content)
    return _parse(link, content)


def _parse(link: Link, content: bytearray) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{link.peer} sent what is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"{link.peer} sent a JSON {type(value).__name__}, expected an object")
    return value
