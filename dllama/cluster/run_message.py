"""The RUN message: the batch of a pass, as the root sends it to the workers."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dllama._kernels.ops.kv_cache import block_positions
from dllama.cluster.protocol import Want
from dllama.errors import ProtocolError
from dllama.run_config import RunConfig
from dllama.runtime.batch import Batch, Span

# How many spans, KV blocks of all spans, wanted rows, copies, KV caches; encoding; want. Numbers of
# int32 follow.
HEAD = struct.Struct("<IIIIBBB")
NUMBER = 4  # bytes
SPAN = 5  # numbers of a span before those of its KV caches
MAX_ENCODING = 2


@dataclass(frozen=True)
class Run:
    """One pass.

    Args:
        batch: its rows.
        encoding: of the rows that the root broadcasts (comm/broadcast.pxd).
        want: what a worker sends afterwards.
    """

    batch: Batch
    encoding: int
    want: Want

    def pack(self) -> bytes:
        """Return the content of the message.

        The numbers after HEAD are (rows, position, lengthened, lag, tentative, how many KV blocks
        in each cache) of each span, the blocks of all spans, cache by cache, the wanted rows, and
        (cache, source, target) of each copy.
        """
        batch = self.batch
        numbers: list[int] = []
        for span in batch.spans:
            numbers += (span.rows, span.position, span.lengthened, span.lag, span.tentative)
            numbers += map(len, span.blocks)
        lists = [blocks for span in batch.spans for blocks in span.blocks]
        numbers += [block for blocks in lists for block in blocks]
        numbers += batch.wanted
        for copy in batch.copies:
            numbers += copy
        sizes = (len(batch.spans), sum(map(len, lists)), len(batch.wanted), len(batch.copies))
        caches = len(batch.spans[0].blocks) if batch.spans else 0
        head = HEAD.pack(*sizes, caches, self.encoding, self.want)
        return head + struct.pack(f"<{len(numbers)}i", *numbers)

    @classmethod
    def unpack(cls, content: bytes | bytearray, peer: str) -> Run:
        """Read the content of a message. Whether its batch fits is checked by the executor.

        Raises:
            ProtocolError: it is malformed; the message names the peer.
        """
        if len(content) < HEAD.size:
            raise ProtocolError(
                f"{peer}: RUN of {len(content)} bytes, expected {HEAD.size} or more"
            )
        spans, blocks, wanted, copies, caches, encoding, want = HEAD.unpack_from(content)
        width = SPAN + caches
        count = width * spans + blocks + wanted + 3 * copies
        if len(content) != HEAD.size + NUMBER * count:
            raise ProtocolError(
                f"{peer}: RUN of {len(content)} bytes, expected {HEAD.size + NUMBER * count}"
            )
        numbers = list(struct.unpack_from(f"<{count}i", content, HEAD.size))
        shapes = [numbers[width * at : width * (at + 1)] for at in range(spans)]
        rest = numbers[width * spans :]
        used = [held for shape in shapes for held in shape[SPAN:]]
        if any(held < 0 for held in used) or sum(used) != blocks:
            raise ProtocolError(f"{peer}: RUN with {blocks} KV blocks of spans {shapes}")
        if encoding > MAX_ENCODING or want > max(Want) or (want != Want.NOTHING and not wanted):
            raise ProtocolError(
                f"{peer}: RUN with encoding {encoding}, want {want}, {wanted} wanted rows"
            )
        found: list[Span] = []
        at = 0
        for rows, position, lengthened, lag, tentative, *counts in shapes:
            ends = [at + sum(counts[: cache + 1]) for cache in range(caches)]
            held = [rest[end - count : end] for end, count in zip(ends, counts, strict=True)]
            found.append(Span(rows, position, held, bool(lengthened), lag, tentative))
            at += sum(counts)
        last = rest[at + wanted :]
        triples = list(zip(last[::3], last[1::3], last[2::3], strict=True))
        batch = Batch(found, rest[at : at + wanted], triples)
        return cls(batch, encoding, Want(want))


def most_bytes(config: RunConfig, caches: int) -> int:
    """Return the bytes of the largest RUN that a cluster sends.

    Args:
        config: of the cluster.
        caches: how many KV caches a node has.
    """
    blocks = -(-config.seq_len // block_positions(config.seq_len))
    return HEAD.size + NUMBER * (config.parallel * (SPAN + caches * (4 + blocks)) + config.logits)
