"""Workers that are found in networks of namespaces: which, where, and what runs on them.

There is much waiting in that, so everything happens at the same time, each in its own network.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pytest
from namespaces import Cable, Node, need_namespaces, network

from dllama.cluster.finding.found import ANOTHER_SECRET, BUSY

pytestmark = pytest.mark.slow

SECRET, OTHER = "a secret of 19 bytes", "another of 19 bytes"
LIMIT = 60.0  # seconds that anything may take on a busy machine
STARTED: list[subprocess.Popen] = []
RUN = ("run", "--discover", "--threads", "1", "--temperature", "0")
# A root that listens for as long as it takes to ask twice.
ROOT = """
import sys
from dllama.cluster.finding import discovery
from dllama.cli import main
discovery.LISTENING = 1.5
sys.exit(main())
"""
# Keeps a speed, in a namespace since what limits a process looks different there.
KEEP = """
from dllama.model.weight_types import WeightType
from dllama.runtime.kept_file import write_kept
from dllama.runtime.kept_speed import speed_file
from dllama.runtime.speed import KernelSpeed, NodeSpeed
speed = NodeSpeed(1, 1e-6, 1e-5, dict.fromkeys(WeightType, KernelSpeed(9e9, 1e11)))
write_kept(speed_file(1), speed.as_json())
"""

# Announces more services than are asked, again and again.
FLOOD = """
import socket, struct, sys, time
names = [b"other-%d" % number for number in range(320)]
packets = []
for first in range(0, len(names), 40):
    packet, kind = struct.pack(">6H", 0, 0x8400, 0, 40, 0, 0), b"\\7_dllama\\4_tcp\\5local\\0"
    for name in names[first : first + 40]:
        service = bytes([len(name)]) + name + b"\\xc0\\x0c"
        packet += kind + struct.pack(">HHIH", 12, 1, 120, len(service)) + service
        kind = b"\\xc0\\x0c"
    packets.append(packet)
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
    place = "ff02::fb", 5353, 0, socket.if_nametoindex("eth0")
    while True:
        for packet in packets:
            sender.sendto(packet, place)
        time.sleep(0.05)
"""


def command(node: Node, *words, secret: str = SECRET, start=("-c", ROOT)) -> subprocess.Popen:
    """Start a command of dllama on a node."""
    process = node.popen(
        [sys.executable, *start, *words],
        env={**os.environ, "DLLAMA_SECRET": secret},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    STARTED.append(process)
    return process


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Wait for the end of a command; return its status and what it printed."""
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def worker(node: Node, name: str, secret: str = SECRET) -> subprocess.Popen:
    """Start a worker that announces itself."""
    words = ("worker", "--announce", "--name", name, "--threads", "1")
    return command(node, *words, secret=secret, start=("-m", "dllama"))


def wait_for(process: subprocess.Popen, words: str) -> str:
    """Read the log of a process up to a line with these words, and return the line."""
    end, line = time.monotonic() + LIMIT, " "
    while words not in line:
        assert line, f"it ended without {words!r}"
        assert time.monotonic() < end, words
        line = process.stderr.readline()
    return line


@contextmanager
def stopping(*processes: subprocess.Popen):
    """End processes at the end of a `with` block."""
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.communicate(timeout=LIMIT)


def test_workers_that_are_found(tmp_path, monkeypatch):
    need_namespaces()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with network(1) as (node,):
        assert node.run([sys.executable, "-c", KEEP], LIMIT).returncode == 0
    with ThreadPoolExecutor() as threads:
        scenarios = [
            threads.submit(free_busy_and_foreign_workers_and_one_that_comes_later, tmp_path),
            threads.submit(a_network_with_link_local_addresses_alone),
            threads.submit(a_network_with_other_ipv6_addresses_and_a_flood_of_announcements),
            threads.submit(a_server_goes_on_with_the_workers_that_are_there),
        ]
        if wait(scenarios, 2 * LIMIT).not_done:
            for process in STARTED:
                process.kill()  # somebody reads what it says
    for scenario in scenarios:
        scenario.result()


def free_busy_and_foreign_workers_and_one_that_comes_later(folder: Path):
    with network(4, Cable(rate=25), Cable()) as (root, *others):
        first, foreign = worker(others[0], "pi-2"), worker(others[1], "pi-3", OTHER)
        later = worker(others[2], "pi-1")
        later.send_signal(signal.SIGSTOP)
        with stopping(first, foreign, later):
            wait_for(first, "announced as pi-2")
            wait_for(foreign, "announced as pi-3")
            run = command(root, *RUN, "--steps", "2")
            wait_for(first, "rank 1 of 2 nodes")
            later.send_signal(signal.SIGCONT)
            status, _, err = ended(run)
            assert (status, "2 nodes over blocking" in err) == (0, True), err
            assert "warning: pi-3 (10.77.0.3:9999) has another secret" in err
            assert "\nworkers     pi-2 (10.77." in err
            wait_for(later, "announced as pi-1")
            words = ("--steps", "500", "--ignore-eos", "--nodes", "3", "--timeout", "60", "--quiet")
            run = command(root, *RUN, *words)
            with stopping(run):
                # By name, whoever was first. Over the faster network.
                assert ", 10.77.1.1:" in (line := wait_for(later, "rank 1 of 3 nodes")), line
                assert ", 10.77.1.1:" in (line := wait_for(first, "rank 2 of 3 nodes")), line
                run.stdout.read(1)
                run.send_signal(signal.SIGSTOP)  # in the middle of its text
                table(root, folder / "nodes.json")
                run.send_signal(signal.SIGCONT)


def table(root: Node, file: Path):
    """Check what `dllama nodes` shows of two busy workers and a foreign one."""
    status, out, err = ended(command(root, "nodes", "--json", str(file)))
    assert status == 0, err
    found = json.loads(file.read_text())["nodes"]
    assert {one["name"]: (one["address"], one["state"]) for one in found} == {
        "pi-1": ("10.77.1.4:9999", BUSY),
        "pi-2": ("10.77.1.2:9999", BUSY),
        "pi-3": ("10.77.0.3:9999", ANOTHER_SECRET),
    }
    assert found[0]["about"]["busy"] is True
    assert found[0]["about"]["bandwidth"] == 9e9
    assert found[2]["about"] is None
    *rows, why = out.splitlines()
    assert [row.split()[0] for row in rows] == ["name", "pi-1", "pi-2", "pi-3"]
    assert "pi-3 (10.77.0.3:9999) has another secret" in why


def a_network_with_link_local_addresses_alone():
    with network(3, Cable(ipv4=False, ipv6=True, private=False)) as (root, *others):
        one, two = worker(others[0], "same"), None
        with stopping(one):
            wait_for(one, "announced as same at")
            two = worker(others[1], "same")
            with stopping(two):
                wait_for(two, "announced as same-2 at")
                status, out, err = ended(command(root, *RUN, "--steps", "3", "--nodes", "3"))
        assert status == 0, err
        assert "3 nodes over blocking" in err
        assert out.startswith("MACBETH:")
        gone = ended(command(root, *RUN))
        assert gone[:2] == (1, "")
        assert gone[2].startswith("dllama: error: no workers found: listened 1.5 s for _dllama")
        assert "_dllama._tcp on eth0 (fe80::" in gone[2]


def a_network_with_other_ipv6_addresses_and_a_flood_of_announcements():
    with network(3, Cable(ipv4=False, ipv6=True)) as (root, other, hostile):
        one = worker(other, "pi-2")
        with stopping(one, hostile.popen([sys.executable, "-S", "-c", FLOOD])):
            wait_for(one, "announced as pi-2 at")
            status, _, err = ended(command(root, *RUN, "--steps", "2", "--nodes", "2"))
            words = ("--discover", "--nodes", "2", "--threads", "1", "--prompt-tokens", "8")
            plan = ended(command(root, "plan", *words))
    assert status == 0, err
    assert "\nworkers     pi-2 ([fd77::2]:9999)" in err
    assert plan[0] == 0, plan
    assert re.search("^(pi-2|root and 1 more) ", plan[1], re.M)  # as they are alike
    assert re.search(r"^latency .* us, measured: ", plan[1], re.M)


def a_server_goes_on_with_the_workers_that_are_there():
    with network(3) as (root, *others):
        workers = [worker(node, f"pi-{rank}") for rank, node in enumerate(others, 1)]
        for process in workers:
            wait_for(process, "announced as")
        words = ("serve", "--discover", "--threads", "1", "--timeout", "2")
        with stopping(*workers, serve := command(root, *words)):
            wait_for(workers[1], "rank 2 of 3 nodes")
            assert serve.stdout.readline().startswith("listening at")
            workers[0].kill()
            assert "worker 1 (pi-1, 10.77.0.2:9999)" in wait_for(serve, "rejecting requests")
            wait_for(workers[1], "rank 1 of 2 nodes")
            wait_for(serve, "2 nodes are connected again")
            back = worker(others[0], "pi-1")
            with stopping(back):
                wait_for(back, "announced as pi-1")
                workers[1].kill()  # and the one that is back takes its place
                wait_for(back, "rank 1 of 2 nodes")
