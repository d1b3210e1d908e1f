"""The blocks that a sequence has in a cache."""

from __future__ import annotations

from dllama.runtime.block_pool import BlockPool

GONE = -1


class HeldBlocks:
    """KV blocks of a sequence in one cache.

    Those before the window of the next token are needed only if the sequence, or another one with
    the same beginning, goes on from an earlier position. So they may be given back.

    Args:
        pool: of the cache.

    Attributes:
        numbers: of the blocks, by position; GONE for one that was given back.
        copied: (source, target): target is one of the blocks, which the next pass makes a copy of
            source; None if there is nothing to copy.
    """

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.numbers: list[int] = []
        self.copied: tuple[int, int] | None = None

    def lag(self, position: int) -> int:
        """Return how many positions before this one states have not taken in."""
        return 0

    def take_in(self, position: int) -> None:
        """Note that states are those before a position."""

    def resumable(self, position: int) -> int:
        """Return the last place, at most `position`, where the sequence can go on."""
        while position:
            seen = range(self.pool.first(position), self.pool.blocks(position))
            gone = next((place for place in seen if self.numbers[place] == GONE), None)
            if gone is None:
                break
            position = self.pool.begin(gone)
        return position

    def missing(self, position: int, count: int) -> int:
        """Return how many blocks have to be taken for `count` rows from a position on."""
        more = self.pool.blocks(position + count) - len(self.numbers)
        return max(0, more) + (self._shared(position) is not None)

    def reserve(self, position: int, count: int) -> None:
        """Take what is missing; there must be enough. A shared block is replaced by a copy."""
        shared = self._shared(position)
        if shared is not None:
            self.copied = (self.numbers[shared], self.pool.take())
            self.numbers[shared] = self.copied[1]
        while len(self.numbers) < self.pool.blocks(position + count):
            self.numbers.append(self.pool.take())

    def _shared(self, position: int) -> int | None:
        """Return the place of the block of a position, if others use it too."""
        place = self.pool.blocks(position + 1) - 1
        there = place < len(self.numbers)
        return place if there and self.pool.is_shared(self.numbers[place]) else None

    def fork(self, kept: int) -> HeldBlocks:
        """Return the same blocks of the first positions for another sequence."""
        made = type(self)(self.pool)
        made.numbers = self.numbers[: self.pool.blocks(kept)]
        if self.copied and self.copied[1] in made.numbers:  # not copied yet
            made.numbers[made.numbers.index(self.copied[1])] = self.copied[0]
        self.pool.share([number for number in made.numbers if number != GONE])
        return made

    def cut(self, position: int) -> None:
        """Give back all blocks from a position on, but for the one that it is in."""
        kept = self.pool.blocks(position)
        self.pool.release([number for number in self.numbers[kept:] if number != GONE])
        del self.numbers[kept:]
        if self.copied and self.copied[1] not in self.numbers:
            self.drop_copy()

    def drop_copy(self) -> None:
        """Give up the block that was to be copied."""
        if self.copied:
            self.pool.release([self.copied[0]])
            self.copied = None

    def seen(self, position: int, rows: int = 0) -> tuple[int, ...]:
        """Return the blocks that rows from a position on see, or for no rows all from there on."""
        end = self.pool.blocks(position + rows) if rows else len(self.numbers)
        return tuple(self.numbers[self.pool.first(position) : end])

    def returned(self, position: int) -> int:
        """Return the place of the first block that the sequence needs to go on at a position."""
        return self.pool.first(position)

    def behind(self, position: int) -> list[int]:
        """Return the places of blocks that are before the window of a row."""
        places = range(min(self.pool.first(position), len(self.numbers)))
        return [place for place in places if self.numbers[place] != GONE]

    def give(self, place: int) -> None:
        """Give a block back that is before the window."""
        self.pool.release([self.numbers[place]])
        self.numbers[place] = GONE


class HeldStates(HeldBlocks):
    """Blocks with states, each that after the last evaluated one of the block's positions.

    The last state may lag behind the end of the sequence, since it does not take in positions that
    may turn out wrong. What these change is kept in the block of the first of them. So a sequence
    can go on at any position from that of its last state on, or after a whole block that is still
    there.

    Attributes:
        at: the position of the last state: how many ids it has taken in.
    """

    def __init__(self, pool: BlockPool) -> None:
        super().__init__(pool)
        self.at = 0

    def lag(self, position: int) -> int:
        """Return how many positions before this one the last state has not taken in."""
        return position - self.at

    def take_in(self, position: int) -> None:
        """Note that the last state is that before a position."""
        self.at = position

    def resumable(self, position: int) -> int:
        """Return the last place where the sequence can go on; as in HeldBlocks."""
        if position >= self.at:
            return position
        places = range(self.pool.blocks(position + 1) - 1, 0, -1)
        whole = (place for place in places if self.numbers[place - 1] != GONE)
        return self.pool.begin(next(whole, 0))

    def missing(self, position: int, count: int) -> int:
        """Return how many blocks have to be taken for `count` rows from a position on."""
        return super().missing(self.at, position + count - self.at)

    def reserve(self, position: int, count: int) -> None:
        """Take what is missing; as in HeldBlocks. The last state will change."""
        super().reserve(self.at, position + count - self.at)

    def fork(self, kept: int) -> HeldBlocks:
        """Return the same blocks of the first positions for another sequence."""
        made = super().fork(self._stored(kept))
        made.take_in(min(self.at, kept))
        return made

    def cut(self, position: int) -> None:
        """Give back all blocks from a position on, but for the one that it is in."""
        super().cut(self._stored(position))
        self.at = min(self.at, position)

    def _stored(self, position: int) -> int:
        """Return the end of what is stored for a sequence of so many positions."""
        return min(position, self.at + 1)

    def seen(self, position: int, rows: int = 0) -> tuple[int, ...]:
        """Return the blocks that rows from a position on see, or for no rows all from there on."""
        return super().seen(self.at, position + rows - self.at if rows else 0)

    def behind(self, position: int) -> list[int]:
        """Return the places of blocks that no row from a position on needs."""
        return super().behind(self.at)

    def returned(self, position: int) -> int:
        """Return the place of the first block that the sequence needs to go on at a position."""
        return max(0, self.pool.blocks(position + 1) - 2)


def held_of(pool: BlockPool) -> HeldBlocks:
    """Return what a new sequence has in a cache."""
    return HeldStates(pool) if pool.states else HeldBlocks(pool)
