"""Requests that wait. Clients take turns; the requests of one client keep their order.

So a client that sends many requests delays the others by only one request at a time. A request for
many texts has a turn for each, and lets newer requests of its client go before the next one.
"""

from __future__ import annotations

from collections import Counter, deque

from dllama.server.queue.exchange import Exchange
from dllama.server.queue.jobs import Job

MOST_CLIENTS = 10_000  # whose last turns are remembered


class JobQueue:
    """Waiting jobs, which are told their places. One thread at a time may use it.

    Args:
        limit: of how many requests jobs may wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: dict[Exchange, deque[Job]] = {}  # in order of arrival
        self._taken: dict[Exchange, int] = {}  # last turns of those of which some jobs still wait
        self._turns: dict[str, int] = {}  # last turn of each client, the most recent last
        self._turn = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def requests(self) -> int:
        """How many requests these jobs are of."""
        return len(self._waiting)

    def add(self, *jobs: Job) -> list[Job]:
        """Add the jobs of a request.

        If the queue is full, the client with the most waiting requests loses its last one, which
        may be this one.

        Returns:
            The jobs that found no room, if any.
        """
        request, away = jobs[0].request, list[Job]()
        self._waiting[request] = deque(jobs)
        if self.requests > self.limit:
            away += self._drop(self._surplus(jobs[0].client))
        if request in self._waiting:
            self._tell()
        return away

    def take(self) -> Job:
        """Take the next job of the client whose last turn is longest ago."""
        request = self._order()[0]
        job = self._waiting[request].popleft()
        self._turn += 1
        self._taken[request] = self._turn
        if not self._waiting[request]:
            self._drop(request)
        self._turns.pop(job.client, None)
        self._turns[job.client] = self._turn
        if len(self._turns) > MOST_CLIENTS:
            del self._turns[next(iter(self._turns))]
        job.move(None)
        self._tell()
        return job

    def remove(self, job: Job) -> bool:
        """Take a job out, and return whether it was there."""
        jobs = self._waiting.get(job.request, deque())
        if job not in jobs:
            return False
        jobs.remove(job)
        if not jobs:
            self._drop(job.request)
        self._tell()
        return True

    def clear(self) -> list[Job]:
        """Take all jobs out."""
        return [job for request in [*self._waiting] for job in self._drop(request)]

    def _drop(self, request: Exchange) -> deque[Job]:
        """Take a request out, and return its jobs."""
        self._taken.pop(request, None)
        return self._waiting.pop(request)

    def _surplus(self, new: str) -> Exchange:
        """Return the request that has to go, which is the last one of its client.

        Args:
            new: the client of the request that came last.
        """
        clients = {request: jobs[0].client for request, jobs in self._waiting.items()}
        counts = Counter(clients.values())
        greedy, most = counts.most_common(1)[0]
        client = new if most <= counts[new] else greedy
        return next(request for request in reversed(clients) if clients[request] == client)

    def _order(self) -> list[Exchange]:
        """Return the requests in the order of their turns, if no other comes."""
        of: dict[str, list[Exchange]] = {}
        for request, jobs in self._waiting.items():
            of.setdefault(jobs[0].client, []).append(request)
        rounds: list[tuple[int, int, int, Exchange]] = []
        for arrived, (client, requests) in enumerate(of.items()):
            requests.sort(key=lambda request: self._taken.get(request, 0))
            turn = self._turns.get(client, 0)
            rounds += [(number, turn, arrived, one) for number, one in enumerate(requests)]
        return [request for *_, request in sorted(rounds, key=lambda one: one[:3])]

    def _tell(self) -> None:
        """Tell the first job of each request how many requests come before it."""
        for before, request in enumerate(self._order()):
            self._waiting[request][0].move(before)
