"""The cost of a generation, as a table and as values for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dllama import LLM
from dllama.runtime.stats import PREFILL, StepStats
from dllama.text.stream import Token

HEADINGS = "phase    tokens   total ms  inference   transfer   sampling    sent kB    recv kB"


def result(llm: LLM, tokens: Sequence[Token]) -> dict[str, Any]:
    """All figures of a run, as --json writes them."""
    return {
        "model": str(llm.model_path),
        "nodes": llm.nodes,
        "transport": llm.transport,
        "buffer": llm.buffer,
        "threads": llm.threads,
        "prompt_tokens": sum(step.tokens for step in llm.stats.phase(PREFILL)),
        "tokens": [token.id for token in tokens],
        "text": "".join(token.text for token in tokens),
        "steps": [step.as_dict() for step in llm.stats.steps],
        "summary": llm.stats.summary(),
    }


def report(llm: LLM) -> str:
    """The table of steps and the summary."""
    return "\n".join(["", HEADINGS, *map(_row, llm.stats.steps), "", *_summary(llm)])


def _row(step: StepStats) -> str:
    """A step as a row of the table."""
    times = (step.total_ms, step.inference_ms, step.transfer_ms, step.sample_ms)
    sizes = (step.sent_bytes / 1000, step.received_bytes / 1000)
    figures = "".join(f"{figure:11.2f}" for figure in (*times, *sizes))
    return f"{step.phase:<8}{step.tokens:7d}{figures}"


def _summary(llm: LLM) -> list[str]:
    """The speed, and the average cost of a generated token."""
    summary = llm.stats.summary()
    lines = [
        _setup(llm),
        *_workers(llm),
        f"prompt      {summary['prompt_tokens_per_s']:10.2f} tokens/s",
        f"generation  {summary['tokens_per_s']:10.2f} tokens/s",
        f"per token   {summary['avg_total_ms']:10.2f} ms: "
        f"inference {summary['avg_inference_ms']:.2f}, transfer {summary['avg_transfer_ms']:.2f}",
        f"traffic     {summary['avg_sent_bytes'] / 1000:10.2f} kB sent, "
        f"{summary['avg_received_bytes'] / 1000:.2f} kB received per token",
    ]
    return lines + [f"drafts      {line}" for line in drafts(summary)]


def drafts(summary: Mapping[str, float]) -> list[str]:
    """How many drafted tokens were right, in a line; none if there were no drafts."""
    if not summary["drafted"]:
        return []
    return [f"{summary['accepted']} of {summary['drafted']} drafted tokens accepted"]


def _setup(llm: LLM) -> str:
    """The model, nodes and threads in words."""
    kind = "mixed" if llm.spec.tensor_types else llm.spec.weight_type.name.lower()
    weights = f"{kind} weights"
    threads = plural(llm.threads, "thread")
    if llm.nodes == 1:
        return f"1 node, {threads}, {weights}"
    return f"{llm.nodes} nodes over {llm.transport}, {threads}, {weights}, {llm.buffer} buffer"


def _workers(llm: LLM) -> list[str]:
    """The workers that have names, in a line; none if there are no such."""
    named = zip(llm.node_names[1:], llm.workers, strict=False)
    words = [f"{name} ({address})" for name, address in named if name]
    return [f"workers     {', '.join(words)}"] if words else []


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 node, 2 nodes."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
