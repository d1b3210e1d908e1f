"""What root and workers tell each other to form a cluster, as checked values."""

from __future__ import annotations

import struct
from dataclasses import asdict, astuple, dataclass
from typing import Any

from dllama._kernels.comm.communicator import ALGORITHMS
from dllama.cluster.protocol import Want
from dllama.errors import DllamaError, ProtocolError
from dllama.model.header import read_header
from dllama.model.spec import ModelSpec
from dllama.run_config import LEAST_SHARE, MOST_CONTEXTS, MOST_SHARE, WIRE, RunConfig

MAX_NODES = 256
MAX_THREADS = 1024
MAX_NUMBER = 1 << 53  # beyond it a float is another number
RUN = struct.Struct("<IqIBBHH")


@dataclass(frozen=True)
class Join:
    """The root's invitation to one worker.

    session: the cluster's name, in hex, which its nodes show when they connect to each other.
    addresses: of all nodes by rank, empty for the root. header: of the model file, in hex.
    model: names the model's content, so that a worker can tell whether it still has it. threads:
    for computing, 0 for what the worker was started with. crowded: nodes share processors, so
    that waiting must not keep them busy.
    """

    session: str
    rank: int
    addresses: tuple[str, ...]
    transport: str
    header: str
    model: str
    threads: int
    crowded: bool
    config: RunConfig

    def as_json(self) -> dict[str, Any]:
        """The content of a JOIN message."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any], peer: str) -> Join:
        """The checked content of a JOIN message; ProtocolError names the field."""
        take = _Fields(content, peer)
        config = _Fields(take.value("config", dict), peer)
        shares = config.values("shares", float)
        join = cls(
            session=take.value("session", str),
            rank=take.number("rank", 1, MAX_NODES - 1),
            addresses=tuple(take.values("addresses", str)),
            transport=take.value("transport", str),
            header=take.value("header", str),
            model=take.value("model", str),
            threads=take.number("threads", 0, MAX_THREADS),
            crowded=take.value("crowded", bool),
            config=RunConfig(
                shares=tuple(shares),
                seq_len=config.number("seq_len", 1, 1 << 31),
                half=config.value("half", bool),
                batch=config.number("batch", 1, 4096),
                logits=config.number("logits", 1, 4096),
                buffer=config.choice("buffer", tuple(WIRE)),
                all_reduce=config.choice("all_reduce", tuple(ALGORITHMS)),
                timeout=float(config.value("timeout", float)),
                contexts=config.number("contexts", 1, MOST_CONTEXTS),
            ),
        )
        world = len(join.addresses)
        if not all(LEAST_SHARE <= share <= MOST_SHARE for share in shares):
            raise ProtocolError(f"{peer}: shares are {shares}")
        if not 2 <= world <= MAX_NODES or len(shares) != world or join.rank >= world:
            raise ProtocolError(f"{peer}: rank {join.rank} of {world} nodes, {len(shares)} shares")
        if not 0.1 <= join.config.timeout <= 86400:
            raise ProtocolError(f"{peer}: timeout is {join.config.timeout}")
        return join

    def spec(self, peer: str) -> ModelSpec:
        """The model that the header describes; ProtocolError says what is wrong with it."""
        try:
            spec, _ = read_header(bytes.fromhex(self.header), f"the model of {peer}")
        except (DllamaError, ValueError) as error:
            raise ProtocolError(str(error)) from error
        if self.config.seq_len > spec.seq_len or self.config.batch > self.config.seq_len:
            raise ProtocolError(f"{peer}: {self.config} does not fit {spec}")
        return spec


@dataclass(frozen=True)
class Run:
    """One pass: T tokens at position, the first row whose logits are asked for, the form of the
    rows that the root broadcasts, and what the worker sends afterwards.

    context: which one is extended. source: which one holds what stands before position; it is
    copied first if that is another one.
    """

    tokens: int
    position: int
    first_logits: int
    form: int
    want: Want
    context: int = 0
    source: int = 0

    def pack(self) -> bytes:
        """The content of a RUN message."""
        return RUN.pack(*astuple(self))

    @classmethod
    def unpack(cls, content: bytes | bytearray, config: RunConfig, peer: str) -> Run:
        """The checked content of a RUN message."""
        if len(content) != RUN.size:
            raise ProtocolError(f"{peer}: RUN of {len(content)} bytes, expected {RUN.size}")
        tokens, position, first, form, want, context, source = RUN.unpack(content)
        rows = tokens - first
        if (
            not 1 <= tokens <= config.batch
            or not 0 <= position <= config.seq_len - tokens
            or not 0 <= rows <= min(tokens, config.logits)
            or form > 2
            or want > max(Want)
            or (want != Want.NOTHING and rows == 0)
            or max(context, source) >= config.contexts
        ):
            raise ProtocolError(f"{peer}: cannot run {RUN.unpack(content)}")
        return cls(tokens, position, first, form, Want(want), context, source)


class _Fields:
    """Values of a JSON object by name and type."""

    def __init__(self, content: dict[str, Any], peer: str) -> None:
        self._content = content
        self._peer = peer

    def value(self, name: str, kind: type) -> Any:
        found = self._content.get(name)
        if kind is float and type(found) is int and abs(found) < MAX_NUMBER:
            found = float(found)
        if type(found) is not kind:
            shown = str(found)[:100]
            raise ProtocolError(f"{self._peer}: {name} is {shown!r}, not {kind.__name__}")
        return found

    def values(self, name: str, kind: type) -> list[Any]:
        found = self.value(name, list)
        if len(found) > MAX_NODES:
            raise ProtocolError(f"{self._peer}: {name} has {len(found)} values")
        return [_Fields({name: item}, self._peer).value(name, kind) for item in found]

    def number(self, name: str, least: int, most: int) -> int:
        found: int = self.value(name, int)
        if not least <= found <= most:
            raise ProtocolError(f"{self._peer}: {name} is {found}, expected {least} to {most}")
        return found

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        found: str = self.value(name, str)
        if found not in choices:
            raise ProtocolError(f"{self._peer}: {name} is {found[:100]!r}, expected {choices}")
        return found
