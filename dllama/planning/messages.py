"""The bytes that each node sends and receives in the transfers of a pass.

A transfer has rounds. In a round all nodes exchange messages at the same time, and none goes on
before it has what it needs. dllama/_kernels/comm does what is counted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from dllama._kernels.comm.communicator import chunk_borders, takes_two_steps, wire_bytes
from dllama.cluster import protocol
from dllama.cluster.protocol import Want
from dllama.cluster.run_message import Run
from dllama.graph.graph import Graph, Task
from dllama.model.spec import ModelSpec
from dllama.planning.work import Shape
from dllama.run_config import RunConfig
from dllama.runtime.batch import Batch, Span
from dllama.runtime.block_pool import pools
from dllama.sampling.remote import TOP

FLOAT = 4  # bytes


class Round(NamedTuple):
    """Bytes and messages by rank.

    Args:
        sent: by each node.
        received: by each node.
        peers: how many nodes each sends to or receives from, whichever are more.
    """

    sent: tuple[int, ...]
    received: tuple[int, ...]
    peers: tuple[int, ...]


def rounds_of(task: Task, graph: Graph, config: RunConfig, rows: int, embedded: int) -> list[Round]:
    """The rounds of a transfer.

    Args:
        task: the transfer, of any node.
        graph: of this node.
        config: what all nodes agree on.
        rows: of the pass.
        embedded: bytes in which the root sends a number of an embedding, 2 or 4.
    """
    if task.op == "broadcast":
        width = next(buffer.width for buffer in graph.buffers if buffer.name == task.dst)
        return broadcast(rows * width * embedded, config.world_size)
    if task.op == "gather":
        held = [sum(map(len, parts)) for parts in task.held]
        return [_to_all([rows * FLOAT * columns for columns in held])]
    sums = [len(adds) for adds in task.adds]
    return all_reduce(sums, graph.spec.dim, config.buffer, rows, config.all_reduce)


def broadcast(nbytes: int, nodes: int) -> list[Round]:
    """The root sends a piece to each other node, and these exchange their pieces."""
    ends = [nbytes * max(0, rank - 1) // (nodes - 1) for rank in range(nodes + 1)]
    pieces = [end - begin for begin, end in pairwise(ends)]
    peers = (nodes - 1, *(1 for _ in pieces[1:]))
    first = Round((nbytes, *(0 for _ in pieces[1:])), tuple(pieces), peers)
    return [first] if nodes == 2 else [first, _to_all(pieces[1:], root=True)]


def all_reduce(
    sums: Sequence[int], dim: int, buffer: str, rows: int, algorithm: str
) -> list[Round]:
    """All nodes add their sums.

    Args:
        sums: how many each node has.
        dim: numbers of a row.
        buffer: how numbers are sent.
        rows: of the pass.
        algorithm: auto, exchange or two-step.
    """
    nodes, total, row = len(sums), sum(sums), wire_bytes(buffer, dim)
    if not takes_two_steps(algorithm, nodes, total, rows * row):
        return [_to_all([rows * row * count for count in sums])]
    borders = chunk_borders(dim, nodes)
    chunks = [
        wire_bytes(buffer, end) - wire_bytes(buffer, begin) for begin, end in pairwise(borders)
    ]
    scattered = Round(
        tuple(rows * count * (row - chunk) for count, chunk in zip(sums, chunks, strict=True)),
        tuple(rows * (total - count) * chunk for count, chunk in zip(sums, chunks, strict=True)),
        (nodes - 1,) * nodes,
    )
    return [scattered, _to_all([rows * chunk for chunk in chunks])]


def _to_all(pieces: Sequence[int], root: bool = False) -> Round:
    """Each node sends its piece to all others; root: there is a root before them that does not."""
    count, total, before = len(pieces) - 1, sum(pieces), (0,) * root
    return Round(
        (*before, *(count * piece for piece in pieces)),
        (*before, *(total - piece for piece in pieces)),
        (*before, *(count for _ in pieces)),
    )


def control(spec: ModelSpec, config: RunConfig, shape: Shape) -> list[Round]:
    """What the root tells each worker before a pass, and each worker the root after it.

    So it is if the likeliest token is taken. Other ways of sampling ask more.
    """
    first = shape.context - shape.length
    blocks = [range(p.first(first), p.blocks(shape.context)) for p in pools(spec, config)]
    spans = [Span(shape.length, first, blocks)] * shape.texts
    run = Run(Batch(spans, range(shape.wanted)), 0, Want.TOP).pack()
    told, answered = protocol.HEADER.size + len(run), protocol.HEADER.size + shape.wanted * TOP.size
    workers = config.world_size - 1
    none, peers = (0,) * workers, (workers, *[1] * workers)
    return [
        Round((workers * told, *none), (0, *[told] * workers), peers),
        Round((0, *[answered] * workers), (workers * answered, *none), peers),
    ]
