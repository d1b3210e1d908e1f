"""Proposes what followed the same ids earlier in the text (prompt lookup decoding).

Copying, editing and quoting repeat long runs of ids. Dictionaries lead from the last ids to the
places where they stood before. The latest few of these places are compared backwards, as LZ77
compressors do, so an id takes the same time however long the text is.
"""

from __future__ import annotations

from collections.abc import Sequence

from dllama.drafts.rate import Rate

LENGTHS = (6, 2)  # how many ids the dictionaries look up, the longest first
TRIES = 8  # places that are compared for each of these lengths
LONGEST = 32  # ids that are compared at a place
CHECKED = 32  # ids that are compared to see that the text of the last call goes on
# For a match of 0, 1, 2... ids: the chance of the next id before anything is known.
EXPECTED = (0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8)


class NgramDrafter:
    """A Drafter without a model. It takes about 200 bytes for an id of the text.

    It compares all of its proposals with the text, also those ids that no pass has verified. So it
    knows its chances without a cost, and they rise as soon as a text begins to repeat itself.
    """

    def __init__(self) -> None:
        self._rates = Rates()
        self._restart()

    def _restart(self) -> None:
        self._ids: list[int] = []
        # For each length: by the hash of so many ids, the last place after them; by place, the
        # place before it with the same hash. Place n is after n ids of the text.
        self._latest: dict[int, dict[int, int]] = {n: {} for n in LENGTHS}
        self._earlier: dict[int, list[int]] = {n: [0] for n in LENGTHS}
        self._source = 0  # the place whose ids the text has followed until now; 0: none
        self._proposal: list[int] = []
        self._matched = 0  # how many ids before the proposal agreed
        self._start = 0  # the place of the proposal
        self._judged = 0  # how many ids of the proposal are known to be right

    @property
    def chances(self) -> Sequence[float]:
        return [self._rates.chance(self._matched + n) for n in range(len(self._proposal))]

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        if not self._goes_on(ids):
            self._restart()
        for token in ids[len(self._ids) :]:
            self._append(int(token))
        source, self._matched = self._longest()
        self._proposal = self._following(source, most) if self._matched >= min(LENGTHS) else []
        self._start, self._judged = len(self._ids), 0
        return list(self._proposal)

    def learn(self, proposed: int, accepted: int) -> None:
        for _ in range(accepted):
            self._judge(True)
        if accepted < proposed:
            self._judge(False)

    def _goes_on(self, ids: Sequence[int]) -> bool:
        """Whether a text continues the one that is indexed, judged by the end of that one.

        If it differs before, proposals come from the old text, which makes none of them wrong.
        """
        end = len(self._ids)
        return len(ids) >= end and list(ids[max(0, end - CHECKED) : end]) == self._ids[-CHECKED:]

    def _append(self, token: int) -> None:
        """Take in the next id of the text."""
        ahead = len(self._ids) - self._start
        if ahead < len(self._proposal) and ahead == self._judged:
            self._judge(token == self._proposal[ahead])
        if self._source:
            self._source = self._source + 1 if self._ids[self._source] == token else 0
        self._ids.append(token)
        end = len(self._ids)
        for n in LENGTHS:
            key = hash(tuple(self._ids[-n:]))
            self._earlier[n].append(self._latest[n].get(key, 0) if end >= n else 0)
            self._latest[n][key] = end

    def _judge(self, right: bool) -> None:
        """Note whether the next id of the proposal is right. After a wrong one nothing is known."""
        self._rates.add(self._matched + self._judged, right)
        self._judged += 1
        if not right:
            self._proposal = []

    def _longest(self) -> tuple[int, int]:
        """The place before which most ids agree with the end of the text, and how many do."""
        best = (self._source, self._agreeing(self._source))
        for n in LENGTHS:
            place = len(self._ids)
            for _ in range(TRIES if best[1] < LONGEST else 0):
                place = self._earlier[n][place]
                if not place:
                    break
                agreeing = self._agreeing(place)
                best = (place, agreeing) if agreeing > best[1] else best
            if best[1] >= n:
                break
        self._source = best[0]
        return best

    def _agreeing(self, place: int) -> int:
        """How many ids before a place agree with the end of the text, at most LONGEST."""
        ids, end = self._ids, len(self._ids)
        most = min(place, LONGEST)
        return next((n for n in range(most) if ids[place - 1 - n] != ids[end - 1 - n]), most)

    def _following(self, place: int, most: int) -> list[int]:
        """The ids after a place. Those after the end of the text repeat the ids from there on."""
        end = len(self._ids)
        return [self._ids[place + n % (end - place)] for n in range(most)]


class Rates:
    """How often a proposed id was right, by how many ids before it agreed."""

    def __init__(self) -> None:
        self._rates = [Rate(chance) for chance in EXPECTED]

    def chance(self, matched: int) -> float:
        """The probability that the id after so many that agree is right."""
        return self._rates[self._class(matched)].chance

    def add(self, matched: int, right: bool) -> None:
        """Note that the id after so many that agree was right or wrong."""
        self._rates[self._class(matched)].add(right)

    @staticmethod
    def _class(matched: int) -> int:
        """Lengths that count together: long ones in ranges that double."""
        return matched if matched < 7 else 7 if matched < 16 else 8
