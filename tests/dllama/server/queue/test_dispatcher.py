"""The queue: order, limits, cancelled jobs and the end."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from serving import LIMIT, Gate, GatedLLM, wait_until

from dllama import Token
from dllama.errors import TransportError
from dllama.server.problems import ApiError
from dllama.server.queue import dispatcher as dispatcher_module
from dllama.server.queue.dispatcher import Dispatcher
from dllama.server.queue.jobs import Done, Job
from dllama.server.queue.metrics import Metrics
from dllama.server.queue.status import State

PROMPT = (5, 9, 17)


class Desk:
    """A dispatcher in a thread, and what it delivers, in order: (name of the job, event)."""

    def __init__(self, limit=8, grace=LIMIT, open_model=None) -> None:
        self.gate = Gate()
        self.events = []
        open_model = open_model or (lambda: GatedLLM(self.gate))
        self.dispatcher = Dispatcher(open_model, Metrics(), limit, grace)
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        assert self._loaded.wait(LIMIT)
        return self

    def __exit__(self, *_):
        self.gate.open()
        self.dispatcher.stop()
        self._thread.join(LIMIT)
        self.dispatcher.close()

    def _run(self):
        self.dispatcher.load()
        self._loaded.set()
        self.dispatcher.run()

    def submit(self, name, max_tokens=3, prompt=PROMPT, client="", **options):
        job = Job(
            prompt, max_tokens, lambda event: self.events.append((name, event)),
            {"temperature": 0.0, "ignore_eos": True, **options}, client,
        )  # fmt: skip
        self.dispatcher.submit(job)
        return job

    def of(self, name):
        return [event for other, event in self.events if other == name]

    def ended(self, name):
        return any(not isinstance(event, Token) for event in self.of(name))

    def wait(self, *names):
        wait_until(lambda: all(self.ended(name) for name in names))


def test_first_come_first_served():
    with Desk() as desk:
        desk.gate.shut()
        for name in "abcde":
            desk.submit(name, max_tokens=2)
        desk.gate.open()
        desk.wait(*"abcde")
    assert [name for name, _ in desk.events] == [name for name in "abcde" for _ in range(3)]
    assert desk.of("a")[-1] == Done("length", cached=0, generated=2, prompt=3)
    assert desk.of("b")[-1] == Done("length", cached=2, generated=2, prompt=3)
    assert desk.of("a")[:-1] == desk.of("b")[:-1]


def test_clients_take_turns():
    """So do clients that send one request at a time."""
    with Desk() as desk:
        desk.gate.shut()
        for name in "abcd":
            desk.submit(name, 1, client="many")
        wait_until(lambda: desk.dispatcher.waiting == 3)
        for name in "xy":
            desk.submit(name, 1, client=name)
        desk.gate.shut(after=2)  # the passes of a and of x
        desk.wait("x")
        for name in "XY":
            desk.submit(name, 1, client=name.lower())
        desk.gate.open()
        desk.wait(*"abcdxyXY")
    assert "".join(name for name, event in desk.events if isinstance(event, Done)) == "axybXYcd"


def test_who_has_most_of_a_full_queue_is_turned_away():
    with Desk(limit=3) as desk:
        desk.gate.shut()
        desk.submit("a", client="many")
        wait_until(lambda: desk.dispatcher.waiting == 0)
        for name in "bcd":
            desk.submit(name, client="many")
        with pytest.raises(ApiError, match="3 requests are waiting"):
            desk.submit("e", client="many")
        desk.submit("x", client="one")
        (turned,) = desk.of("d")
        assert (turned.status, turned.code) == (429, "queue_full")
        with pytest.raises(ApiError, match="3 requests are waiting"):
            desk.submit("y", client="one")
        desk.gate.open()
        desk.wait(*"abcx")
    assert [name for name, event in desk.events if isinstance(event, Done)] == [*"axbc"]


def test_a_text_that_ends_by_itself():
    with Desk() as desk:
        desk.submit("a", 9)
        desk.wait("a")
        third = desk.of("a")[2].id
        desk.submit("b", 9, ignore_eos=False, stop_ids=[third])
        desk.wait("b")
    assert desk.of("b")[-1] == Done("stop", cached=2, generated=3, prompt=3)


def test_a_cancelled_job_costs_the_others_nothing():
    with Desk() as desk:
        desk.gate.shut(after=1)
        first, second, _ = (desk.submit(name, 400) for name in "abc")
        wait_until(lambda: len(desk.of("a")) == 1)
        desk.dispatcher.cancel(second)
        assert desk.of("b") == [Done("cancelled")]
        desk.dispatcher.cancel(first)
        desk.wait("a")
        desk.dispatcher.cancel(first)  # nothing happens twice
        desk.gate.open()
        desk.wait("c")
    assert desk.of("a")[-1].reason == "cancelled"
    assert desk.of("a")[-1].generated <= 2
    assert desk.of("c")[-1] == Done("length", cached=2, generated=400, prompt=3)


def test_an_interrupted_prompt_is_not_evaluated_to_its_end():
    with Desk() as desk:
        desk.gate.shut()
        job = desk.submit("a", prompt=tuple(range(500)))
        wait_until(lambda: desk.dispatcher.waiting == 0)
        desk.dispatcher.cancel(job)
        desk.wait("a")
        desk.gate.open()
        desk.submit("b", 1, prompt=tuple(range(500)))
        desk.wait("b")
    assert desk.of("a") == [Done("cancelled", prompt=500)]
    assert desk.of("b")[-1].cached < 499


def test_a_full_queue():
    with Desk(limit=1) as desk:
        desk.gate.shut()
        desk.submit("a")
        wait_until(lambda: desk.dispatcher.waiting == 0)
        desk.submit("b")
        with pytest.raises(ApiError, match="1 requests are waiting") as found:
            desk.submit("c")
        assert found.value.status == 429


def test_stopping_lets_the_running_job_end_and_rejects_the_others():
    with Desk() as desk:
        desk.gate.shut(after=1)
        desk.submit("a", 5)
        desk.submit("b")
        wait_until(lambda: len(desk.of("a")) == 1)
        stopping = threading.Thread(target=desk.dispatcher.stop)
        stopping.start()
        desk.wait("b")
        with pytest.raises(ApiError, match="the server is stopping"):
            desk.submit("c")
        assert not desk.ended("a")
        desk.gate.open()
        stopping.join(LIMIT)
    assert desk.dispatcher.state is State.STOPPING
    assert desk.of("a")[-1].generated == 5
    assert desk.of("b")[-1].status == 503


@pytest.mark.parametrize("grace", [0.01, LIMIT])
def test_stopping_cuts_a_job_that_takes_too_long(grace):
    with Desk(grace=grace) as desk:
        desk.gate.shut(after=1)
        desk.submit("a", 5)
        wait_until(lambda: len(desk.of("a")) == 1)
        first = threading.Thread(target=desk.dispatcher.stop)
        first.start()
        wait_until(lambda: desk.dispatcher.state is State.STOPPING)
        if grace == LIMIT:
            desk.dispatcher.stop()  # again
        desk.wait("a")
        first.join(LIMIT)
    assert desk.of("a")[-1].status == 503


def test_a_job_that_fails_costs_that_job_alone(caplog):
    with Desk() as desk:
        desk.submit("a", stop=[""])  # which the checks of requests do not let through
        desk.submit("b")
        desk.wait("a", "b")
    assert desk.of("a")[-1].status == 500
    assert "a request failed" in caplog.text
    assert desk.of("b")[-1] == Done("length", cached=0, generated=3, prompt=3)


class LostLLM(GatedLLM):
    """A model that fails with an error that refers to it, as it refers to the error."""

    def step(self):
        self.error = TransportError("gone")
        raise self.error


def test_a_lost_model_is_gone_before_the_next_one_comes(monkeypatch):
    """So that there is room for the buffers of that one."""
    monkeypatch.setattr(dispatcher_module, "RETRY", 0.01)
    opened, left = [], []

    def open_model():
        left.extend(model for one in opened if (model := one()) is not None)
        made = (GatedLLM if opened else LostLLM)(desk.gate)
        opened.append(weakref.ref(made))
        return made

    desk = Desk(open_model=open_model)
    gc.disable()
    try:
        with desk:
            desk.submit("a")
            desk.wait("a")
            wait_until(lambda: desk.dispatcher.state is State.READY and len(opened) == 2)
    finally:
        gc.enable()
    assert desk.of("a")[-1].status == 503
    assert left == []
