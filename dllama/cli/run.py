"""`dllama run`: generate a text from a prompt, and say what it cost."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dllama import LLM
from dllama.cli.options import (
    MODEL_OPTIONS,
    REPORT_OPTIONS,
    SAMPLING_OPTIONS,
    add_command,
    add_options,
    open_model,
    read_text,
    settings,
    write_json,
)
from dllama.config import Option
from dllama.errors import ConfigError
from dllama.generation import Token
from dllama.stats import StepStats

DEFAULT_STEPS = 128
DEMO_PROMPT = "MACBETH:\n"
SAMPLING = tuple(option.name for option in SAMPLING_OPTIONS)
OPTIONS = (
    Option("prompt", str, f"the text to go on from (default: {DEMO_PROMPT!r})", "TEXT"),
    Option("prompt_file", str, "a file with the text to go on from", "FILE"),
    Option("steps", int, f"tokens to generate (default: {DEFAULT_STEPS})", "N"),
    Option("stop", str, "end before this text", "TEXT"),
    Option("ignore_eos", bool, "go on after an end-of-sequence token"),
)


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers,
        "run",
        run,
        "Generate a text from a prompt, and print what each token cost.",
        'dllama run --model llama --prompt "Once upon a time" --steps 64',
    )
    add_options(parser, OPTIONS, MODEL_OPTIONS, SAMPLING_OPTIONS, REPORT_OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Print the text to stdout as it comes, and its costs to stderr behind it."""
    values = settings(args)
    prompt = _prompt(values)
    with open_model(values) as llm:
        tokens = _generate(llm, prompt, values)
        if not values.get("quiet"):
            print(report(llm), file=sys.stderr)
        if "json" in values:
            write_json(values["json"], result(llm, tokens))
    return 0


def _prompt(values: dict[str, Any]) -> str:
    """The text of --prompt or --prompt-file, or the demo's."""
    if "prompt" in values and "prompt_file" in values:
        raise ConfigError("prompt and prompt-file: only one of the two can be given")
    if "prompt_file" in values:
        return read_text(values["prompt_file"], "prompt-file")
    return str(values.get("prompt", DEMO_PROMPT))


def _generate(llm: LLM, prompt: str, values: dict[str, Any]) -> list[Token]:
    """Generate and print."""
    sampling = {name: values[name] for name in SAMPLING if name in values}
    steps = values.get("steps", DEFAULT_STEPS)
    tokens = []
    generated = llm.generate(
        prompt,
        steps,
        stop=values.get("stop", ()),
        ignore_eos=values.get("ignore_eos", False),
        **sampling,
    )
    if not values.get("quiet"):
        sys.stdout.write(prompt)
    for token in generated:
        tokens.append(token)
        sys.stdout.write(token.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    return tokens


def result(llm: LLM, tokens: list[Token]) -> dict[str, Any]:
    """All figures of a run, as --json writes them."""
    return {
        "model": str(llm.model_path),
        "nodes": llm.nodes,
        "transport": llm.transport,
        "buffer": llm.buffer,
        "threads": llm.threads,
        "prompt_tokens": sum(step.tokens for step in llm.stats.phase("prefill")),
        "tokens": [token.id for token in tokens],
        "text": "".join(token.text for token in tokens),
        "steps": [step.as_dict() for step in llm.stats.steps],
        "summary": llm.stats.summary(),
    }


def report(llm: LLM) -> str:
    """The table of steps and the summary, as text."""
    lines = [
        "",
        "phase     tokens   total ms  inference   transfer   sampling    sent kB    recv kB",
        *map(_line, llm.stats.steps),
        "",
        *_summary(llm),
    ]
    return "\n".join(lines)


def _line(step: StepStats) -> str:
    """One row of the table."""
    times = (step.total_ms, step.inference_ms, step.transfer_ms, step.sample_ms)
    sizes = (step.sent_bytes / 1000, step.received_bytes / 1000)
    figures = "".join(f"{figure:11.2f}" for figure in (*times, *sizes))
    return f"{step.phase:<8}{step.tokens:8d}{figures}"


def _summary(llm: LLM) -> list[str]:
    """Averages over all steps."""
    summary = llm.stats.summary()
    nodes = f"{llm.nodes} node" + ("s" if llm.nodes > 1 else "")
    threads = f"{llm.threads} thread" + ("s" if llm.threads > 1 else "")
    return [
        f"{nodes}, {threads}, {llm.spec.weight_type.name.lower()} weights",
        f"prompt      {summary['prompt_tokens_per_s']:10.2f} tokens/s",
        f"generation  {summary['tokens_per_s']:10.2f} tokens/s",
        f"per token   {summary['avg_total_ms']:10.2f} ms: "
        f"inference {summary['avg_inference_ms']:.2f}, transfer {summary['avg_transfer_ms']:.2f}",
        f"traffic     {summary['avg_sent_bytes'] / 1000:10.2f} kB sent, "
        f"{summary['avg_received_bytes'] / 1000:.2f} kB received per token",
    ]
