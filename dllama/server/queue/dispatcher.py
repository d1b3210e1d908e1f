"""The one thread that owns the model and works on several requests at once; others wait."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from dllama import LLM, Token
from dllama.errors import ContextError, DllamaError, GrammarError, ProtocolError
from dllama.options import QUEUE
from dllama.scheduling.embedding import Embedding
from dllama.scheduling.generation import Generation
from dllama.server.problems import ApiError
from dllama.server.queue.job_queue import JobQueue
from dllama.server.queue.jobs import Done, Job, Work
from dllama.server.queue.meter import Meter
from dllama.server.queue.metrics import Metrics
from dllama.server.queue.nodes import NodeView, nodes_of, nodes_without
from dllama.server.queue.status import State, Status
from dllama.text.stream import End

log = logging.getLogger("dllama.server")

GRACE = 8.0  # seconds that running requests may take when the server stops
RETRY = 1.0  # seconds between attempts to reconnect the cluster
PATIENCE = 60.0  # seconds that requests wait for a lost worker
PING = 0.5  # seconds without work after which the workers are checked
RETRY_AFTER = 2  # seconds until a client is to ask again for a model that is not there
MOST_WAIT = 60  # maximum number of seconds that a client is told to wait


class Dispatcher:
    """Runs jobs with one model, as many at once as its passes work on.

    All methods but `load`, `run` and `close` may be called from any thread.

    Args:
        open_model: opens the model; called by `load`, and again after a worker was lost.
        metrics: updated as jobs run.
        limit: maximum number of waiting requests.
        grace: seconds that running jobs may take after `stop`.

    Attributes:
        status: what it is doing.
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
        self._grace = grace
        self._model: LLM | None = None
        self._at_once = 1
        self._queue = JobQueue(limit)
        self._nodes: list[NodeView] = []
        self._meter = Meter()
        self._running: list[Work] = []  # in the order of their turns
        self._changed = threading.Condition()
        self.status = Status()
        self._opening = False
        self._lost = 0.0  # when a worker was lost
        self._seconds = 1.0  # moving average of the time that a job takes

    @property
    def state(self) -> State:
        """The current state."""
        return self.status.state

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return self._queue.requests

    def cluster(self) -> dict[str, Any]:
        """Return what goes on, as /cluster shows it."""
        return {
            **self.status.as_json(details=True),
            "running": len(self._running),
            "waiting": self.waiting,
            "tokens_per_s": round(self._meter.rate(), 2) if self._running else 0.0,
            "nodes": [node.as_json() for node in self._nodes],
        }

    @property
    def opening(self) -> bool:
        """Whether the model is being opened, which can take long."""
        return self._opening

    def load(self, prepare: Callable[[LLM], None] = lambda llm: None) -> None:
        """Open the model. Call `run` in the same thread.

        Args:
            prepare: called with the model before requests are accepted.

        Raises:
            DllamaError, OSError: what LLM and `prepare` raise.
        """
        model = self._open()
        self._at_once = model.parallel
        prepare(model)
        self._set_state(State.READY)

    def run(self) -> None:
        """Run jobs until `stop` is called or KeyboardInterrupt is raised.

        An error in a job does not affect other jobs.
        """
        try:
            while self._wait():
                self._begin_jobs()
                if self._running:
                    self._pass()
                elif not self._queue or self._model is None:
                    self._check_cluster()
        finally:
            self._set_state(State.STOPPING)
            self._reject_all()
            self._end_all(self.unavailable())

    def close(self) -> None:
        """Close the model; `run` must have returned."""
        if self._model is not None:
            self._model.close()

    def submit(self, *jobs: Job) -> None:
        """Queue the jobs of a request.

        If the queue is full, the client with the most waiting requests loses its last one, which
        may be this one.

        Raises:
            ApiError: 503 if there is no model, 429 if the queue is full.
        """
        with self._changed:
            if self.state is not State.READY:
                raise self.unavailable()
            away = self._queue.add(*jobs)
            self._metrics.waiting.set(self.waiting)
            self._changed.notify_all()
            if jobs[0] in away:
                raise self._full()
            for job in away:
                job.deliver(self._full())

    def _full(self) -> ApiError:
        """Create the error of a request that finds no room in the queue."""
        limit = self._queue.limit
        seconds = max(1, min(MOST_WAIT, round(limit * self._seconds / self._at_once)))
        message = f"{limit} requests are waiting already, try again later"
        return ApiError(429, message, code="queue_full", retry_after=seconds)

    def cancel(self, job: Job) -> None:
        """Stop a job, waiting or running. It gets a Done unless it already has one."""
        with self._changed:
            job.cancelled = True
            if self._queue.remove(job):
                self._metrics.waiting.set(self.waiting)
                job.deliver(Done("cancelled"))
            for work in self._running:
                if work.job is job:
                    work.text.cancel()

    def stop(self) -> None:
        """Accept no more jobs, reject those that wait, and let the running ones finish.

        These are cut when their time is up, or when `stop` is called again.
        """
        with self._changed:
            again = self._stopping()
            self._set_state(State.STOPPING)
            self._reject_all()
            if self._running and not again:
                self._changed.wait_for(lambda: not self._running, self._grace)
            for work in self._running:
                work.text.cancel()

    def _wait(self) -> bool:
        """Wait until there may be something to do; False when the dispatcher stops."""
        with self._changed:
            if not self._running:
                self._changed.wait_for(
                    lambda: (self._queue and self._model) or self._stopping(), self._wait_seconds()
                )
            return bool(self._running) or not self._stopping()

    def _wait_seconds(self) -> float | None:
        """Return how many seconds to wait for a job before checking the cluster."""
        if self._model is None:
            return RETRY
        return PING if self._model.nodes > 1 else None

    def _begin_jobs(self) -> None:
        """Begin jobs while there is room for another one."""
        while self._model is not None and len(self._running) < self._at_once:
            with self._changed:
                if not self._queue or self._stopping():
                    return
                job = self._queue.take()
                self._metrics.waiting.set(self.waiting)
            self._begin(self._model, job)

    def _begin(self, model: LLM, job: Job) -> None:
        """Begin a job."""
        now = time.monotonic()
        self._metrics.queue_seconds.observe(now - job.since)
        job.request.begin(now)
        if not self._running:
            model.stats.clear()
        try:
            text = _begun(model, job)
        except Exception as error:
            job.deliver(self._failed(error))
            return
        with self._changed:
            self._running.append(Work(job, text, now, now))
            self._metrics.running.set(len(self._running))
            if job.cancelled:  # before it was running
                text.cancel()

    def _stopping(self) -> bool:
        return self.state is State.STOPPING

    def _pass(self) -> None:
        """Run a pass and deliver its tokens."""
        assert self._model is not None
        try:
            self._model.step()
        except (ConnectionError, ProtocolError) as error:
            self._lose_model(error)
        except Exception as error:
            failed = self._failed(error)
            if self._model.nodes > 1:  # nobody knows what the workers are doing
                self._lose_model(error)
            else:
                self._model.reset()
                self._end_all(failed)
        else:
            for work in list(self._running):
                self._deliver(work)

    def _deliver(self, work: Work) -> None:
        """Deliver the tokens that a pass brought, and the end if this is one."""
        last: Done | ApiError
        vector = None
        try:
            while (token := work.text.take()) is not None:
                self._count(work, token)
                work.job.deliver(token)
            if isinstance(work.text, Embedding) and work.text.done and not work.text.cut:
                self._count_prompt(work)
                vector = work.text.vector
        except Exception as error:
            self._end(work, self._failed(error))
            return
        if not work.text.done:
            return
        if work.text.cut and self._stopping():
            last = self.unavailable()
        else:
            ended = work.text.end in (End.EOS, End.STOP, End.COMPLETE)
            reason = "cancelled" if work.text.cut else "stop" if ended else "length"
            last = Done(reason, work.text.cached, work.text.count, work.text.prompt, vector)
        self._end(work, last)

    def _count(self, work: Work, token: Token) -> None:
        """Count a token."""
        now = time.monotonic()
        if not work.counted:
            work.counted = True
            self._count_prompt(work)
        if token.given:
            return
        if work.text.count == 1:
            self._metrics.first_seconds.observe(now - work.job.since)
        else:
            self._metrics.token_seconds.observe(now - work.last)
        self._metrics.generated.inc()
        work.job.request.take(now)
        self._meter.add(now)
        work.last = now

    def _count_prompt(self, work: Work) -> None:
        """Count a prompt that is evaluated."""
        self._metrics.prompt.inc(len(work.job.prompt))
        self._metrics.cached.inc(work.text.cached)
        work.job.request.read(work.text)

    def _end(self, work: Work, last: Done | ApiError) -> None:
        """Deliver the last event of a job."""
        now = time.monotonic()
        self._metrics.drafted.inc(work.text.drafted)
        self._metrics.accepted.inc(work.text.accepted)
        with self._changed:
            self._running.remove(work)
            self._metrics.running.set(len(self._running))
            self._seconds += 0.2 * (now - work.begun - self._seconds)
            self._changed.notify_all()
        work.job.deliver(last)

    def _end_all(self, error: ApiError) -> None:
        """End all running jobs with an error."""
        for work in list(self._running):
            self._end(work, error)

    def _check_cluster(self) -> None:
        """Check that all workers are alive, or try to reconnect a lost cluster."""
        try:
            if self._model is None:
                gc.collect()  # the error refers to the lost model and its buffers, and they to it
                log.warning("%d nodes are connected again", self._open().nodes)
                self._set_state(State.READY)
            else:
                self._model.ping()
        except (DllamaError, OSError) as error:
            self._lose_model(error)

    def _open(self) -> LLM:
        """Open the model."""
        self._opening = True
        try:
            self._model = self._open_model()
        finally:
            self._opening, self.status.doing = False, ""
        self._nodes = nodes_of(self._model)
        return self._model

    def _failed(self, error: Exception) -> ApiError:
        """Turn an exception of a job into an error for its client."""
        if isinstance(error, ContextError):
            return ApiError(400, str(error), code="context_length_exceeded")
        if isinstance(error, GrammarError):
            return ApiError(400, str(error), code="grammar_too_complex")
        log.error("a request failed", exc_info=error)
        return ApiError(500, "the model failed on this request; see the server's log")

    def _lose_model(self, error: Exception) -> None:
        """Close the model and end all running jobs. Those that wait go on when workers are back."""
        self._nodes = nodes_without(self._nodes, getattr(error, "rank", None))
        before, self.status.lost = self.status.lost, str(error)
        if self._model is not None:
            why = self.status.lost  # not the error: a log that keeps it would keep the model
            log.warning("%s: rejecting requests until the nodes are connected again", why)
            self._metrics.lost.inc()
            self._model.close()
            self._model, self._lost = None, time.monotonic()
            self._set_state(State.LOST)
            self._end_all(self.unavailable())
        elif str(error) != before:
            log.info("still waiting for the workers: %s", error)
        if time.monotonic() > self._lost + PATIENCE:
            self._reject_all()

    def _set_state(self, state: State) -> None:
        """Change the state; nothing follows STOPPING."""
        with self._changed:
            if not self._stopping():
                self.status.state = state
                self._metrics.up.set(state is State.READY)
                self._changed.notify_all()

    def _reject_all(self) -> None:
        """Reject all waiting jobs."""
        with self._changed:
            for job in self._queue.clear():
                job.deliver(self.unavailable())
            self._metrics.waiting.set(0)

    def unavailable(self) -> ApiError:
        """Create the error that tells why there is no model now."""
        message = f"{self.status.reason}, try again later"
        return ApiError(503, message, code="unavailable", retry_after=RETRY_AFTER)


def _begun(model: LLM, job: Job) -> Generation:
    """Begin the text of a job; errors are those of LLM.submit."""
    if job.pooling:
        return model.submit_embedding(job.prompt, job.pooling)
    return model.submit(job.prompt, job.max_tokens, **job.options)
