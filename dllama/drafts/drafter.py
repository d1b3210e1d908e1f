"""What proposes the ids that may follow a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Drafter(Protocol):
    """Proposes ids for one text at a time. The text is the same whatever a drafter proposes."""

    @property
    def chances(self) -> Sequence[float]:
        """For each id of the last proposal, the probability that it is right if those before are.

        `Costs.worth` takes these.
        """

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Return ids that may follow.

        Args:
            ids: the whole text so far, prompt and answer. It grows between calls. If it does not
                begin with the text of the last call, the drafter starts anew.
            most: most ids to propose.

        Returns:
            At most `most` ids, [] for none.
        """

    def learn(self, proposed: int, accepted: int) -> None:
        """Take in what a pass said of the last proposal.

        Args:
            proposed: how many of its ids were verified, from the first on.
            accepted: how many of these were right, from the first on.
        """
