"""Write docs/scale.md: what `dllama plan` predicts for known models on described clusters.

    python benchmarks/scale.py

The clusters are in benchmarks/clusters, each with the source of its figures, the shapes of the
models in benchmarks/configs. Nothing in the tables is measured.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dllama.model_path import planned_model
from dllama.planning.description import Machine, read_cluster
from dllama.planning.plan import Planner, Prediction, Texts, described
from dllama.planning.timing import LinkSpeed

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "scale.md"
MODELS = {
    "llama-3.1-8b": ("Llama 3.1 8B, Q40", "q40"),
    "qwen3-30b-a3b": ("Qwen3-30B-A3B, Q40", "q40"),
    "gpt-oss-120b": ("gpt-oss-120b, MXFP4 experts and Q80", None),
    "llama-3.1-405b": ("Llama 3.1 405B, Q40", "q40"),
}
CLUSTERS = {"pi5": "Raspberry Pi 5", "mini-pc": "mini PC", "server": "server"}
NODES = (1, 2, 4, 8, 16, 32, 64)
RATES = (1.0, 2.5, 10.0, 100.0)  # Gbit/s
TEXT = Texts(prompt=512, steps=128)


def main() -> None:
    page = (HERE / "scale.md.txt").read_text(encoding="utf-8").rstrip() + "\n"
    for name, (title, weights) in MODELS.items():
        with planned_model(str(HERE / "configs" / f"{name}.json"), weights) as model:
            planner = Planner(model, TEXT, {})
            page += f"\n## {title}\n"
            for cluster, words in CLUSTERS.items():
                (machine,) = read_cluster(HERE / "clusters" / f"{cluster}.yaml")
                page += "\n" + table(planner, machine, words) + "\n"
    PAGE.write_text(page, encoding="utf-8")


def table(planner: Planner, machine: Machine, words: str) -> str:
    """A row for each number of nodes, a column for each rate of links."""
    heads = " | ".join(f"{rate:g} Gbit/s" for rate in RATES)
    lines = [f"| {words}, nodes | memory of each | {heads} |", "|---|---|" + "---|" * len(RATES)]
    for count in NODES:
        if count > planner.most:
            break
        found = [planner.predict(described([linked(machine, rate)])(count)) for rate in RATES]
        memory = max(sum(one.values()) for one in found[0].memory) / 1e9
        cells = [cell(one) for one in found]
        if found[0].lacking:
            cells = ["too little memory"] + [""] * (len(RATES) - 1)
        if count == 1 and not found[0].lacking:
            cells = [cells[0]] + ["the same"] * (len(RATES) - 1)
        lines.append(f"| {count} | {memory:.1f} GB | {' | '.join(cells)} |")
    return "\n".join(lines)


def linked(machine: Machine, rate: float) -> Machine:
    """The machine on a link of so many Gbit/s, with the latency that its description has."""
    return replace(machine, link=LinkSpeed(rate * 1e9 / 8, machine.link.latency))


def cell(one: Prediction) -> str:
    """Tokens per second and prompt tokens per second, with what bounds each."""
    return (
        f"{one.tokens_per_s:.3g} ({one.token.seconds.bound}), "
        f"{one.prompt_tokens_per_s:.3g} ({one.prompt.bound})"
    )


if __name__ == "__main__":
    main()
