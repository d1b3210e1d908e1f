"""What a worker tells about its speed, and what both sides make of nonsense."""

from __future__ import annotations

import json
import re
import threading
import time

import numpy as np
import pytest
from hostile import GREETING, IDS, WORKER, Between, frame, root_of, stranger

import dllama
from dllama import transports
from dllama.cli import main
from dllama.cluster import protocol
from dllama.cluster.finding import discovery
from dllama.cluster.finding.found import FREE, Found
from dllama.cluster.layout import Layout
from dllama.cluster.protocol import HEADER, HELLO, Kind
from dllama.cluster.speed import speeds
from dllama.cluster.speed.speeds import measure_nodes
from dllama.model.weight_types import WeightType
from dllama.runtime.speed import KernelSpeed, NodeSpeed


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Speeds that are made up: in proportion to threads. The list has what was asked for."""
    calls = []

    def node_speed(types, threads):
        calls.append((list(types), threads))
        speed = KernelSpeed(1e10 * threads, 1e11)
        return NodeSpeed(threads, 1e-6, 1e-5, dict.fromkeys(types, speed))

    monkeypatch.setattr(speeds, "node_speed", node_speed)
    return calls


def layout(*addresses: str, threads: int = 0) -> Layout:
    each = (3, *[threads] * len(addresses))
    return Layout(transports.get("blocking"), addresses, None, each)


def test_every_node_tells_its_speed_and_memory(served, asked):
    served._worker.name = "pi-2"
    root, worker = measure_nodes(layout(served.address), [WeightType.Q40, WeightType.F16], 5.0)
    assert (root.name, worker.name) == ("root", "pi-2")
    assert (root.speed.threads, worker.speed.threads) == (3, 1)
    assert set(worker.speed.kernels) == {WeightType.Q40, WeightType.F16}
    assert worker.memory > 1 << 20
    assert sorted(threads for _, threads in asked) == [1, 3]
    measure_nodes(layout(served.address, threads=2), [WeightType.Q40], 5.0)
    assert ([WeightType.Q40], 2) in asked
    assert served.complaints(0) == []


def test_a_run_takes_shares_by_speed(served, expected, caplog):
    with root_of(served.address, threads=3) as llm:
        assert llm._config.shares == pytest.approx((0.75, 0.25), abs=0.1)
        error = np.abs(llm.eval(IDS) - expected).max()
        assert error < 0.05 * expected.std()
    assert "by measured speed (root 30.0 GB/s, 127.0.0.1:" in caplog.text


def test_a_worker_does_not_measure_for_another_root(served, asked):
    with root_of(served.address):
        asked.clear()
        with pytest.raises(dllama.NodeError, match=r"worker 1 .* serves another root"):
            measure_nodes(layout(served.address), [WeightType.Q40], 5.0)
    assert asked == []


QUESTION = {"threads": 0, "types": ["q40"], "name": "pi", "timeout": 5.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threads", -1), ("threads", 1 << 20), ("threads", None), ("types", "q40"),
        ("types", ["q99"]), ("types", None), ("name", 7), ("timeout", 0),
    ],
)  # fmt: skip
def test_a_worker_refuses_other_questions(served, asked, field, value):
    content = {**QUESTION, field: value}
    reply = served.hear(GREETING + frame(Kind.SPEED, content))[HELLO.size :]
    assert HEADER.unpack(reply[: HEADER.size])[0] == Kind.ERROR
    assert field in json.loads(reply[HEADER.size :])["message"]
    assert (len(served.complaints()), asked) == (1, [])


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", 7), ("memory", -1), ("memory", 1 << 70), ("speed", None), ("speed", {"threads": 1})],
)
def test_a_root_refuses_wrong_replies(served, field, value):
    def change(sender, kind, content):
        if sender != WORKER or kind != Kind.SPEED:
            return None
        return frame(kind, {**json.loads(content), field: value})

    with (
        Between(served.address, change) as between,
        pytest.raises(dllama.ProtocolError, match=r"^worker 1 \(127") as error,
    ):
        measure_nodes(layout(between.address), [WeightType.Q40], 5.0)
    assert between.address in str(error.value)


def test_a_speed_that_was_not_told_is_missing(served):
    def change(sender, kind, content):
        if sender != WORKER or kind != Kind.SPEED:
            return None
        speed = json.loads(content)["speed"]
        return frame(kind, {**json.loads(content), "speed": {**speed, "kernels": []}})

    with (
        Between(served.address, change) as between,
        pytest.raises(dllama.ProtocolError, match="the speed of q40 is missing"),
    ):
        measure_nodes(layout(between.address), [WeightType.Q40], 5.0)


def test_a_worker_may_measure_for_longer_than_the_timeout(served, monkeypatch):
    told = speeds.node_speed

    def slow(types, threads):
        time.sleep(0.7)
        return told(types, threads)

    monkeypatch.setattr(speeds, "node_speed", slow)
    assert len(measure_nodes(layout(served.address), [WeightType.Q40], 0.4)) == 2


def test_a_worker_that_falls_silent_while_it_measures_is_named(served, monkeypatch):
    told, noticed = speeds.node_speed, threading.Event()

    def stuck(types, threads):
        if threads == 1:  # the worker
            noticed.wait(10)
        return told(types, threads)

    def change(sender, kind, content):
        return b"" if (sender, kind) == (WORKER, Kind.SPEED) else None

    monkeypatch.setattr(speeds, "node_speed", stuck)
    with (
        Between(served.address, change) as between,
        pytest.raises(dllama.TransportTimeoutError, match=r"worker 1 .* 0.4 s"),
    ):
        measure_nodes(layout(between.address), [WeightType.Q40], 0.4)
    noticed.set()


def test_shares_are_equal_if_a_worker_cannot_measure(served, expected, monkeypatch, caplog):
    told = speeds.node_speed

    def cannot(types, threads):
        if threads == 1:  # the worker
            raise MemoryError
        return told(types, threads)

    monkeypatch.setattr(speeds, "node_speed", cannot)
    with root_of(served.address, threads=3) as llm:
        assert np.abs(llm.eval(IDS) - expected).max() < 0.05 * expected.std()
    assert "equal shares: worker 1" in caplog.text
    assert "cannot measure its kernels: 'MemoryError()'" in caplog.text


def test_a_plan_takes_the_shares_of_a_run(served, monkeypatch, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    assert planned_with(served.address, monkeypatch, "--json", str(plan)) == 0
    shares = [one["share"] for one in json.loads(plan.read_text())["nodes"]]
    assert "shares   by measured speed" in capsys.readouterr().out
    with root_of(served.address, threads=3, buffer=None, max_seq_len=None) as llm:
        assert llm._config.shares == pytest.approx(shares)
    assert planned_with(served.address, monkeypatch, "--shares", "1,1") == 0
    out = capsys.readouterr().out
    assert "shares   given" in out
    assert re.search("^root +50.0%", out, re.M)


def test_a_plan_names_a_worker_that_cannot_measure(served, monkeypatch, capsys):
    def cannot(types, threads):
        raise MemoryError

    monkeypatch.setattr(speeds, "node_speed", cannot)
    assert planned_with(served.address, monkeypatch) == 1
    said = f"error: worker 1 (pi-2, {served.address}) cannot measure its kernels: 'MemoryError()'"
    assert said in capsys.readouterr().err


def test_a_plan_names_a_worker_of_another_version(monkeypatch, capsys):
    hello = HELLO.pack(protocol.MAGIC, protocol.VERSION - 1, 0, bytes(16))
    with stranger(hello) as address:
        assert planned_with(address, monkeypatch) == 1
    said = f"error: worker 1 (pi-2, {address}) speaks version {protocol.VERSION - 1} of the"
    assert said in capsys.readouterr().err


def planned_with(address: str, monkeypatch, *words: str) -> int:
    """The status of a plan with a worker that was found."""
    found = Found("pi-2", address, FREE)
    monkeypatch.setattr(discovery, "find_workers", lambda *_: [found])
    return main(["plan", "--discover", "--threads", "3", *words])


def test_a_worker_that_is_not_there_is_named(served):
    served.stop()
    with pytest.raises(dllama.TransportError, match="worker 1: "):
        measure_nodes(layout(served.address), [WeightType.Q40], 1.0)
