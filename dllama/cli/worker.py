"""`dllama worker`: serve one node of a cluster."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from dllama import transports
from dllama.cli.addresses import check_guarded
from dllama.cli.parser import add_command, add_option
from dllama.cli.signals import ENDING
from dllama.cluster.layout import thread_count
from dllama.cluster.names import host_name
from dllama.cluster.secrets import read_secret
from dllama.cluster.weights.shard_folder import ShardFolder
from dllama.cluster.worker import Worker
from dllama.errors import ConfigError
from dllama.options.workers import WORKER_LISTEN, WORKER_OPTIONS
from dllama.transports import Listener
from dllama.transports.sockets import format_tcp, parse_tcp

log = logging.getLogger("dllama.worker")

TICK = 0.1  # seconds between looks at whether the worker was stopped
LEAVING = 0.7  # seconds that a session has to end after a signal

GB = 10**9
CACHE_GB = 20.0
EXAMPLES = """\
dllama worker
dllama worker --announce --secret-file secret.txt
dllama worker --listen 10.0.0.2:9999 --secret-file secret.txt
dllama worker --listen 10.0.0.2:9999 --secret-file secret.txt --cache ~/.cache/dllama/shards
dllama worker --listen unix:/run/user/1000/dllama.sock --threads 2"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers, "worker", run, "Serve one node of a cluster, to one root after another.",
        EXAMPLES,
    )  # fmt: skip
    for option in WORKER_OPTIONS:
        add_option(parser, option)


def run(args: argparse.Namespace) -> int:
    """Listen until Ctrl-C, SIGTERM or SIGHUP."""
    logging.getLogger("dllama").setLevel(logging.WARNING if args.quiet else logging.INFO)
    secret = read_secret(args.secret_file)
    threads = thread_count(args.threads)
    address = args.listen or (everywhere() if args.announce else WORKER_LISTEN.default)
    transport = transports.of_address(address)
    check_guarded(address, secret, args.insecure, "--secret-file")
    if args.announce and not transports.is_public(address):
        raise ConfigError(f"--announce: other machines cannot reach {address}")
    folder = shard_folder(args)
    with transport.listen(address) as listener:
        name = args.name or (host_name() if transports.is_public(address) else "")
        worker = Worker(listener, threads, secret, args.once, name, folder=folder, plain=args.plain)
        heed_signals(worker)
        print(f"listening at {listener.address}", flush=True)
        with _announcement(worker, listener) if args.announce else nullcontext():
            serve(worker, listener)
    return 0


def heed_signals(worker: Worker) -> None:
    """Stop a worker when Ctrl-C, SIGTERM or SIGHUP comes; not SIGHUP if nohup has it ignored."""
    for number in (signal.SIGINT, *ENDING):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: worker.stop())


def everywhere() -> str:
    """The port of workers at all addresses of this machine."""
    port = parse_tcp(WORKER_LISTEN.default)[1]
    return format_tcp("::" if socket.has_dualstack_ipv6() else "0.0.0.0", port)


def _announcement(worker: Worker, listener: Listener) -> AbstractContextManager[object]:
    """Announce a worker, whose name may change by that."""
    # Its library takes a while to load.
    from dllama.cluster.finding.announcing import Announcement

    def renamed(name: str) -> None:
        worker.name = name

    return Announcement(worker.name, listener.address, renamed, lambda: worker.stopped)


def serve(worker: Worker, listener: Listener) -> None:
    """Serve until a signal comes; a session that does not end soon after that is cut.

    In a thread of its own, since signals are handled in this one, whatever the session computes or
    waits for.
    """
    errors: list[BaseException] = []
    ended = threading.Event()  # Thread.join takes a thread for ended when a signal interrupts it

    def work() -> None:
        try:
            worker.serve()
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=work, name="serve", daemon=True).start()
    try:
        while not worker.stopped and not ended.wait(TICK):
            pass
    finally:
        worker.stop()
        if not ended.wait(LEAVING):
            _cut(listener)
    if errors:
        raise errors[0]


def _cut(listener: Listener) -> NoReturn:
    """End this process in the middle of what its threads do."""
    log.warning("stopped in the middle of a session")
    listener.close()
    logging.shutdown()
    os._exit(0)


def shard_folder(args: argparse.Namespace) -> ShardFolder | None:
    """Return where weights are kept, None for memory alone; ConfigError if that cannot be."""
    if args.cache is None:
        if args.cache_size is not None:
            raise ConfigError("--cache-size needs --cache DIR")
        return None
    try:
        return ShardFolder(Path(args.cache).expanduser(), int((args.cache_size or CACHE_GB) * GB))
    except OSError as error:
        raise ConfigError(f"--cache {args.cache}: {error.strerror}") from error
