"""`dllama bench`: compare numbers of nodes, transports, buffers and all-reduces."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dllama import LLM, transports
from dllama.bench import COLUMNS, Case, Result, cases, measure
from dllama.cli.files import check_output, write_json
from dllama.cli.options import (
    CLUSTER_OPTIONS,
    MODEL_OPTIONS,
    REPORT_OPTIONS,
    add_command,
    add_options,
    settings,
)
from dllama.cli.plot import plot
from dllama.config import Option
from dllama.errors import ConfigError, OutputError
from dllama.settings import ALL_REDUCES, BUFFERS, MAX_NODES

EXAMPLES = """\
dllama bench --nodes 1,2,4
dllama bench --model llama --nodes 1,2,4 --transport blocking,unix --buffer q80,f32
dllama bench --model llama --workers 10.0.0.2:9999 10.0.0.3:9999 --json bench.json"""

COMPARED = (
    Option("nodes", int, "numbers of nodes (default: 1,2,4, or what --workers give)", "N,N,...",
           least=1, most=MAX_NODES, commas=True),
    Option("transport", str, "transports (default: all that connect the nodes)", "NAME,...",
           commas=True),
    Option("buffer", str, "what travels between nodes: q80, f32, f16 (default: the model's)",
           "TYPE,...", commas=True),
    Option("all_reduce", str, "auto, exchange, two-step (default: auto)", "NAME,...", commas=True),
)  # fmt: skip
WORK = (
    Option("prompt_tokens", int, "tokens of the prompt (default: 64)", "N", least=1),
    Option("steps", int, "tokens to generate (default: 32)", "N", least=2),
    Option("repeats", int, "runs of each case, in turns (default: 3)", "N", least=1),
)
FILES = (
    Option("csv", str, "write the table to FILE as CSV", "FILE"),
    Option("plot", str, "draw tokens/s to FILE.png (needs matplotlib: pip install 'dllama[plot]')",
           "FILE"),
)  # fmt: skip
NAMES = {option.name for option in COMPARED}
CLUSTER = tuple(option for option in CLUSTER_OPTIONS if option.name not in NAMES | {"shares"})
HEADINGS = ("nodes", "transport", "buffer", "all-reduce", "total ms", "inference", "transfer",
            "sent kB", "recv kB", "tokens/s", "prompt t/s", "speed-up")  # fmt: skip
LLM_ARGUMENTS = [option.name for option in (*MODEL_OPTIONS, *CLUSTER)]


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers,
        "bench",
        run,
        "Compare numbers of nodes, transports, buffers and all-reduces.",
        EXAMPLES,
    )
    groups = {
        "compared (lists, all combinations)": COMPARED,
        "work": WORK,
        "model": MODEL_OPTIONS,
        "cluster": CLUSTER,
        "report": (*REPORT_OPTIONS, *FILES),
    }
    add_options(parser, groups, config=False)


def run(args: argparse.Namespace) -> int:
    """Measure all cases in turns, print the table of medians, write the files asked for."""
    values = settings(args)
    for name in ("json", "csv", "plot"):
        check_output(values.get(name))
    if "plot" in values and find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'dllama[plot]'")
    results = _measure(values)
    print(_table(results))
    if "json" in values:
        write_json(values["json"], {"cases": [result.as_dict() for result in results]})
    if "csv" in values:
        _write_csv(values["csv"], results)
    if "plot" in values:
        plot(values["plot"], results)
    return 0


def _measure(values: dict[str, Any]) -> list[Result]:
    """All cases, with a progress bar on a terminal."""
    todo, repeats = _cases(values), values.get("repeats", 3)
    hidden = True if values.get("quiet") else None
    with tqdm(total=len(todo) * repeats, unit="run", disable=hidden, leave=False) as bar:
        return measure(
            lambda case: _open(case, values),
            todo,
            prompt_tokens=values.get("prompt_tokens", 64),
            steps=values.get("steps", 32),
            repeats=repeats,
            progress=bar.update,
        )


def _cases(values: dict[str, Any]) -> list[Case]:
    """What the options ask for, checked before anything runs."""
    workers = values.get("workers", [])
    nodes = values.get("nodes") or (list(range(1, len(workers) + 2)) if workers else [1, 2, 4])
    if workers and max(nodes) > len(workers) + 1:
        raise ConfigError(f"nodes is {max(nodes)}, but there are {len(workers)} workers")
    for name, known in (("buffer", BUFFERS), ("all_reduce", ALL_REDUCES)):
        for value in values.get(name, []):
            if value not in known:
                raise ConfigError(f"{name} is {value!r}, expected some of {', '.join(known)}")
    for name in values.get("transport", []):
        transports.get(name)
    return cases(
        nodes,
        values.get("transport") or _transports(workers),
        values.get("buffer") or [None],
        values.get("all_reduce") or [None],
    )


def _transports(workers: Sequence[str]) -> list[str]:
    """All transports that can connect the nodes."""
    if not workers:
        return list(transports.BUILTIN)
    scheme = transports.scheme_of(workers[0])
    return [name for name in transports.names() if transports.get(name).scheme == scheme]


def _open(case: Case, values: dict[str, Any]) -> LLM:
    """A model in the layout of a case."""
    arguments = {name: values[name] for name in LLM_ARGUMENTS if name in values}
    workers = arguments.pop("workers", [])[: case.nodes - 1]
    where: dict[str, Any] = {"workers": workers} if workers else {"nodes": case.nodes}
    return LLM(
        **arguments,
        **where,
        transport=case.transport,
        buffer=case.buffer,
        all_reduce=case.all_reduce or "auto",
    )


def _table(results: Sequence[Result]) -> str:
    """Rows under headings, numbers to the right."""
    rows = [HEADINGS, *(_row(result) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _row(result: Result) -> tuple[str, ...]:
    """The cells of a result."""
    values = result.as_dict()
    cells = [values[name] for name in COLUMNS]
    return tuple(
        "-" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell)
        for cell in cells
    )


def _write_csv(path: str, results: Sequence[Result]) -> None:
    """The table with a line of names."""
    try:
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(result.as_dict() for result in results)
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror}") from error
