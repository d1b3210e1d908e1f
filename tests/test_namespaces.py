"""The networks of tests and benchmarks: who reaches whom, how fast, and what is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import networks
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
BENCHMARK = """
import tempfile, time
from networks import exit_on_signals, network
exit_on_signals()
with tempfile.TemporaryDirectory() as folder, network(2, quotas=(1, 1)) as nodes:
    process = nodes[1].popen(["sh", "-c", "echo; sleep 60"], stdout=-1)
    process.stdout.readline()
    print(folder, process.pid, *(node.name for node in nodes), *(node.cgroup for node in nodes))
    print(flush=True)
    time.sleep(60)
"""
BENCHMARKS = Path(networks.__file__).parents[1]


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


def running(pid: int) -> bool:
    """Whether a process is there that has not ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    return False


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
            process = nodes[0].popen(["sh", "-c", "echo; sleep 60"], stdout=subprocess.PIPE)
            left.extend([nodes, process])
            assert process.stdout.readline() == "\n"  # it is in its namespace
            assert all(node.name in namespaces() for node in nodes)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    nodes, process = left
    with process:
        assert process.wait(5) == -9
    assert not any(node.name in namespaces() for node in nodes)
    assert not nodes[0].cgroup.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_behind_after_a_signal(number):
    need_namespaces(quotas=True)
    command = [sys.executable, "-c", BENCHMARK]
    environment = {**os.environ, "PYTHONPATH": str(Path(networks.__file__).parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert select.select([process.stdout], [], [], 30)[0]
        folder, pid, one, other, *cgroups = process.stdout.readline().split()
        assert {one, other} < set(namespaces().split())
        process.send_signal(number)
        process.send_signal(number)  # does not disturb the cleanup
        assert process.wait(30) == 128 + number
    assert not {one, other, f"{one[:-1]}switch"} & set(namespaces().split())
    assert not any(Path(path).exists() for path in (folder, *cgroups))
    assert not running(int(pid))


def test_all_benchmarks_with_networks_heed_signals():
    sources = [path.read_text() for path in BENCHMARKS.glob("*.py")]
    made = [source for source in sources if re.search(r"\bnetwork\(", source)]
    assert len(made) >= 4
    assert all(re.search(r"^    exit_on_signals\(\)$", source, re.M) for source in made)
