"""Which KV blocks of a cache are free, and how many sequences use the others."""

from __future__ import annotations

from collections.abc import Sequence as Ids

from dllama._kernels.ops.kv_cache import block_positions
from dllama.graph.kv_layers import kv_layers
from dllama.model.spec import ModelSpec
from dllama.run_config import RunConfig


class BlockPool:
    """The numbers of all KV blocks of a cache, and how many sequences use each.

    Args:
        count: how many blocks there are.
        positions: of a block.
        most: most blocks that a sequence needs at once.
        window: how many positions a row sees, its own included; 0 for all up to its own.
        states: whether a block has the state after its last evaluated position.
    """

    def __init__(
        self, count: int, positions: int, most: int, window: int = 0, states: bool = False
    ) -> None:
        self.count = count
        self.window = window
        self.states = states
        self._positions = positions
        self._most = most
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count

    @property
    def free(self) -> int:
        """How many blocks nobody uses."""
        return len(self._free)

    def blocks(self, positions: int) -> int:
        """Return how many blocks hold so many positions."""
        return -(-positions // self._positions)

    def needed(self, positions: int) -> int:
        """Return the most blocks that a sequence needs at once until it has so many positions."""
        return min(self.blocks(positions), self._most)

    def first(self, position: int) -> int:
        """Return the place in a sequence of the first block that a row at a position sees."""
        return max(0, position + 1 - self.window) // self._positions if self.window else 0

    def begin(self, place: int) -> int:
        """Return the first position of the block at a place in a sequence."""
        return place * self._positions

    def take(self) -> int:
        """Take a block that nobody uses. There must be one."""
        block = self._free.pop()
        self._users[block] = 1
        return block

    def share(self, blocks: Ids[int]) -> None:
        """Count one more user of blocks."""
        for block in blocks:
            self._users[block] += 1

    def release(self, blocks: Ids[int]) -> None:
        """Count one user less. Blocks without a user are free again."""
        for block in blocks:
            self._users[block] -= 1
            if not self._users[block]:
                self._free.append(block)

    def is_shared(self, block: int) -> bool:
        """Return whether a block has several users."""
        return self._users[block] > 1


def pools(spec: ModelSpec, config: RunConfig) -> list[BlockPool]:
    """Return the blocks of each KV cache of a model."""
    length, rows = config.seq_len, config.batch
    return [
        BlockPool(
            kept.blocks(length, rows, config.contexts, config.parallel, config.lag),
            block_positions(length),
            kept.most(length, rows, config.lag),
            kept.window,
            kept.states,
        )
        for kept in kv_layers(spec)
    ]
