"""Which KV blocks are free, and how many sequences use the others."""

from __future__ import annotations

from collections.abc import Sequence as Ids


class BlockPool:
    """The numbers of all KV blocks, and how many sequences use each.

    Args:
        count: how many blocks there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count

    @property
    def free(self) -> int:
        """How many blocks nobody uses."""
        return len(self._free)

    def take(self) -> int:
        """Take a block that nobody uses. There must be one."""
        block = self._free.pop()
        self._users[block] = 1
        return block

    def share(self, blocks: Ids[int]) -> list[int]:
        """Count one more user of blocks, and return them."""
        for block in blocks:
            self._users[block] += 1
        return list(blocks)

    def release(self, blocks: Ids[int]) -> None:
        """Count one user less. Blocks without a user are free again."""
        for block in blocks:
            self._users[block] -= 1
            if not self._users[block]:
                self._free.append(block)

    def is_shared(self, block: int) -> bool:
        """Return whether a block has several users."""
        return self._users[block] > 1
