"""`dllama worker`: serve one node of a cluster."""

from __future__ import annotations

import argparse
import logging
import signal
from typing import Any

from dllama import settings, transports
from dllama.cli.addresses import check_guarded
from dllama.cli.options import add_command
from dllama.cluster.protocol import read_secret
from dllama.cluster.worker import Worker

DEFAULT_ADDRESS = "127.0.0.1:9999"
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
    parser.add_argument(
        "--listen",
        default=DEFAULT_ADDRESS,
        metavar="ADDRESS",
        help=f"HOST:PORT, [IPV6]:PORT or unix:/path (default: {DEFAULT_ADDRESS})",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="for computing (default: one per core)"
    )
    parser.add_argument(
        "--secret-file", metavar="FILE",
        help="what the root must prove to know (default: DLLAMA_SECRET)",
    )  # fmt: skip
    parser.add_argument(
        "--insecure", action="store_true",
        help="listen where other machines can connect, without a secret",
    )  # fmt: skip
    parser.add_argument(
        "--once", action="store_true", help="exit when the first root has left, or none came"
    )
    parser.add_argument("--quiet", action="store_true", help="log warnings only")


def run(args: argparse.Namespace) -> int:
    """Listen until Ctrl-C or SIGTERM."""
    logging.getLogger("dllama").setLevel(logging.WARNING if args.quiet else logging.INFO)
    secret = read_secret(args.secret_file)
    threads = settings.thread_count(args.threads)
    transport = transports.of_address(args.listen)
    check_guarded(args.listen, secret, args.insecure, "--secret-file")
    with transport.listen(args.listen) as listener:
        worker = Worker(listener, threads, secret, args.once)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: worker.stop())
        print(f"listening at {listener.address}", flush=True)
        worker.serve()
    return 0
