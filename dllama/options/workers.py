"""Options of the commands that run workers and look for them."""

from __future__ import annotations

from dataclasses import replace

from dllama.options import INSECURE, JSON, LISTEN, LOG_QUIET, PLAIN, SECRET_FILE, THREADS
from dllama.options.option import Option

# `dllama worker`.
WORKER_LISTEN = replace(
    LISTEN, help="HOST:PORT, [IPV6]:PORT or unix:/path", default="127.0.0.1:9999",
    otherwise="127.0.0.1:9999; with --announce port 9999 of all addresses",
)  # fmt: skip
NAME = Option(
    "name", str, "what messages call this worker: letters, digits, spaces, - and _", metavar="NAME",
    otherwise="the host's name where other machines can connect",
)  # fmt: skip
CACHE = Option(
    "cache", str, "keep weights in this folder, so that a worker that starts again need not get "
    "them again", metavar="DIR",
)  # fmt: skip
CACHE_SIZE = Option(
    "cache_size", float, "GB that they may take; what was not used for longest goes first",
    metavar="GB", least=0.001, most=1e6, otherwise="20",
)  # fmt: skip
ANNOUNCE = Option(
    "announce",
    bool,
    "make the worker known on the local network, for --discover and dllama nodes",
    default=False,
)
WORKER_OPTIONS = (
    WORKER_LISTEN,
    ANNOUNCE,
    NAME,
    replace(THREADS, help="threads that compute", otherwise="one per core"),
    replace(SECRET_FILE, help="the secret that the root must know"),
    replace(
        INSECURE,
        help="allow other machines to connect without a secret: anybody can use this "
        "worker, and TLS only keeps out those who listen",
    ),
    PLAIN,
    Option("once", bool, "exit after the first root, or after a minute without one", default=False),
    CACHE,
    CACHE_SIZE,
    LOG_QUIET,
)

# `dllama nodes`.
NODES_OPTIONS = (SECRET_FILE, PLAIN, JSON)
