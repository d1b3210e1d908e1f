"""The networks of tests and benchmarks: who reaches whom, how fast, and what is left behind."""

from __future__ import annotations

import subprocess
import sys

import pytest
from namespaces import Cable, need_namespaces, network

SEND = """
import socket, sys
with socket.create_server((sys.argv[1], 9000), family=socket.AddressFamily[sys.argv[2]]) as server:
    print("ready", flush=True)
    server.settimeout(10)
    link = server.accept()[0]
    link.sendall(bytes(int(sys.argv[3])))
    link.close()
"""
RECEIVE = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 9000), 10) as link:
    begin, count = time.monotonic(), 0
    while piece := link.recv(1 << 16):
        count += len(piece)
    print(count, time.monotonic() - begin)
"""
BURN = """
import time
end = time.monotonic() + 0.5
while time.monotonic() < end:
    pass
print(time.process_time())
"""


def transfer(sender, receiver, address: str, family: str, size: int) -> float:
    """Return the seconds that bytes took from one node to another."""
    words = [sys.executable, "-S", "-c", SEND, address, family, size]
    process = sender.popen(words, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    done = receiver.run([sys.executable, "-S", "-c", RECEIVE, address], 20)
    assert process.wait(10) == 0
    process.stdout.close()
    count, seconds = done.stdout.split()
    assert int(count) == size
    return float(seconds)


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout


def test_nodes_reach_each_other_over_all_cables_within_their_rates():
    need_namespaces()
    with network(2, Cable(rate=100), Cable(ipv4=False, ipv6=True)) as (one, other):
        seconds = transfer(one, other, one.address(), "AF_INET", 1_000_000)
        assert seconds > 0.95 * 8 / 100
        transfer(one, other, one.address6(1), "AF_INET6", 1000)
        outside = subprocess.run(["ip", "route", "get", one.address()], capture_output=True)
        assert b"eth0 src 10.77" not in outside.stdout


def test_a_quota_limits_the_processor_time_of_a_node():
    need_namespaces(quotas=True)
    with network(1, quotas=(0.5,)) as (node,):
        used = float(node.run([sys.executable, "-S", "-c", BURN], 20).stdout)
    assert used < 0.4


def test_nothing_is_left_behind_after_a_failure():
    need_namespaces(quotas=True)
    left = []

    def fail():
        with network(2, quotas=(1, 1)) as nodes:
            left.extend([nodes, nodes[0].popen(["sleep", "60"])])
            assert all(node.name in namespaces() for node in nodes)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    nodes, process = left
    assert process.wait(5) == -9
    assert not any(node.name in namespaces() for node in nodes)
    assert not nodes[0].cgroup.exists()
