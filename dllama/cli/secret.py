"""`dllama secret`: make a secret for the nodes of a cluster, or an API key."""

from __future__ import annotations

import argparse
import os
import secrets
from pathlib import Path
from typing import Any

from dllama.cli.parser import add_command
from dllama.errors import InputError

BYTES = 32  # so many that nobody can try them all
EXAMPLES = """\
dllama secret > secret.txt
dllama secret --output ~/.config/dllama/secret"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers, "secret", run,
        "Make a secret for the nodes of a cluster, or an API key.", EXAMPLES,
    )  # fmt: skip
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="a new file, which only you can read (default: print the secret)",
    )


def run(args: argparse.Namespace) -> int:
    """Print a secret, or write it."""
    made = secrets.token_urlsafe(BYTES)
    if args.output is None:
        print(made)
        return 0
    path = args.output.expanduser()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{made}\n")
    return 0
