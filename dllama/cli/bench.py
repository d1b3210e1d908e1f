"""`dllama bench`: compare numbers of nodes and of texts, transports, buffers and all-reduces."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dllama import LLM, transports
from dllama.bench import COLUMNS, Case, Result, Work, cases, measure
from dllama.cli.files import check_output, write, write_json
from dllama.cli.options import ONE_OF, settings
from dllama.cli.parser import add_command, add_options
from dllama.cli.plot import plot
from dllama.cli.prompt import prompt_ids, prompt_text
from dllama.cluster.layout import found_workers
from dllama.errors import ConfigError
from dllama.options import (
    ALL_REDUCE,
    BENCH_SAMPLING_OPTIONS,
    BENCH_STEPS,
    BENCH_TEXT_OPTIONS,
    CLUSTER_OPTIONS,
    COMPARED_OPTIONS,
    DRAFT_OPTIONS,
    MODEL,
    MODEL_OPTIONS,
    NODES,
    REPEATS,
    REPORT_OPTIONS,
    SAMPLING_OPTIONS,
    TRACE,
    WORK_OPTIONS,
)
from dllama.runtime.trace import NodePass, chrome_trace

EXAMPLES = """\
dllama bench --nodes 1,2,4
dllama bench llama --nodes 1,2 --parallel 1,2,4,8,16
dllama bench llama --nodes 1,2,4 --transport blocking,unix --buffer q80,f32
dllama bench llama --workers 10.0.0.2:9999 10.0.0.3:9999 --json bench.json"""

NAMES = tuple(option.name for option in COMPARED_OPTIONS)
CLUSTER = tuple(option for option in CLUSTER_OPTIONS if option.name not in NAMES)
# --nodes says how many of the --workers to use; it does not replace them.
EXCLUSIVE = [group for group in ONE_OF if "workers" not in group]
HEADINGS = ("nodes", "transport", "buffer", "all-reduce", "parallel", "total ms", "inference",
            "transfer", "sent kB", "recv kB", "tokens/s", "prompt t/s", "first ms",
            "speed-up")  # fmt: skip
LLM_ARGUMENTS = [option.name for option in (*MODEL_OPTIONS, *CLUSTER, *DRAFT_OPTIONS)]
BY_RANK = ("threads", "shares")


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers,
        "bench",
        run,
        "Compare numbers of nodes and of texts, transports, buffers and all-reduces.",
        EXAMPLES,
    )
    groups = {
        "compared (lists with commas or spaces between, all combinations)": COMPARED_OPTIONS,
        "text": BENCH_TEXT_OPTIONS,
        "sampling": BENCH_SAMPLING_OPTIONS,
        "model": MODEL_OPTIONS,
        "cluster": CLUSTER,
        "drafts": DRAFT_OPTIONS,
        "work and report": (*WORK_OPTIONS, *REPORT_OPTIONS, TRACE),
    }
    add_options(parser, groups, MODEL)


def run(args: argparse.Namespace) -> int:
    """Measure all cases in turns, print the table of medians, and write the files asked for."""
    values = settings(args, EXCLUSIVE)
    for name in NAMES:
        if name in values and not isinstance(values[name], list):
            values[name] = [values[name]]
    if NODES.word in values.get("nodes", ()):
        raise ConfigError("nodes is auto, expected numbers to compare")
    for name in ("json", "csv", "plot", "trace"):
        check_output(values.get(name))
    if "plot" in values and find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'dllama[plot]'")
    timelines: list[NodePass] = []
    if values.pop("discover", False):
        values["workers"] = _found(values)
    results = _measure(values, timelines)
    print(_table(results))
    _write_files(values, results, timelines)
    return 0


def _found(values: dict[str, Any]) -> list[str]:
    """The addresses of the workers that --discover finds; those of the first run stay."""
    most, transport = max(values.get("nodes") or [1]), (values.get("transport") or [None])[0]
    workers, secret_file = values.get("workers", ()), values.get("secret_file")
    plain = values.get("plain", False)
    return [one.address for one in found_workers(most, workers, transport, secret_file, plain)]


def _measure(values: dict[str, Any], timelines: list[NodePass]) -> list[Result]:
    """Run all cases, with a progress bar on a terminal."""
    todo, work, repeats = _cases(values), _work(values), values.get("repeats", REPEATS.default)
    hidden = True if values.get("quiet") else None
    with tqdm(total=len(todo) * repeats, unit="run", disable=hidden, leave=False) as bar:
        return measure(
            lambda case: _open(case, values),
            todo,
            work,
            repeats=repeats,
            progress=bar.update,
            timelines=timelines,
        )


def _work(values: dict[str, Any]) -> Work:
    """What every case runs."""
    text = prompt_text(values)
    chosen = [option.name for option in SAMPLING_OPTIONS if option.name in values]
    return Work(
        values.get("steps", BENCH_STEPS.default),
        None if text is None else lambda llm: prompt_ids(llm, text),
        values.get("prompt_tokens"),
        {"temperature": 0.0, **{name: values[name] for name in chosen}},
    )


def _cases(values: dict[str, Any]) -> list[Case]:
    """The cases that the options ask for, checked before any of them runs."""
    workers = values.setdefault("workers", _launched(values))
    nodes = values.get("nodes") or (list(range(1, len(workers) + 2)) if workers else [1, 2, 4])
    if workers and max(nodes) > len(workers) + 1:
        raise ConfigError(f"nodes is {max(nodes)}, but there are {len(workers)} workers")
    for name in BY_RANK:
        given = values.get(name)
        if isinstance(given, list) and len(given) < max(nodes):
            raise ConfigError(f"{name} are {given}, expected one for each of {max(nodes)} nodes")
    return cases(
        nodes,
        values.get("transport") or _transports(workers),
        values.get("buffer") or [None],
        values.get("all_reduce") or [None],
        values.get("parallel") or [1],
    )


def _launched(values: dict[str, Any]) -> list[str]:
    """The workers that a launcher started."""
    found = [transports.get(name).launched() for name in values.get("transport", ())]
    return [address for started in found if started for address in started.addresses[1:]]


def _transports(workers: Sequence[str]) -> list[str]:
    """All transports that can connect the nodes."""
    if not workers:
        return list(transports.BUILTIN)
    scheme = transports.scheme_of(workers[0])
    return [name for name in transports.names() if transports.get(name).scheme == scheme]


def _open(case: Case, values: dict[str, Any]) -> LLM:
    """Open the model in the layout of a case."""
    arguments = {name: values[name] for name in LLM_ARGUMENTS if name in values}
    for name in BY_RANK:  # a case with fewer nodes takes the first ones
        if isinstance(arguments.get(name), list):
            arguments[name] = arguments[name][: case.nodes]
    workers = arguments.pop("workers", [])[: case.nodes - 1]
    where: dict[str, Any] = {"workers": workers} if workers else {"nodes": case.nodes}
    return LLM(
        **arguments,
        **where,
        transport=case.transport,
        buffer=case.buffer,
        all_reduce=case.all_reduce or ALL_REDUCE.default,
        parallel=case.parallel,
        trace="trace" in values,
    )


def _table(results: Sequence[Result]) -> str:
    """The results as lines of text, columns aligned to the right."""
    rows = [HEADINGS, *(_row(result) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _row(result: Result) -> tuple[str, ...]:
    """The cells of a row."""
    values = result.as_dict()
    cells = [values[name] for name in COLUMNS]
    return tuple(
        "-" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell)
        for cell in cells
    )


def _write_files(
    values: dict[str, Any], results: Sequence[Result], timelines: Sequence[NodePass]
) -> None:
    """Write the files that the options ask for."""
    if "json" in values:
        write_json(values["json"], {"cases": [result.as_dict() for result in results]})
    if "csv" in values:
        write(values["csv"], lambda path: _write_csv(path, results))
    if "plot" in values:
        plot(values["plot"], results)
    if "trace" in values:
        write_json(values["trace"], chrome_trace(timelines), indent=None)


def _write_csv(path: Path, results: Sequence[Result]) -> None:
    """Write the table, with the names of the columns in the first line."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(result.as_dict() for result in results)
