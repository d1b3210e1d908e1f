"""The queue of requests, and the one thread that owns the model and processes them in turn.

Clients take turns; the requests of one client keep their order. A client that sends many requests
delays the others by only one request at a time.
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
from dllama.options import QUEUE
from dllama.server.metrics import Metrics
from dllama.server.problems import ApiError
from dllama.text.stream import End

log = logging.getLogger("dllama.server")

GRACE = 8.0  # seconds that the running request may take when the server stops
RETRY = 1.0  # seconds between attempts to reconnect the cluster
PING = 1.0  # seconds without work after which the workers are checked
MOST_CLIENTS = 10_000  # whose last turns are remembered
MOST_WAIT = 60  # maximum number of seconds that a client is told to wait


class State(Enum):
    """State of the scheduler."""

    LOADING = "loading"
    READY = "ok"
    LOST = "unavailable"  # a worker is lost
    STOPPING = "stopping"


@dataclass(frozen=True)
class Done:
    """The end of a job.

    Attributes:
        reason: "stop", "length", or "cancelled" if nobody wants the result any more.
        cached: prompt tokens that did not have to be evaluated again.
        generated: generated tokens, including an EOS.
    """

    reason: str
    cached: int = 0
    generated: int = 0


@dataclass(eq=False)
class Job:
    """A request for the scheduler.

    Attributes:
        prompt: token ids.
        max_tokens: maximum number of tokens to generate.
        deliver: called in the scheduler's thread with every token and finally with a Done or an
            ApiError. It must not block.
        options: arguments of LLM.generate.
        client: identifies the client.
        cancelled: set by Scheduler.cancel.
        since: when the job was created (time.monotonic).
    """

    prompt: Sequence[int]
    max_tokens: int
    deliver: Callable[[Token | Done | ApiError], None]
    options: dict[str, Any] = field(default_factory=dict)
    client: str = ""
    cancelled: bool = False
    since: float = field(default_factory=time.monotonic)


class Scheduler:
    """Runs jobs with one model, one at a time.

    All methods but `load`, `run` and `close` may be called from any thread.

    Args:
        open_model: opens the model; called by `load`, and again after a worker was lost.
        metrics: updated as jobs run.
        limit: maximum number of waiting jobs.
        grace: seconds that the running job may take after `stop`.
    """

    def __init__(
        self,
        open_model: Callable[[], LLM],
        metrics: Metrics,
        limit: int = QUEUE.default,
        grace: float = GRACE,
    ) -> None:
        self._open_model = open_model
        self._metrics = metrics
        self._limit = limit
        self._grace = grace
        self._model: LLM | None = None
        self._queue: list[Job] = []  # in order of arrival
        self._turns: dict[str, int] = {}  # last turn of each client, the most recent last
        self._turn = 0
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._state = State.LOADING
        self._opening = False
        self._last_error = ""  # the last error that lost the model
        self._seconds = 1.0  # moving average of the time that a job takes

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    @property
    def waiting(self) -> int:
        """Number of jobs in the queue."""
        return len(self._queue)

    @property
    def opening(self) -> bool:
        """Whether the model is being reopened, which can take as long as loading it."""
        return self._opening

    def load(self) -> LLM:
        """Open the model. Call `run` in the same thread. Raises what LLM raises."""
        self._model = self._open_model()
        self._set_state(State.READY)
        return self._model

    def run(self) -> None:
        """Run jobs until `stop` is called or KeyboardInterrupt is raised.

        An error in a job does not affect other jobs.
        """
        try:
            while (job := self._next()) is not None:
                self._process(job)
        finally:
            self._set_state(State.STOPPING)
            self._reject_all()

    def close(self) -> None:
        """Close the model; `run` must have returned."""
        if self._model is not None:
            self._model.close()

    def submit(self, job: Job) -> None:
        """Queue a job.

        If the queue is full, the client with the most waiting jobs loses its last one, which may be
        this one.

        Raises:
            ApiError: 503 if there is no model, 429 if the queue is full.
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
        """Reject one waiting job, or raise ApiError 429 for this one."""
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
        """Stop a job, waiting or running. It gets a Done unless it already has one."""
        with self._changed:
            job.cancelled = True
            if job is self._running:
                self._interrupt()
            elif job in self._queue:
                self._queue.remove(job)
                self._metrics.waiting.set(len(self._queue))
                job.deliver(Done("cancelled"))

    def stop(self) -> None:
        """Accept no more jobs, reject those that wait, and let the running one finish.

        The running job is interrupted when its time is up, or when `stop` is called again.
        """
        with self._changed:
            again = self._state is State.STOPPING
            self._set_state(State.STOPPING)
            self._reject_all()
            if self._running is not None and not again:
                self._changed.wait_for(lambda: self._running is None, self._grace)
            if self._running is not None:
                self._interrupt()

    def _interrupt(self) -> None:
        """Interrupt the running job."""
        if self._running is not None and self._model is not None:
            self._running.cancelled = True
            self._model.interrupt()

    def _next(self) -> Job | None:
        """Wait for the next job; None when the scheduler stops."""
        while not self._stopping():
            with self._changed:
                self._changed.wait_for(
                    lambda: self._queue or self._stopping(), self._wait_seconds()
                )
                if self._queue:
                    self._running = self._take_turn()
                    self._metrics.waiting.set(len(self._queue))
                    return self._running
            if not self._stopping():
                self._check_cluster()
        return None

    def _take_turn(self) -> Job:
        """Take the oldest job of the client whose last turn is longest ago."""
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

    def _wait_seconds(self) -> float | None:
        """Return how many seconds to wait for a job before checking the cluster."""
        if self._model is None:
            return RETRY
        return PING if self._model.nodes > 1 else None

    def _check_cluster(self) -> None:
        """Check that all workers are alive, or try to reconnect a lost cluster."""
        try:
            if self._model is None:
                self._reopen()
            else:
                self._model.ping()
        except (DllamaError, OSError) as error:
            self._lose_model(error)

    def _reopen(self) -> None:
        self._opening = True
        try:
            self._model = self._open_model()
        finally:
            self._opening = False
        log.warning("all workers are connected again")
        self._set_state(State.READY)

    def _process(self, job: Job) -> None:
        """Run a job and deliver its result, which may be an error."""
        last: Done | ApiError
        begin = time.monotonic()
        self._metrics.queue_seconds.observe(begin - job.since)
        self._metrics.running.set(1)
        try:
            done = self._generate(job)
            cut = done.reason == "cancelled" and self._state is State.STOPPING
            last = self._unavailable() if cut else done
        except (ConnectionError, ProtocolError) as error:
            self._lose_model(error)
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
        """Generate and deliver tokens.

        The start of the prompt that equals an earlier request is not evaluated again.
        """
        model = self._model
        assert model is not None
        model.stats.clear()
        cached = model.continue_from(job.prompt)
        self._metrics.prompt.inc(len(job.prompt))
        self._metrics.cached.inc(cached)
        tokens = model.generate([], job.max_tokens, **job.options)
        count, ended, before = 0, False, time.monotonic()
        # `cancel` sets the flag before it interrupts, so at least one of the two is seen in time.
        while not job.cancelled and (token := next(tokens, None)) is not None:
            count, ended = count + 1, token.end in (End.EOS, End.STOP)
            self._metrics.token(time.monotonic() - before, first=count == 1)
            before = time.monotonic()
            job.deliver(token)
        prompt = f"prompt of {len(job.prompt)} tokens, {cached} of them cached"
        log.info("%s: %d tokens generated", prompt, count)
        reason = "cancelled" if job.cancelled else "stop" if ended else "length"
        return Done(reason, cached, count)

    def _failed(self, error: Exception) -> ApiError:
        """Turn an exception of this job into an error for its client."""
        if isinstance(error, ContextError):
            return ApiError(400, str(error), code="context_length_exceeded")
        log.error("a request failed", exc_info=error)
        if self._model is not None:
            self._model.reset()
        return ApiError(500, "the model failed on this request; see the server's log")

    def _lose_model(self, error: Exception) -> None:
        """Close the model and reject all waiting jobs until the workers are back."""
        if self._model is not None:
            log.warning("%s: rejecting requests until all workers are connected again", error)
            self._metrics.lost.inc()
            self._model.close()
            self._model = None
        elif str(error) != self._last_error:
            log.info("still waiting for the workers: %s", error)
        self._last_error = str(error)
        with self._changed:
            self._set_state(State.LOST)
            self._reject_all()

    def _set_state(self, state: State) -> None:
        """Change the state; nothing follows STOPPING."""
        with self._changed:
            if self._state is not State.STOPPING:
                self._state = state
                self._metrics.up.set(state is State.READY)
                self._changed.notify_all()

    def _reject_all(self) -> None:
        """Reject all waiting jobs."""
        with self._changed:
            while self._queue:
                self._queue.pop(0).deliver(self._unavailable())
            self._metrics.waiting.set(0)

    def _unavailable(self) -> ApiError:
        """Create the error that tells why there is no model now."""
        why = {
            State.LOADING: "the model is being loaded",
            State.STOPPING: "the server is stopping",
        }.get(self._state, "a worker of the cluster is lost, waiting for it")
        return ApiError(503, f"{why}, try again later", code="unavailable", retry_after=2)
