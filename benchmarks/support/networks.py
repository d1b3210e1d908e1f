"""Networks on one machine: a network namespace for each node, joined by bridges.

    with network(3, Cable(rate=1000), Cable(rate=100, ipv6=True), quotas=(2, 1, 1)) as nodes:
        worker = nodes[1].popen([sys.executable, "-m", "dllama", "worker", ...])
        nodes[0].run([sys.executable, "-m", "dllama", "run", "--workers", nodes[1].address()])

Needs root, and the programs ip and tc (iproute2). Nothing outside the namespaces is changed. They
are removed at the end, with the processes that still run in them, unless a signal ends this process
at once: SIGKILL, or SIGTERM and SIGHUP where nothing handles them. Benchmarks and tests use it;
benchmarks call exit_on_signals first.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

COMMAND = 30.0  # seconds that a call of ip or tc may take
LEAVING = 5.0  # seconds that a process may take to terminate
MAX_NODES = 250
SWITCH = "switch"
CGROUPS = Path("/sys/fs/cgroup")
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Microseconds in which a quota of processor time is used up. A node that has used it stands still
# until the period ends, so short ones make it look slow. Linux throttles at ticks, which may be
# 4 ms apart, and refuses a quota of less than 1 ms.
PERIOD, LEAST_QUOTA = 5_000, 1_000
# A link may send at once what its rate allows in this time. Timers are late, especially on virtual
# machines, so a shorter time costs speed. A longer one lets short messages pass without a limit.
BURST = 32e-6  # seconds
LEAST_BURST = 4096  # bytes; two packets of Ethernet

_numbers = itertools.count()


class NetworkError(Exception):
    """A command failed; the message is one line."""


@dataclass(frozen=True)
class Cable:
    """How all nodes are joined by a bridge of its own.

    Args:
        rate: Mbit/s of each node in each direction; None for no limit.
        delay: ms of each node in each direction, more than the rate takes; needs netem.
        ipv4: nodes have IPv4 addresses.
        ipv6: nodes have link-local IPv6 addresses.
        private: and others of a private network, with ipv6.
        burst: bytes sent at once; None for what suits the rate.
        congestion_control: of TCP: cubic, bbr, ...; None for the kernel's default. IPv4 only.
    """

    rate: float | None = None
    delay: float = 0.0
    ipv4: bool = True
    ipv6: bool = False
    private: bool = True
    burst: int | None = None
    congestion_control: str | None = None


class Node:
    """A namespace; its interfaces are lo and, for each cable, eth0, eth1, ..."""

    def __init__(self, name: str, rank: int, cgroup: Path | None = None) -> None:
        self.name = name
        self.rank = rank
        self.cgroup = cgroup

    def address(self, cable: int = 0) -> str:
        """Return the IPv4 address on a cable."""
        return f"10.77.{cable}.{self.rank + 1}"

    def address6(self, cable: int = 0) -> str:
        """Return the IPv6 address on a cable, of a private network, not the link-local one."""
        return f"fd77:0:0:{cable}::{self.rank + 1:x}"

    def command(self, words: Sequence[object]) -> list[str]:
        """Return the command that runs another one here, within the node's quota."""
        command = ["ip", "netns", "exec", self.name, *(str(word) for word in words)]
        if self.cgroup is None:
            return command
        procs = shlex.quote(str(self.cgroup / "cgroup.procs"))  # not to be seen in the namespace
        return ["sh", "-c", f"echo $$ > {procs} && exec {shlex.join(command)}"]

    def popen(self, words: Sequence[object], **options: Any) -> subprocess.Popen[str]:
        """Start a program here; the options are those of subprocess.Popen, text by default.

        It gets a session of its own, and is killed when the network ends.
        """
        options = {"text": True, "start_new_session": True, **options}
        return subprocess.Popen(self.command(words), **options)

    def run(self, words: Sequence[object], timeout: float, **options: Any) -> Any:
        """Run a program here to its end; returns and raises as subprocess.run does."""
        options = {"text": True, "capture_output": True, "start_new_session": True, **options}
        return subprocess.run(self.command(words), timeout=timeout, check=False, **options)

    def set_link(self, up: bool, cable: int = 0) -> None:
        """Plug a cable in or out."""
        _run("ip", "-n", self.name, "link", "set", f"eth{cable}", "up" if up else "down")


def exit_on_signals() -> None:
    """Exit as Python does on Ctrl-C, SIGTERM and SIGHUP, so that what was made is removed."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _exit)


def _exit(number: int, frame: object) -> NoReturn:
    """Exit on a signal; later signals do not disturb the cleanup."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def missing(quotas: bool = False, delay: bool = False) -> str | None:
    """Return what this system lacks for a network, or None.

    Args:
        quotas: whether nodes have quotas of processor time.
        delay: whether cables have a delay.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root, for network namespaces"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"needs the program {program}: install iproute2"
    probe = f"dllama-{os.getpid()}-probe{next(_numbers)}"
    try:
        with _namespace(probe):
            if quotas:
                with _cgroup(probe, 1.0):
                    pass
            if delay:
                _run("ip", "-n", probe, "link", "set", "lo", "up")
                _limit(probe, "lo", Cable(delay=1.0))
    except (NetworkError, OSError) as error:
        return f"needs what this kernel or container lacks: {error}"
    return None


@contextlib.contextmanager
def network(
    nodes: int, *cables: Cable, quotas: Sequence[float] | None = None
) -> Iterator[list[Node]]:
    """Make a network of namespaces, and remove it at the end.

    Args:
        nodes: how many.
        cables: what joins them; without any, one cable with IPv4 and no limits.
        quotas: how many processors' time each node has; None for no limits.

    Raises:
        NetworkError: the kernel refused something. What was made is removed.
    """
    assert nodes <= MAX_NODES
    name = f"dllama-{os.getpid()}-{next(_numbers)}"
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(_namespace(f"{name}-switch"))
        made = []
        for rank in range(nodes):
            own = f"{name}-{rank}"
            cgroup = stack.enter_context(_cgroup(own, quotas[rank])) if quotas else None
            made.append(Node(stack.enter_context(_namespace(own)), rank, cgroup))
        for index, cable in enumerate(cables or (Cable(),)):
            _ip(switch, f"link add {SWITCH}{index} up type bridge forward_delay 0 mcast_snooping 0")
            for node in made:
                _connect(node, switch, index, cable)
        yield made


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[str]:
    """Make a network namespace; processes that still run in it are killed at the end."""
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "netns", "exec", name, "sh", "-c", _sysctl("accept_dad", 0))
        _ip(name, "link set lo up")
        yield name
    finally:
        with contextlib.suppress(NetworkError):
            for pid in _run("ip", "netns", "pids", name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _run("ip", "netns", "del", name)


def _sysctl(key: str, value: int) -> str:
    """Return a shell command that sets a value for all later interfaces, where there is IPv6."""
    path = f"/proc/sys/net/ipv6/conf/default/{key}"
    return f"test ! -e {path} || echo {value} > {path}"


@contextlib.contextmanager
def _cgroup(name: str, processors: float) -> Iterator[Path]:
    """Make a cgroup with a quota of processor time; version 1 or 2 of cgroups."""
    period = max(PERIOD, int(LEAST_QUOTA / processors) + 1)
    quota = max(LEAST_QUOTA, int(processors * period))
    if (CGROUPS / "cpu" / "cpu.cfs_quota_us").exists() or not (CGROUPS / "cgroup.procs").exists():
        folder = CGROUPS / "cpu" / name
        limits = {"cpu.cfs_period_us": f"{period}", "cpu.cfs_quota_us": f"{quota}"}
    else:
        folder = CGROUPS / name
        limits = {"cpu.max": f"{quota} {period}"}
        (CGROUPS / "cgroup.subtree_control").write_text("+cpu")
    folder.mkdir()
    try:
        for file, value in limits.items():
            (folder / file).write_text(value)
        yield folder
    finally:
        _remove(folder)


def _remove(cgroup: Path) -> None:
    """Remove a cgroup once its processes, which are killed, have ended."""
    end = time.monotonic() + LEAVING
    while True:
        try:
            cgroup.rmdir()
            return
        except OSError:
            if time.monotonic() > end:
                raise
        for pid in (cgroup / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.01)


def _connect(node: Node, switch: str, index: int, cable: Cable) -> None:
    """Connect a node to the bridge of a cable, limited in both directions."""
    device, port = f"eth{index}", f"port{node.rank}-{index}"
    _ip(node.name, f"link add {device} type veth peer name {port} netns {switch}")
    _ip(switch, f"link set {port} master {SWITCH}{index} up")
    if not cable.ipv6:
        off = f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6"
        words = f"test ! -e {off} || echo 1 > {off}"
        _run("ip", "netns", "exec", node.name, "sh", "-c", words)
    lines = [f"link set {device} up"]
    if cable.ipv4:
        lines.append(f"address add {node.address(index)}/24 dev {device}")
        if cable.congestion_control:  # the kernel's default may differ and is not ours to change
            route = f"10.77.{index}.0/24 dev {device} src {node.address(index)}"
            lines.append(f"route replace {route} congctl {cable.congestion_control}")
    if cable.ipv6 and cable.private:
        lines.append(f"address add {node.address6(index)}/64 dev {device} nodad")
    _ip(node.name, *lines)
    _limit(switch, port, cable)
    _limit(node.name, device, cable)


def _limit(where: str, device: str, cable: Cable) -> None:
    """Limit what a device sends to the rate of a cable, after its delay."""
    add = ("tc", "-n", where, "qdisc", "add", "dev", device)
    parent: tuple[str, ...] = ("root",)
    if cable.delay > 0:
        _run(*add, "root", "handle", "1:", "netem", "delay", f"{cable.delay}ms", "limit", "100000")
        parent = ("parent", "1:1")
    if cable.rate is not None:
        burst = cable.burst or max(LEAST_BURST, int(cable.rate * 1e6 / 8 * BURST))
        rate = f"{int(cable.rate * 1e3)}kbit"
        _run(*add, *parent, "tbf", "rate", rate, "burst", str(burst), "latency", "50ms")


def _ip(where: str, *lines: str) -> None:
    """Give commands to ip in a namespace."""
    _run("ip", "-n", where, "-batch", "-", text="\n".join(lines) + "\n")


def _run(*command: str, text: str | None = None) -> str:
    """Run a short command and return its output; NetworkError if it fails."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=COMMAND, check=False
        )
    except subprocess.TimeoutExpired:
        raise NetworkError(f"{' '.join(command)}: took more than {COMMAND:g} s") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["failed"])[0]
        raise NetworkError(f"{' '.join(command)} {(text or '').strip()}: {reason}")
    return done.stdout
