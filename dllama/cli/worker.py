"""`dllama worker`: serve one node of a cluster."""

from __future__ import annotations

import argparse
import logging
import signal
from typing import Any

from dllama import transports
from dllama.cli.addresses import check_guarded
from dllama.cli.parser import add_command, add_option
from dllama.cluster.layout import thread_count
from dllama.cluster.secrets import read_secret
from dllama.cluster.worker import Worker
from dllama.options import WORKER_LISTEN, WORKER_OPTIONS

EXAMPLES = """\
dllama worker
dllama worker --listen 10.0.0.2:9999 --secret-file secret.txt
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
    """Listen until Ctrl-C or SIGTERM."""
    logging.getLogger("dllama").setLevel(logging.WARNING if args.quiet else logging.INFO)
    secret = read_secret(args.secret_file)
    threads = thread_count(args.threads)
    address = args.listen or WORKER_LISTEN.default
    transport = transports.of_address(address)
    check_guarded(address, secret, args.insecure, "--secret-file")
    with transport.listen(address) as listener:
        worker = Worker(listener, threads, secret, args.once)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: worker.stop())
        print(f"listening at {listener.address}", flush=True)
        worker.serve()
    return 0
