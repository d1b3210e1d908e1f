"""How many drafted ids pay, by what passes cost."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import geometric_mean, median

SLOPE = 0.15  # what a row adds to a pass over one row, until it is measured
MEASURES = 7  # passes that a median is taken of
STALE = 1000  # passes after which a measure is forgotten
GAIN = 1.02  # least gain in tokens per second, since chances and costs are estimates
TRIAL = 100  # every so many proposals in a row that do not pay, one id is verified nevertheless


class Costs:
    """Learns what a pass costs by its number of rows.

    Only ratios count: all passes take longer if texts grow or other programs run. So a cost is the
    time of a pass over what the passes around it suggest: the mean of their times over costs.
    """

    def __init__(self) -> None:
        self._unit: deque[float] = deque(maxlen=MEASURES)  # seconds over cost of the last passes
        self._measures: dict[int, deque[float]] = {}  # costs of the last passes, by rows
        self._costs: dict[int, float] = {1: 1.0}  # medians of these
        self._seen: dict[int, int] = {}  # by rows, the last pass that had so many
        self._passes = 0
        self._unpaid = 0  # proposals since one was worth a row

    def observe(self, rows: int, seconds: float) -> None:
        """Take in the time of a pass that gave each text its next ids; long prompts do not count.

        Args:
            rows: rows of the pass, at least 1.
            seconds: from its start to the last sampled id.
        """
        cost = self._cost(rows)
        self._unit.append(seconds / cost)
        # What was expected counts as two passes, so that a single slow one does not decide.
        measures = self._measures.setdefault(rows, deque([cost, cost], MEASURES))
        measures.append(seconds / geometric_mean(self._unit))
        self._passes += 1
        self._costs[rows], self._seen[rows] = median(measures), self._passes
        for old in [n for n, seen in self._seen.items() if n > 1 and self._passes - seen > STALE]:
            del self._measures[old], self._costs[old], self._seen[old]

    def relative(self, rows: int) -> float:
        """What a pass costs, in passes over one row."""
        return self._cost(rows) / self._costs[1]

    def _seconds(self) -> float:
        """What a pass over one row takes now; infinite before the first pass."""
        return geometric_mean(self._unit) * self._costs[1] if self._unit else math.inf

    def _cost(self, rows: int) -> float:
        """The cost for so many rows; linear between numbers that were seen."""
        if rows in self._costs:
            return self._costs[rows]
        below = max(n for n in self._costs if n < rows)
        above = min((n for n in self._costs if n > rows), default=0)
        least, slope = self._costs[below], SLOPE * self._costs[1]
        if above:
            slope = (self._costs[above] - least) / (above - below)
        return least + slope * (rows - below)

    def worth(self, chances: Sequence[float], rows: int, most: int, seconds: float = 0.0) -> int:
        """Return how many ids of a proposal give most tokens per second.

        Args:
            chances: for each id, the probability that it is right if those before it are.
            rows: rows of the pass so far. Each is taken to give a token.
            most: most rows to add.
            seconds: what each id costs before it is verified.

        Returns:
            0 to `most`. Where nothing pays for long, sometimes 1 nevertheless, so that chances and
            costs are measured again.
        """
        extra, cost = seconds / self._seconds(), self.relative(rows)
        best, depth, tokens, right = GAIN * rows / cost, 0, float(rows), 1.0
        for n, chance in enumerate(chances[: max(0, most)], 1):
            right *= chance
            tokens += right
            cost = max(cost, self.relative(rows + n))  # measures may say that more rows take less
            rate = tokens / (cost + n * extra)
            if rate > best:
                best, depth = rate, n
        if depth:
            self._unpaid = 0
        return depth or self._trial(min(len(chances), most))

    def _trial(self, most: int) -> int:
        """0, and now and then 1, if there is something to verify."""
        self._unpaid += most > 0
        if self._unpaid < TRIAL:
            return 0
        self._unpaid = 0
        return 1
