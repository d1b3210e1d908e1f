"""`dllama plan`: what a cluster will do with a model, before there is one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dllama.cli.files import check_output, write_json
from dllama.cli.info import size
from dllama.cli.parser import add_command, add_option, add_options
from dllama.cli.plot import plot_plan
from dllama.cluster.layout import Layout
from dllama.cluster.speed.auto_shares import weight_types
from dllama.errors import ConfigError
from dllama.model.stored_model import StoredModel
from dllama.model_path import planned_model
from dllama.options import JSON, MODEL, PLOT
from dllama.options.conversion import PLANNED_WEIGHTS
from dllama.options.planning import (
    CLUSTER,
    FINDING_OPTIONS,
    PLAN_DISCOVER,
    PLAN_OPTIONS,
    PLANNED_OPTIONS,
)
from dllama.planning.description import MESSAGE, STAGE, Machine, read_cluster
from dllama.planning.discovered import measured_machines
from dllama.planning.here import ThisMachine
from dllama.planning.plan import Cluster, Planner, Prediction, Sources, Texts, best, described
from dllama.planning.timing import Seconds
from dllama.planning.units import RATE, TIME
from dllama.run_config import RunConfig

EXAMPLES = """\
dllama plan llama --cluster cluster.yaml
dllama plan llama --nodes 4 --threads 1
dllama plan llama --discover --secret-file secret.txt --rate "1 Gbit/s"
dllama plan Llama-3.1-405B/config.json --weights q40 --cluster cluster.yaml --json plan.json"""
ASSUMES = (
    "Assumed: all nodes work at the same time and wait for the slowest in every transfer; nothing "
    "overlaps; the likeliest token is taken; experts are equally likely; links carry nothing else."
)
# Where the figures of nodes come from that are described, and of those on this machine.
GIVEN = {
    "speeds": f"given; where the file does not say it, a stage takes {1e6 * STAGE:g} us and a "
    f"message {1e6 * MESSAGE:g} us, assumed",
    "memory": "given, or as much as the model needs",
    "rate": "given",
    "latency": "given",
    "shares": "given, or what suits the speeds",
}
HERE = {
    "speeds": "measured: those of this machine, divided among the nodes",
    "memory": "as much as the model needs",
    "rate": "measured between two threads of this machine",
    "latency": "measured between two threads of this machine",
    "shares": "given, or equal",
}
HEADINGS = ("nodes", "tokens/s", "bound by", "prompt t/s", "bound by", "memory", "")


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers,
        "plan",
        run,
        "Predict memory and speed of a model on a cluster, without running it.",
        EXAMPLES,
    )
    groups = {
        "model": (MODEL,),
        "cluster": (CLUSTER, PLAN_DISCOVER, *FINDING_OPTIONS, *PLAN_OPTIONS),
        "text": PLANNED_OPTIONS,
        "report": (JSON, PLOT),
    }
    add_options(parser, groups, MODEL, config=False)
    add_option(parser, PLANNED_WEIGHTS)


def run(args: argparse.Namespace) -> int:
    """Print what the nodes will do, a table over their number, and what would help."""
    _check(args)
    for path in (args.json, args.plot):
        check_output(path)
    if args.plot and find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'dllama[plot]'")
    with planned_model(args.model, args.weights, bool(args.requantise)) as model:
        cluster, count, sources = _cluster(args, model)
        planner = Planner(model, _texts(args), _settings(args))
        asked = planner.predict(cluster(count), args.shares)
        table = planner.table(cluster, count) if args.shares is None else [asked]
        changes = planner.changes(cluster, count) if args.shares is None else {}
    print("\n".join(_report(asked, table, changes, sources)))
    if args.json:
        write_json(args.json, {**_as_json(asked, table, changes), "sources": sources})
    if args.plot:
        plot_plan(args.plot, table)
    return 0


def _check(args: argparse.Namespace) -> None:
    """ConfigError unless it is clear which nodes are meant."""
    if args.cluster is not None and args.discover:
        raise ConfigError("--cluster and --discover: only one of the two can be given")
    if (args.cluster is None) == (args.nodes is None) and not args.discover:
        raise ConfigError("expected either --cluster FILE, --nodes N or --discover")
    for option in () if args.discover else FINDING_OPTIONS:
        if getattr(args, option.name) is not None:
            raise ConfigError(f"{option.flag} goes with --discover alone")


def _cluster(args: argparse.Namespace, model: StoredModel) -> tuple[Cluster, int, Sources]:
    """The nodes, how many, and where their figures come from."""
    if args.cluster is not None:
        found = read_cluster(Path(args.cluster))
        machines = [replace(one, threads=args.threads or one.threads) for one in found]
        return described(machines), len(machines), GIVEN
    if args.discover:
        machines, sources = _discovered(args, model)
        return described(machines), len(machines), sources
    return ThisMachine(weight_types(model), args.threads), args.nodes, HERE


def _discovered(args: argparse.Namespace, model: StoredModel) -> tuple[list[Machine], Sources]:
    """This machine and the workers of the network, as they are."""
    nodes, plain = args.nodes or 1, bool(args.plain)
    layout = Layout.of(nodes, (), None, args.threads, args.secret_file, True, plain)
    config = RunConfig.of(model.spec, layout.world_size, **_settings(args))
    rate, latency = args.rate and RATE.parse(args.rate), args.latency and TIME.parse(args.latency)
    return measured_machines(model, layout, config, rate, latency, choose=args.shares is None)


def _texts(args: argparse.Namespace) -> Texts:
    given = [getattr(args, option.name) or option.default for option in PLANNED_OPTIONS]
    return Texts(*given)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of RunConfig.of."""
    names = (
        "buffer", "all_reduce", "max_seq_len", "contexts", "kv_cache", "parallel", "timeout",
    )  # fmt: skip
    given = {name: vars(args)[name] for name in names if vars(args)[name] is not None}
    return {**given, "halves": bool(args.cluster or args.discover)}


def _report(
    asked: Prediction,
    table: Sequence[Prediction],
    changes: dict[str, Prediction],
    sources: Sources,
) -> Iterator[str]:
    """The lines of the report."""
    yield from _nodes(asked)
    if asked.lacking:
        yield f"does not fit: too little memory on {', '.join(asked.lacking)}"
    yield ""
    yield f"a token    {_parts(asked.token.seconds)}"
    yield f"a prompt   {_parts(asked.prompt)} for {asked.texts.prompt} tokens"
    yield ""
    yield from _aligned([HEADINGS, *(_row(one, one is best(table)) for one in table)])
    if changes:
        yield ""
    for what, one in changes.items():
        more = one.tokens_per_s / asked.tokens_per_s - 1
        prompt = one.prompt_tokens_per_s / asked.prompt_tokens_per_s - 1
        yield f"with {what}: {more:+.0%} tokens/s, {prompt:+.0%} prompt tokens/s"
    yield ""
    yield from _aligned([*sources.items()])
    yield ASSUMES


def _nodes(asked: Prediction) -> Iterator[str]:
    """A row for each node; nodes that are alike share one."""
    rows = [("node", "share", "memory", "of", "ms/token", "ms/prompt")]
    counts: list[int] = [1]
    for rank, machine in enumerate(asked.machines):
        row = (
            machine.name,
            f"{asked.shares[rank] / sum(asked.shares):.1%}",
            size(sum(asked.memory[rank].values())),
            "-" if machine.memory is None else size(int(machine.memory)),
            f"{1e3 * asked.token.nodes[rank]:.1f}",
            f"{1e3 * asked.prompt_nodes[rank]:.0f}",
        )
        if row[1:] == rows[-1][1:]:
            counts[-1] += 1
        else:
            rows.append(row)
            counts.append(1)
    named = [
        (f"{row[0]} and {count - 1} more" if count > 1 else row[0], *row[1:])
        for row, count in zip(rows, counts, strict=True)
    ]
    yield from _aligned(named)


def _parts(seconds: Seconds) -> str:
    """What time is spent on."""
    parts = {**vars(seconds)}
    words = [f"{name} {1e3 * value:.3g}" for name, value in parts.items() if value > 0]
    return f"{1e3 * seconds.total:.4g} ms ({', '.join(words)})"


def _row(one: Prediction, chosen: bool) -> tuple[str, ...]:
    row = one.row()
    note = "too little memory" if one.lacking else "best" if chosen else ""
    return (
        str(row["nodes"]),
        f"{row['tokens_per_s']:.2f}",
        row["bound"],
        f"{row['prompt_tokens_per_s']:.1f}",
        row["prompt_bound"],
        size(row["memory"]),
        note,
    )


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _as_json(
    asked: Prediction, table: Sequence[Prediction], changes: dict[str, Prediction]
) -> dict[str, Any]:
    """All figures."""
    chosen = best(table)
    return {
        **asked.as_json(),
        "table": [{**one.row(), "best": one is chosen} for one in table],
        "changes": {what: one.row() for what, one in changes.items()},
        "assumes": ASSUMES,
    }
