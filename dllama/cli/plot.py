"""A picture of a comparison; matplotlib is imported only if one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllama.bench import Result
from dllama.cli.files import write
from dllama.planning.plan import Prediction

Line = tuple[str | None, ...]


def plot(path: str, results: Sequence[Result]) -> None:
    """Draw tokens per second by number of nodes, a line for each way to connect them, and the
    parts of a token's time. OutputError names a file that cannot be written."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (speed, times) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    _draw_speed(speed, results)
    _draw_times(times, results)
    try:
        write(path, lambda target: figure.savefig(target, format="png", dpi=120))
    finally:
        plt.close(figure)


def _draw_speed(axes: Any, results: Sequence[Result]) -> None:
    """Draw lines of tokens per second; those of as many texts begin with the case of one node."""
    alone = {result.parallel: result.tokens_per_s for result in results if result.nodes == 1}
    lines: dict[Line, list[tuple[int, float]]] = {}
    for result in results:
        if result.nodes > 1:
            key: Line = (result.transport, result.buffer, result.all_reduce, _texts(result))
            first = [(1, alone[result.parallel])] if result.parallel in alone else []
            lines.setdefault(key, first).append((result.nodes, result.tokens_per_s))
    for result in [] if lines else results:
        lines["one node", _texts(result)] = [(1, result.tokens_per_s)]
    for key, points in lines.items():
        label = ", ".join(word for word in key if word)
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set(xlabel="nodes", ylabel="tokens/s", title="generation")
    axes.set_xticks(sorted({result.nodes for result in results}))
    axes.set_ylim(bottom=0)
    axes.legend()


def _texts(result: Result) -> str | None:
    """How many texts a case has, if there are several."""
    return f"{result.parallel} texts" if result.parallel > 1 else None


def name_of(result: Result) -> str:
    """A unique name of a case."""
    words = (
        str(result.nodes),
        result.transport,
        result.buffer,
        result.all_reduce,
        _texts(result),
    )
    return " ".join(word for word in words if word)


def _draw_times(axes: Any, results: Sequence[Result]) -> None:
    """Draw bars of the time of a token: inference, transfer, the rest."""
    names = [name_of(result) for result in results]
    inference = [result.inference_ms for result in results]
    transfer = [result.transfer_ms for result in results]
    both = [a + b for a, b in zip(inference, transfer, strict=True)]
    rest = [max(0.0, r.total_ms - b) for r, b in zip(results, both, strict=True)]
    axes.bar(names, inference, label="inference")
    axes.bar(names, transfer, bottom=inference, label="transfer")
    axes.bar(names, rest, bottom=both, label="other")
    axes.set(ylabel="ms", title="time of a token")
    axes.tick_params(axis="x", rotation=60)
    axes.legend()


def plot_plan(path: str, table: Sequence[Prediction]) -> None:
    """Draw tokens per second by number of nodes, and the parts of a token's time.

    OutputError names a file that cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (speed, times) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    counts = [len(one.machines) for one in table]
    speed.plot(counts, [one.tokens_per_s for one in table], marker="o", label="generation")
    speed.plot(counts, [one.prompt_tokens_per_s for one in table], marker="o", label="prompt")
    speed.set(xlabel="nodes", ylabel="tokens/s", title="predicted speed", yscale="log")
    speed.set_xticks(counts, [str(count) for count in counts])
    speed.legend()
    bottom = [0.0] * len(table)
    for name in vars(table[0].token.seconds):
        parts = [1e3 * vars(one.token.seconds)[name] for one in table]
        times.bar([str(count) for count in counts], parts, bottom=bottom, label=name)
        bottom = [low + part for low, part in zip(bottom, parts, strict=True)]
    times.set(xlabel="nodes", ylabel="ms", title="time of a token")
    times.legend()
    try:
        write(path, lambda target: figure.savefig(target, format="png", dpi=120))
    finally:
        plt.close(figure)
