"""Requests that wait. Clients take turns; the requests of one client keep their order.

So a client that sends many requests delays the others by only one request at a time.
"""

from __future__ import annotations

from collections import Counter

from dllama.server.jobs import Job

MOST_CLIENTS = 10_000  # whose last turns are remembered


class JobQueue:
    """Waiting jobs, which are told their places. One thread at a time may use it.

    Args:
        limit: of how many requests jobs may wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._jobs: list[Job] = []  # in order of arrival
        self._turns: dict[str, int] = {}  # last turn of each client, the most recent last
        self._turn = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def requests(self) -> int:
        """How many requests these jobs are of."""
        return len({job.request for job in self._jobs})

    def add(self, *jobs: Job) -> list[Job]:
        """Add the jobs of a request.

        If the queue is full, the client with the most waiting requests loses its last one, which
        may be this one.

        Returns:
            The jobs that found no room, if any.
        """
        self._jobs += jobs
        away = self._surplus(jobs[0]) if self.requests > self.limit else []
        self._jobs = [job for job in self._jobs if job not in away]
        if jobs[0] not in away:
            self._tell()
        return away

    def take(self) -> Job:
        """Take the oldest job of the client whose last turn is longest ago."""
        job = self._order()[0]
        self._jobs.remove(job)
        self._turn += 1
        self._turns.pop(job.client, None)
        self._turns[job.client] = self._turn
        if len(self._turns) > MOST_CLIENTS:
            del self._turns[next(iter(self._turns))]
        job.move(None)
        self._tell()
        return job

    def remove(self, job: Job) -> bool:
        """Take a job out, and return whether it was there."""
        if job not in self._jobs:
            return False
        self._jobs.remove(job)
        self._tell()
        return True

    def clear(self) -> list[Job]:
        """Take all jobs out."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def _surplus(self, new: Job) -> list[Job]:
        """Return the jobs of the request that has to go, which may be that of the new job."""
        clients = {one.request: one.client for one in self._jobs}
        counts = Counter(clients.values())
        greedy, most = counts.most_common(1)[0]
        client = new.client if most <= counts[new.client] else greedy
        last = next(one for one in reversed(clients) if clients[one] == client)
        return [one for one in self._jobs if one.request is last]

    def _order(self) -> list[Job]:
        """Return the jobs in the order of their turns, if no other comes."""
        earlier: Counter[str] = Counter()
        rounds: list[tuple[int, int, int, Job]] = []
        first: dict[str, int] = {}
        for index, job in enumerate(self._jobs):
            arrived = first.setdefault(job.client, index)
            last_turn = self._turns.get(job.client, 0)
            rounds.append((earlier[job.client], last_turn, arrived, job))
            earlier[job.client] += 1
        return [job for *_, job in sorted(rounds, key=lambda one: one[:3])]

    def _tell(self) -> None:
        """Tell all jobs how many come before them."""
        for before, job in enumerate(self._order()):
            job.move(before)
