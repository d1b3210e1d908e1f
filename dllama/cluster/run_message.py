"""The RUN message: the batch of a pass, as the root sends it to the workers."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dllama._kernels.ops.kv_cache import block_positions
from dllama.cluster.protocol import Want
from dllama.errors import ProtocolError
from dllama.run_config import RunConfig
from dllama.runtime.batch import Batch, Span

# How many spans, KV blocks of all spans, wanted rows, copies; encoding; want. int32 numbers follow.
HEAD = struct.Struct("<IIIIBB")
NUMBER = 4  # bytes
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

        The numbers after HEAD are (rows, position, how many KV blocks) of each span, the blocks of
        all spans, the wanted rows, and (source, target) of each copy.
        """
        batch = self.batch
        numbers: list[int] = []
        for span in batch.spans:
            numbers += (span.rows, span.position, len(span.blocks))
        for span in batch.spans:
            numbers += span.blocks
        numbers += batch.wanted
        for copy in batch.copies:
            numbers += copy
        blocks = sum(len(span.blocks) for span in batch.spans)
        head = HEAD.pack(
            len(batch.spans), blocks, len(batch.wanted), len(batch.copies), self.encoding, self.want
        )
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
        spans, blocks, wanted, copies, encoding, want = HEAD.unpack_from(content)
        count = 3 * spans + blocks + wanted + 2 * copies
        if len(content) != HEAD.size + NUMBER * count:
            raise ProtocolError(
                f"{peer}: RUN of {len(content)} bytes, expected {HEAD.size + NUMBER * count}"
            )
        numbers = list(struct.unpack_from(f"<{count}i", content, HEAD.size))
        shapes = [numbers[3 * at : 3 * at + 3] for at in range(spans)]
        rest = numbers[3 * spans :]
        if any(used < 0 for _, _, used in shapes) or sum(used for *_, used in shapes) != blocks:
            raise ProtocolError(f"{peer}: RUN with {blocks} KV blocks of spans {shapes}")
        if encoding > MAX_ENCODING or want > max(Want) or (want != Want.NOTHING and not wanted):
            raise ProtocolError(
                f"{peer}: RUN with encoding {encoding}, want {want}, {wanted} wanted rows"
            )
        found: list[Span] = []
        for rows, position, used in shapes:
            found.append(Span(rows, position, rest[:used]))
            rest = rest[used:]
        pairs = rest[wanted:]
        batch = Batch(found, rest[:wanted], list(zip(pairs[::2], pairs[1::2], strict=True)))
        return cls(batch, encoding, Want(want))


def most_bytes(config: RunConfig) -> int:
    """Return the bytes of the largest RUN that a cluster of this configuration sends."""
    blocks = -(-config.seq_len // block_positions(config.seq_len))
    return HEAD.size + NUMBER * (config.parallel * (5 + blocks) + config.logits)
