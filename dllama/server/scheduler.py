"""The queue of requests, and the one thread that owns the model and answers them in turn.

Clients take turns, each with its requests in the order of their arrival, so that one who asks a lot
delays the others by one answer at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dllama import LLM, Token
from dllama.errors import ContextError, DllamaError, ProtocolError
from dllama.server.metrics import Metrics
from dllama.server.problems import ApiError
from dllama.text.stream import End

log = logging.getLogger("dllama.server")

DEFAULT_QUEUE = 32  # requests that wait, at most
GRACE = 8.0  # seconds that the running request has to end when the server stops
RETRY = 1.0  # seconds between attempts to form the cluster again
PING = 1.0  # seconds of idleness after which the workers are looked after
MOST_CLIENTS = 10_000  # whose turns are known
MOST_WAIT = 60  # seconds that a client is asked to wait, at most


class State(Enum):
    """What the scheduler can do now."""

    LOADING = "loading"
    READY = "ok"
    LOST = "unavailable"  # a worker has gone
    STOPPING = "stopping"


@dataclass(frozen=True)
class Done:
    """The end of an answer.

    reason: stop or length, or cancelled where nobody wants it any more. cached: tokens of the
    prompt that needed no evaluation. generated: tokens, with the one that ended the text.
    """

    reason: str
    cached: int = 0
    generated: int = 0


@dataclass(eq=False)
class Job:
    """A request for the scheduler.

    deliver: called in the scheduler's thread with every token and at last with a Done or an
    ApiError; it must not block. options: arguments of LLM.generate. client: whose it is.
    """

    prompt: Sequence[int]
    max_tokens: int
    deliver: Callable[[Token | Done | ApiError], None]
    options: dict[str, Any] = field(default_factory=dict)
    client: str = ""
    cancelled: bool = False
    since: float = field(default_factory=time.monotonic)


class Scheduler:
    """Answers jobs, a client's in the order of their arrival, with one model.

    open_model: called by load, and again whenever the model was lost with a worker. limit: jobs
    that may wait. All methods but load and run may be called from any thread.
    """

    def __init__(
        self,
        open_model: Callable[[], LLM],
        metrics: Metrics,
        limit: int = DEFAULT_QUEUE,
        grace: float = GRACE,
    ) -> None:
        self._open_model = open_model
        self._metrics = metrics
        self._limit = limit
        self._grace = grace
        self._model: LLM | None = None
        self._queue: list[Job] = []  # in the order of arrival
        self._turns: dict[str, int] = {}  # the last turn of a client, the latest last
        self._turn = 0
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._state = State.LOADING
        self._opening = False
        self._why = ""  # the cluster is not complete
        self._seconds = 1.0  # that a job takes, a moving average

    @property
    def state(self) -> State:
        """What it can do now."""
        return self._state

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def opening(self) -> bool:
        """Whether the model is being opened again, which may take as long as it takes at first."""
        return self._opening

    def load(self) -> LLM:
        """Open the model; errors of LLM. The thread that calls it must also call run."""
        self._model = self._open_model()
        self._become(State.READY)
        return self._model

    def run(self) -> None:
        """Answer jobs until stop is called, or KeyboardInterrupt ends it at once.

        Whatever happens to a job costs that job alone.
        """
        try:
            while (job := self._next()) is not None:
                self._answer(job)
        finally:
            self._become(State.STOPPING)
            self._reject_all()

    def close(self) -> None:
        """Let the model go; run must have ended."""
        if self._model is not None:
            self._model.close()

    def submit(self, job: Job) -> None:
        """Put a job into the queue; ApiError 503 if there is no model.

        If the queue is full, the last job of the client that has most of it gets an ApiError 429,
        which is raised here if that is this one.
        """
        with self._changed:
            if self._state is not State.READY:
                raise self._unavailable()
            if len(self._queue) >= self._limit:
                self._make_room(job)
            self._queue.append(job)
            self._metrics.waiting.set(len(self._queue))
            self._changed.notify_all()

    def _make_room(self, job: Job) -> None:
        """Turn away one job that waits, or this one."""
        seconds = max(1, min(MOST_WAIT, round(self._limit * self._seconds)))
        message = f"{self._limit} requests are waiting already, try again later"
        full = ApiError(429, message, code="queue_full", retry_after=seconds)
        counts = Counter(one.client for one in self._queue)
        client, most = counts.most_common(1)[0]
        if most <= counts[job.client] + 1:
            raise full
        last = next(one for one in reversed(self._queue) if one.client == client)
        self._queue.remove(last)
        last.deliver(full)

    def cancel(self, job: Job) -> None:
        """Stop a job, wherever it is; it gets a Done unless it has one."""
        with self._changed:
            job.cancelled = True
            if job is self._running:
                self._interrupt()
            elif job in self._queue:
                self._queue.remove(job)
                self._metrics.waiting.set(len(self._queue))
                job.deliver(Done("cancelled"))

    def stop(self) -> None:
        """Take no more jobs, reject those that wait, and end soon after the one that runs.

        It is cut when its time is over, or when stop is called again.
        """
        with self._changed:
            again = self._state is State.STOPPING
            self._become(State.STOPPING)
            self._reject_all()
            if self._running is not None and not again:
                self._changed.wait_for(lambda: self._running is None, self._grace)
            if self._running is not None:
                self._interrupt()

    def _interrupt(self) -> None:
        """Cut the running job."""
        if self._running is not None and self._model is not None:
            self._running.cancelled = True
            self._model.interrupt()

    def _next(self) -> Job | None:
        """The next job; None when it is time to end."""
        while not self._stopping():
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping(), self._patience())
                if self._queue:
                    self._running = self._take()
                    self._metrics.waiting.set(len(self._queue))
                    return self._running
            if not self._stopping():
                self._look_after_cluster()
        return None

    def _take(self) -> Job:
        """The oldest job of the client whose last turn is longest ago."""
        job = min(self._queue, key=lambda one: self._turns.get(one.client, 0))
        self._queue.remove(job)
        self._turn += 1
        self._turns.pop(job.client, None)
        self._turns[job.client] = self._turn
        if len(self._turns) > MOST_CLIENTS:
            del self._turns[next(iter(self._turns))]
        return job

    def _stopping(self) -> bool:
        return self._state is State.STOPPING

    def _patience(self) -> float | None:
        """Seconds to wait for a job before something else is to be done."""
        if self._model is None:
            return RETRY
        return PING if self._model.nodes > 1 else None

    def _look_after_cluster(self) -> None:
        """Find out whether all workers are there; form the cluster again if it was lost."""
        try:
            if self._model is None:
                self._reopen()
            else:
                self._model.ping()
        except (DllamaError, OSError) as error:
            self._lose(error)

    def _reopen(self) -> None:
        """Form the cluster again."""
        self._opening = True
        try:
            self._model = self._open_model()
        finally:
            self._opening = False
        log.warning("the cluster is complete again")
        self._become(State.READY)

    def _answer(self, job: Job) -> None:
        """Generate; whatever goes wrong is told to the client."""
        last: Done | ApiError
        begin = time.monotonic()
        self._metrics.queue_seconds.observe(begin - job.since)
        self._metrics.running.set(1)
        try:
            done = self._generate(job)
            cut = done.reason == "cancelled" and self._state is State.STOPPING
            last = self._unavailable() if cut else done
        except (ConnectionError, ProtocolError) as error:
            self._lose(error)
            last = self._unavailable()
        except Exception as error:
            last = self._failed(error)
        with self._changed:
            self._running = None
            self._seconds += 0.2 * (time.monotonic() - begin - self._seconds)
            self._changed.notify_all()
        self._metrics.running.set(0)
        job.deliver(last)

    def _generate(self, job: Job) -> Done:
        """Deliver token after token.

        The beginning that the prompt has in common with the last request is not evaluated again.
        """
        model = self._model
        assert model is not None
        model.stats.clear()
        cached = model.continue_from(job.prompt)
        self._metrics.prompt.inc(len(job.prompt))
        self._metrics.cached.inc(cached)
        tokens = model.generate([], job.max_tokens, **job.options)
        count, ended, before = 0, False, time.monotonic()
        # Whoever cancels the job says so first and then interrupts: one of both comes in time.
        while not job.cancelled and (token := next(tokens, None)) is not None:
            count, ended = count + 1, token.end in (End.EOS, End.STOP)
            self._metrics.token(time.monotonic() - before, first=count == 1)
            before = time.monotonic()
            job.deliver(token)
        kept = f"{len(job.prompt)} tokens of prompt, of which {cached} were known"
        log.info("%s: %d tokens generated", kept, count)
        reason = "cancelled" if job.cancelled else "stop" if ended else "length"
        return Done(reason, cached, count)

    def _failed(self, error: Exception) -> ApiError:
        """The answer to an error of this job alone."""
        if isinstance(error, ContextError):
            return ApiError(400, str(error), code="context_length_exceeded")
        log.error("a request failed", exc_info=error)
        if self._model is not None:
            self._model.reset()
        return ApiError(500, "the model failed at this request; the log has the reason")

    def _lose(self, error: Exception) -> None:
        """Let the model go, and reject all jobs that wait, until the workers are back."""
        if self._model is not None:
            log.warning("%s: requests are refused until the cluster is complete again", error)
            self._metrics.lost.inc()
            self._model.close()
            self._model = None
        elif str(error) != self._why:
            log.info("not yet: %s", error)
        self._why = str(error)
        with self._changed:
            self._become(State.LOST)
            self._reject_all()

    def _become(self, state: State) -> None:
        """Change the state; stopping is for ever."""
        with self._changed:
            if self._state is not State.STOPPING:
                self._state = state
                self._metrics.up.set(state is State.READY)
                self._changed.notify_all()

    def _reject_all(self) -> None:
        """Tell those who wait that there is nothing to wait for."""
        with self._changed:
            while self._queue:
                self._queue.pop(0).deliver(self._unavailable())
            self._metrics.waiting.set(0)

    def _unavailable(self) -> ApiError:
        """Why there is no model now."""
        why = {
            State.LOADING: "the model is being loaded",
            State.STOPPING: "the server is stopping",
        }.get(self._state, "a worker of the cluster has gone; it is waited for")
        return ApiError(503, f"{why}, try again later", code="unavailable", retry_after=2)
