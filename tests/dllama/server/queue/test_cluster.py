"""What the server tells of its queue and its nodes."""

from __future__ import annotations

import json
import threading

import pytest
from serving import http, wait_until

from dllama.errors import TransportError
from dllama.server.queue.exchange import Exchange
from dllama.server.queue.job_queue import JobQueue
from dllama.server.queue.jobs import Job
from dllama.server.queue.meter import Meter
from dllama.server.queue.nodes import NodeView, nodes_without


def waiting(queue, client, told):
    """Add a job that notes its places."""
    job = Job((1,), 1, lambda event: None, client=client, moved=lambda p: told.append(p.before))
    assert queue.add(job) == []
    return job


def test_jobs_are_told_how_many_come_first():
    queue, first, second, other = JobQueue(8), [], [], []
    waiting(queue, "many", first)
    last = waiting(queue, "many", second)
    waiting(queue, "one", other)
    assert (first, second, other) == ([0], [1, 2], [1])
    queue.take()
    assert (first[-1], second[-1], other[-1]) == (None, 1, 0)
    queue.remove(last)
    assert (second[-1], other) == (1, [1, 0])  # who has not moved is not told again


def test_turns_come_as_they_were_told():
    queue, jobs = JobQueue(40), []
    for client in "aababcacbdaab":
        told = []
        jobs.append((waiting(queue, client, told), told))
    expected = sorted(jobs, key=lambda pair: pair[1][-1])
    assert [queue.take() for _ in jobs] == [job for job, _ in expected]


def test_a_request_for_many_texts_lets_newer_ones_go_first():
    queue, big, other = JobQueue(8), Exchange(), Exchange()
    many = [Job((1,), 1, lambda event: None, client="a", request=big) for _ in range(500)]
    assert queue.add(*many) == []
    assert queue.take() is many[0]
    told = []
    small = waiting(queue, "a", told)
    beside = Job((1,), 1, lambda event: None, client="b", request=other)
    queue.add(beside)
    assert (len(queue), queue.requests, told) == (501, 3, [0, 1])
    assert [queue.take() for _ in range(3)] == [beside, small, many[1]]
    assert queue.remove(many[7])
    assert [queue.take() for _ in range(497)] == [*many[2:7], *many[8:]]
    assert (len(queue), queue.requests) == (0, 0)


def test_tokens_per_second_are_those_of_now():
    meter = Meter()
    assert meter.rate(now=0.0) == 0.0
    for step in range(11):
        meter.add(100.0 + step / 10)
    assert meter.rate(now=101.0) == pytest.approx(10)
    assert meter.rate(now=102.0) == pytest.approx(5)
    assert meter.rate(now=106.0) == 0.0


def test_a_lost_worker_and_what_is_known_of_the_others():
    nodes = [NodeView(rank, "", None, {}) for rank in range(4)]
    without = nodes_without(nodes, 2)
    assert [node.state for node in without] == ["ok", "unknown", "lost", "unknown"]
    assert [node.state for node in nodes_without(without, 1)] == ["ok", "lost", "lost", "unknown"]
    assert [node.state for node in nodes_without(nodes, TransportError("?").rank)] == [
        "ok", "unknown", "unknown", "unknown",
    ]  # fmt: skip


def test_a_stream_says_its_place(server):
    server.gate.shut()
    body = {"prompt": "MACBETH:\n", "max_tokens": 1, "stream": True}
    bodies = []

    def ask():
        bodies.append(http(f"{server.url}/v1/completions", body)[2].decode())

    threads = [threading.Thread(target=ask) for _ in range(2)]
    threads[0].start()
    wait_until(lambda: server.count("dllama_requests_running") == 1)
    threads[1].start()
    wait_until(lambda: server.dispatcher.waiting == 1)
    seen = json.loads(http(f"{server.url}/cluster")[2])
    assert (seen["status"], seen["running"], seen["waiting"]) == ("ok", 1, 1)
    (node,) = seen["nodes"]
    assert (node["rank"], node["address"], node["state"]) == (0, None, "ok")
    assert node["memory"]["weights"] > 0
    server.gate.open()
    for thread in threads:
        thread.join()
    assert all(": waiting 0\n\n: started\n\ndata: " in text for text in bodies)
