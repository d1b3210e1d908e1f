"""The root's side of a cluster: it starts passes, asks workers and finds out which one failed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.comm.communicator import Communicator
from dllama._kernels.comm.link import Link
from dllama.cluster import protocol
from dllama.cluster.blame import blame
from dllama.cluster.member import Member
from dllama.cluster.protocol import Kind
from dllama.cluster.run_message import Run
from dllama.errors import DllamaError, ProtocolError, TransportError
from dllama.sampling.remote import TOP


class Coordinator:
    """Workers that hold their shards of a model and wait for passes (made by forming.form_cluster).

    When a worker fails, every method but traffic and close raises a TransportError or ProtocolError
    that names it. All links are closed then, and the cluster cannot go on.

    Args:
        members: the workers, by rank.
        links: data links by rank, None for the root itself.
        communicator: the root's, on these links.

    Attributes:
        failed: whether a worker failed.
    """

    def __init__(
        self, members: list[Member], links: list[Link | None], communicator: Communicator
    ) -> None:
        self.members = members
        self.communicator = communicator
        self.failed = False
        self._links = links

    def start(self, run: Run) -> None:
        """Tell all workers to evaluate a batch."""
        content = run.pack()
        with self._blaming():
            for member in self.members:
                protocol.send(member.control, Kind.RUN, content)

    def check(self) -> None:
        """Raise the error of the communicator's collectives, if one failed."""
        with self._blaming():
            self.communicator.check()

    def tops(self, rows: int) -> list[list[tuple[float, int]]]:
        """Receive the largest logits that workers send after a pass.

        Args:
            rows: how many rows of the batch are wanted.

        Returns:
            For each row, (logit, id) of every worker's vocabulary shard.
        """
        with self._blaming():
            contents = [member.receive(Kind.TOP, rows * TOP.size) for member in self.members]
        by_member = [list(TOP.iter_unpack(content)) for content in contents]
        return [list(tops) for tops in zip(*by_member, strict=True)]

    def logits(self, own: NDArray[np.float32]) -> NDArray[np.float32]:
        """Receive the logits that workers send after a pass.

        Args:
            own: float32 (n, ids of the root's vocabulary shard), of the n wanted rows.

        Returns:
            float32 (n, vocab_size).
        """
        shards = [own]
        with self._blaming():
            for member in self.members:
                shape = (len(own), len(member.vocab))
                raw = member.receive(Kind.LOGITS, 4 * shape[0] * shape[1])
                shards.append(np.frombuffer(raw, "<f4").reshape(shape))
        return np.concatenate(shards, axis=1)

    def ask(
        self, question: dict[str, Any], meanwhile: Callable[[], None] = lambda: None
    ) -> list[dict[str, Any]]:
        """Return the replies of all workers to a message.

        Args:
            question: questions about their logits, or one about their work.
            meanwhile: called while the workers are busy with it.
        """
        content = json.dumps(question).encode()
        with self._blaming():
            for member in self.members:
                protocol.send(member.control, Kind.ASK, content)
        meanwhile()
        with self._blaming():
            return [protocol.receive_json(m.control, Kind.REPLY) for m in self.members]

    def traffic(self) -> tuple[int, int]:
        """Return the bytes that the root sent and received, control messages included."""
        sent, received = self.communicator.traffic()
        controls = [member.control for member in self.members]
        return (
            sent + sum(link.sent_bytes for link in controls),
            received + sum(link.received_bytes for link in controls),
        )

    def close(self) -> None:
        """Let the workers go. A second call does nothing."""
        for member in self.members:
            with contextlib.suppress(DllamaError):
                if not member.control.failed:
                    protocol.send(member.control, Kind.BYE)
        self._disconnect()

    def _disconnect(self) -> None:
        """Close all links."""
        for member in self.members:
            member.control.close()
        for link in self._links:
            if link is not None:
                link.close()

    @contextlib.contextmanager
    def _blaming(self) -> Iterator[None]:
        """Turn an error of a link into one that names the worker at fault."""
        try:
            yield
        except (TransportError, ProtocolError) as error:
            self.failed = True
            blamed = blame(error, self.members, self.communicator.failed_rank)
            self._disconnect()
            raise blamed from error
