"""What the server knows of the nodes that hold the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dllama import LLM

OK, LOST, UNKNOWN = "ok", "lost", "unknown"


@dataclass(frozen=True)
class NodeView:
    """A node.

    Attributes:
        rank: 0 is the server's own.
        name: "" if it has none.
        address: where it listens; None if it is on the server's machine.
        memory: bytes of weights, kv_cache and buffers.
        state: OK, LOST, or UNKNOWN while the nodes are not connected.
    """

    rank: int
    name: str
    address: str | None
    memory: dict[str, int]
    state: str = OK

    def as_json(self) -> dict[str, Any]:
        """Return the node as /cluster lists it."""
        return {
            "rank": self.rank,
            "name": self.name,
            "address": self.address,
            "state": self.state,
            "memory": self.memory,
        }


def nodes_of(llm: LLM) -> list[NodeView]:
    """Return the nodes of an open model, by rank."""
    addresses = [None, *(llm.workers or [None] * (llm.nodes - 1))]
    return [
        NodeView(rank, name, address, llm.memory(rank))
        for rank, (name, address) in enumerate(zip(llm.node_names, addresses, strict=True))
    ]


def nodes_without(nodes: Sequence[NodeView], lost: int | None) -> list[NodeView]:
    """Return nodes after one was lost: the root goes on, and nobody knows of the others.

    Args:
        nodes: by rank, as they were.
        lost: rank of the lost node; None if nobody knows it. Nodes that were lost before stay so.
    """

    def state(node: NodeView) -> str:
        if node.rank == 0:
            return OK
        return LOST if node.rank == lost or node.state == LOST else UNKNOWN

    return [replace(node, state=state(node)) for node in nodes]
