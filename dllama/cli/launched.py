"""Commands whose nodes a launcher such as mpirun started: all of them run the same command line.

The first node, rank 0, runs the command. The others are its workers until it ends.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from dllama import transports
from dllama.cli.worker import heed_signals, serve
from dllama.cluster.layout import thread_count
from dllama.cluster.worker import Worker
from dllama.options import TRANSPORT
from dllama.transports import Launched, Transport
from dllama.transports.mpi_job import rank_told

log = logging.getLogger("dllama.cli")

FAILED = 1
PATIENCE = 5.0  # seconds that a root has to come back after its session has failed
SPEAKING = 1.0  # seconds that the first node has to print an error before another one ends


def run(args: argparse.Namespace) -> int:
    """Run a command, or be a worker of the node that does; return the exit status."""
    transport = _transport(args)
    started = transport.launched() if transport else None
    if transport and started and started.rank:
        return _work(transport, started, _settings(args).get("threads"))
    status: int = args.run(args)
    return status


def leaves_it_to_others(words: Sequence[str]) -> bool:
    """Whether another node says what is wrong with this command line; give it time to do so.

    A launcher may end all nodes as soon as one has failed.
    """
    named = {f"{TRANSPORT.flag}={name}" for name in transports.LAUNCHED}
    chosen = any(
        flag == TRANSPORT.flag and name in transports.LAUNCHED for flag, name in pairwise(words)
    )
    others = rank_told() > 0 and (chosen or not named.isdisjoint(words))
    time.sleep(SPEAKING * others)
    return others


def _transport(args: argparse.Namespace) -> Transport | None:
    """The transport of a command, if a launcher starts its nodes."""
    if TRANSPORT.name not in (option.name for option in getattr(args, "known", ())):
        return None
    chosen = _settings(args).get(TRANSPORT.name) or []
    for name in [chosen] if isinstance(chosen, str) else chosen:
        if name in transports.LAUNCHED:
            return transports.get(name)
    return None


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The values of options that are given."""
    from dllama.cli.options import settings  # whose libraries take a while to load

    return settings(args)


def _work(transport: Transport, started: Launched, threads: Any) -> int:
    """Serve rank 0 until it ends. It says what goes wrong, so that nothing is said twice."""
    logging.getLogger("dllama").setLevel(logging.ERROR)
    own = threads[started.rank] if isinstance(threads, list) else threads
    with transport.listen(started.addresses[started.rank]) as listener:
        worker = Worker(listener, thread_count(own, started.sharers), patience=PATIENCE)
        heed_signals(worker)
        serve(worker, listener)
    if worker.forsaken and started.rank == 1:
        log.error("the root, rank 0 (%s), does not reply", started.addresses[0])
    return FAILED if worker.forsaken else 0
