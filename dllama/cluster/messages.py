"""The root's invitation to a worker, as checked values."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from dllama.checks import shown
from dllama.cluster import names
from dllama.errors import DllamaError, ProtocolError
from dllama.model.header import read_header
from dllama.model.spec import ModelSpec
from dllama.options import MAX_NODES, THREADS
from dllama.options.option import Option, checked
from dllama.run_config import RunConfig

DIGEST = re.compile("([0-9a-f]{64})?", re.ASCII)
MOST_TEXT = 300  # characters of an address, or of a name that is no message


@dataclass(frozen=True)
class Join:
    """The root's invitation to one worker.

    Args:
        session: a random name, in hex, that nodes show when they connect to each other.
        name: of the root.
        rank: of the worker.
        addresses: of all nodes by rank, "" for the root.
        transport: how nodes are connected.
        header: of the model file, in hex.
        weights: the SHA-256 of the bytes of the worker's shard, in hex, by which it knows weights
            that it still has; "" if the root does not know it yet.
        threads: for computing; 0 for what the worker was started with.
        crowded: whether nodes share processors, so that waiting must not keep them busy.
        config: what all nodes agree on.
    """

    session: str
    name: str
    rank: int
    addresses: tuple[str, ...]
    transport: str
    header: str
    weights: str
    threads: int
    crowded: bool
    config: RunConfig

    def as_json(self) -> dict[str, Any]:
        """Return the content of a JOIN message."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any], peer: str) -> Join:
        """Check the content of a JOIN message; ProtocolError names the peer and the wrong field."""
        try:
            values = checked(FIELDS, content)
        except ValueError as error:
            raise ProtocolError(f"{peer}: {error}") from None
        values["addresses"] = tuple(values["addresses"])
        for text in (values["session"], values["transport"], *values["addresses"]):
            if len(text) > MOST_TEXT or not text.isprintable():
                expected = f"at most {MOST_TEXT} printable characters"
                raise ProtocolError(f"{peer}: found {shown(text)}, expected {expected}")
        values["name"] = names.clean(values["name"])
        join = cls(**values, config=RunConfig.from_json(content.get("config"), peer))
        world_size = len(join.addresses)
        shares = join.config.world_size
        if not 2 <= world_size <= MAX_NODES or shares != world_size or join.rank >= world_size:
            raise ProtocolError(f"{peer}: rank {join.rank} of {world_size} nodes, {shares} shares")
        return join

    def spec(self, peer: str) -> ModelSpec:
        """Read the model header; ProtocolError names the peer and says what is wrong."""
        try:
            spec, _ = read_header(bytes.fromhex(self.header), f"the model of {peer}")
        except (DllamaError, ValueError) as error:
            raise ProtocolError(str(error)) from error
        if self.config.seq_len > spec.seq_len or self.config.batch > self.config.seq_len:
            raise ProtocolError(f"{peer}: {self.config} does not fit {spec}")
        return spec


def _check_digest(text: str) -> None:
    """Refuse what is no SHA-256 in hex; ValueError."""
    if not DIGEST.fullmatch(text):
        raise ValueError(f"found {shown(text)}, expected 64 digits in hex or none")


# What the fields of Join except config may be in a message.
FIELDS = (
    Option("session", str, "the name of the session"),
    Option("name", str, "of the root"),
    Option("rank", int, "of the worker", least=1, most=MAX_NODES - 1),
    Option("addresses", str, "of all nodes", several=True),
    Option("transport", str, "how nodes are connected"),
    Option("header", str, "of the model file"),
    Option("weights", str, "the SHA-256 of the shard", test=_check_digest),
    replace(THREADS, least=0),
    Option("crowded", bool, "whether nodes share processors"),
)
