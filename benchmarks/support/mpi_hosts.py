"""Hosts of MPI jobs on one machine: network namespaces with names and shared memory of their own.

    with network(3) as nodes, mpi_hosts(nodes, shutil.which("mpirun")) as job:
        subprocess.run(job.command("-n", 3, "dllama", "run", ...), env=job.environment)

The launcher runs on the first host and reaches the others by an agent in ssh's place. So ranks have
nothing but the network between them, as on machines of their own. Knows Open MPI and MPICH.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a program calls this module support.networks, a test networks
    from networks import Node

# Launchers call it as AGENT [OPTION]... HOST COMMAND...
AGENT = """#!/bin/sh
while case $1 in -*) ;; *) false ;; esac do shift; done
exec ip netns exec "{prefix}${{1#node}}" unshare --uts --ipc --mount sh -c '
    hostname "$1" && mount -t tmpfs none /dev/shm && mount --bind {folder}/hosts /etc/hosts || exit
    shift
    eval "$*"' sh "$@"
"""
CABLE = "eth0"
OPEN_MPI, MPICH = "Open MPI", "MPICH"
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def library_of(launcher: str | None) -> str | None:
    """Return which MPI a launcher belongs to: OPEN_MPI, MPICH, or None if neither or not there."""
    if launcher is None:
        return None
    words = [launcher, "--version"]
    said = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **AS_ROOT})
    return OPEN_MPI if "Open MPI" in said.stdout else MPICH if "HYDRA" in said.stdout else None


@dataclass(frozen=True)
class Job:
    """What starts ranks on the hosts node0, node1, ...: one on each."""

    nodes: Sequence[Node]
    agent: Path
    launcher: Sequence[str]
    environment: dict[str, str]

    def command(self, *words: object) -> list[str]:
        """Return the command that starts the launcher on node0.

        Args:
            words: the launcher's own: numbers of ranks and their programs.
        """
        rest = [shlex.quote(str(word)) for word in words]
        return [str(self.agent), "node0", "exec", *map(shlex.quote, self.launcher), *rest]

    def processes(self, rank: int) -> list[int]:
        """Return the processes on a host."""
        words = ["ip", "netns", "pids", self.nodes[rank].name]
        return [int(pid) for pid in subprocess.check_output(words, text=True).split()]

    def sent(self, rank: int) -> int:
        """Return how many bytes a host has sent over its cable."""
        path = f"/sys/class/net/{CABLE}/statistics/tx_bytes"
        return int(self.nodes[rank].run(["cat", path], 10.0).stdout)


@contextlib.contextmanager
def mpi_hosts(nodes: Sequence[Node], launcher: str) -> Iterator[Job]:
    """Make the nodes of a network hosts of MPI jobs, until the end.

    Args:
        nodes: with IPv4 addresses on their first cable.
        launcher: mpirun of Open MPI or MPICH.
    """
    with tempfile.TemporaryDirectory(prefix="mpi-hosts-") as folder:
        agent, names = Path(folder, "agent"), Path(folder, "hosts")
        lines = [f"{node.address()} node{node.rank}\n" for node in nodes]
        names.write_text("127.0.0.1 localhost\n" + "".join(lines))
        agent.write_text(AGENT.format(prefix=nodes[0].name.removesuffix("0"), folder=folder))
        agent.chmod(0o700)
        hosts = ",".join(f"node{node.rank}" for node in nodes)
        words = {
            OPEN_MPI: ["--host", hosts, "--bind-to", "none", "--prtemca", "plm_ssh_agent", agent],
            MPICH: ["-hosts", hosts, "-launcher", "ssh", "-launcher-exec", agent, "-iface", CABLE],
        }[library_of(launcher) or OPEN_MPI]
        yield Job(nodes, agent, [launcher, *map(str, words)], {**os.environ, **AS_ROOT})
