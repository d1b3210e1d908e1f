"""`dllama nodes`: list the workers of the local network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dllama.cli.files import check_output, write_json
from dllama.cli.info import size
from dllama.cli.parser import add_command, add_option
from dllama.cluster.secrets import VARIABLE, check_length, read_secret
from dllama.errors import TransportError
from dllama.options.workers import NODES_OPTIONS

EXAMPLES = """\
dllama nodes
dllama nodes --secret-file secret.txt --json nodes.json"""

HEADINGS = (
    "name", "address", "state", "cores", "memory", "available", "bandwidth", "kernels", "version",
)  # fmt: skip
NUMBERS = ("cores", "memory", "available", "bandwidth")


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers, "nodes", run, "List the workers of the local network that announce themselves.",
        EXAMPLES,
    )  # fmt: skip
    for option in NODES_OPTIONS:
        add_option(parser, option)


def run(args: argparse.Namespace) -> int:
    """Listen for some seconds, and print a table, then why workers cannot be used."""
    from dllama.cluster.finding import discovery, interfaces  # whose libraries take a while to load

    check_output(args.json)
    secret = read_secret(args.secret_file)
    option = f"--secret-file {args.secret_file}" if args.secret_file else VARIABLE
    check_length(secret, discovery.ANYWHERE, option)
    places = interfaces.interfaces()
    found = discovery.listen(secret, places, None, args.plain)
    if not found:
        raise TransportError(discovery.too_few(0, None, (), places))
    told = [one for one in found if one.about]
    chosen = {one.name: one for one in discovery.choose(told, secret, args.plain)}
    found = [chosen.get(one.name, one) for one in found]
    print(_table(found))
    for one in found:
        if one.about is None:
            print(one.why)
    if args.json:
        write_json(args.json, {"nodes": [_as_json(one) for one in found]})
    return 0


def _as_json(one: Any) -> dict[str, Any]:
    """A worker as --json writes it."""
    about = asdict(one.about) if one.about else None
    return {
        "name": one.name,
        "address": one.address,
        "state": one.state,
        "why": one.why,
        "here": one.here,
        "about": about,
    }


def _table(found: Sequence[Any]) -> str:
    """The workers as lines of text; numbers are aligned to the right."""
    rows = [HEADINGS, *(_row(one) for one in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if heading in NUMBERS else cell.ljust(width)
            for cell, width, heading in zip(row, widths, HEADINGS, strict=True)
        ).rstrip()
        for row in rows
    )


def _row(one: Any) -> tuple[str, ...]:
    """The cells of a worker."""
    state = f"{one.state} ({one.about.root})" if one.about and one.about.root else one.state
    state += ", this machine" if one.here else ""
    if one.about is None:
        return one.name, one.address, state, *["-"] * (len(HEADINGS) - 3)
    about = one.about
    sizes = size(about.memory), size(about.available), _rate(about.bandwidth)
    return one.name, one.address, state, str(about.cores), *sizes, about.kernels, about.version


def _rate(bandwidth: float) -> str:
    """Bytes per second in GB/s; a dash for what was not measured."""
    return f"{bandwidth / 1e9:.1f} GB/s" if bandwidth else "-"
