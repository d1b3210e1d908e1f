"""Rows of logits on one node and on several, as the sampler sees them."""

from __future__ import annotations

import json
from itertools import accumulate, pairwise

import numpy as np

from dllama.cluster.protocol import MAX_JSON
from dllama.sampling.lockstep import Row, drive
from dllama.sampling.remote import TOP, ask, check_tops, reply, top_message
from dllama.sampling.sampler import choose
from dllama.sampling.shard import Shard


def row_of(*logits: np.ndarray) -> Row:
    """A row with all of its shards in this process."""
    offsets = accumulate((len(shard) for shard in logits), initial=0)
    return Row(*(Shard(shard, at) for shard, at in zip(logits, offsets, strict=False)))


def here(asking):
    """The result of an asking about such rows."""

    def nobody(questions):
        raise AssertionError(questions)

    return drive(asking, nobody)


def sampled(sampler, logits: np.ndarray, history=(), number: int = 0) -> int:
    """The token that a sampler draws from logits (n,)."""
    (token,) = here(sampler.sample([row_of(logits)], history, number))
    return token


def chosen(logits, config, seed: int, number: int) -> int:
    """The token that is chosen from logits: an array, or several shards."""
    row = row_of(*logits) if isinstance(logits, list) else row_of(logits)
    return here(choose(row, row.tops(), config, seed, number))


class Nodes:
    """Rows whose logits are split over nodes, which talk in messages as a cluster does.

    Args:
        logits: float32 (rows, n).
        cuts: where the vocabulary is cut.

    Attributes:
        rows: as the root sees them.
        messages: bytes of each message of the root and of the longest reply.
    """

    def __init__(self, logits: np.ndarray, cuts) -> None:
        ends = [0, *cuts, logits.shape[1]]
        ids = [range(a, b) for a, b in pairwise(ends)]
        self._shards = [
            [Shard(np.ascontiguousarray(row[part.start : part.stop]), part.start) for row in logits]
            for part in ids
        ]
        self._nodes = [(f"worker {rank}", part) for rank, part in enumerate(ids)][1:]
        own, *others = self._shards
        tops = [list(TOP.iter_unpack(top_message(shards))) for shards in others]
        self.rows = [
            Row(shard, number=number, tops=[node[number] for node in tops])
            for number, shard in enumerate(own)
        ]
        for number in range(len(own)):
            check_tops([node[number] for node in tops], self._nodes)
        self.messages: list[tuple[int, int]] = []

    def drive(self, asking):
        """The result of an asking about the rows."""
        return drive(
            asking, lambda questions: ask(questions, self._nodes, self._exchange, MAX_JSON)
        )

    def _exchange(self, content, meanwhile):
        raw = json.dumps(content)
        meanwhile()
        replies = [json.dumps(reply(rows, json.loads(raw), MAX_JSON)) for rows in self._shards[1:]]
        self.messages.append((len(raw), max(map(len, replies))))
        assert max(self.messages[-1]) <= MAX_JSON
        return [json.loads(one) for one in replies]
