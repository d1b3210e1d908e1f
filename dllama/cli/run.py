"""`dllama run`: generate a text from a prompt, and report its cost."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dllama import LLM
from dllama.checks import harmless
from dllama.cli.files import check_output, write_json
from dllama.cli.grammar import compiled, grammar_text
from dllama.cli.options import open_model, sampling, settings
from dllama.cli.parser import add_command, add_options
from dllama.cli.prompt import prompt_ids, prompt_text, written_ids
from dllama.cli.report import report, result
from dllama.options import (
    CLUSTER_OPTIONS,
    DEFAULT_STEPS,
    DEMO_PROMPT,
    DRAFT_OPTIONS,
    GRAMMAR_OPTIONS,
    MODEL_OPTIONS,
    PROMPT,
    REPORT_OPTIONS,
    SAMPLING_OPTIONS,
    TEXT_OPTIONS,
    TRACE,
)
from dllama.runtime.trace import chrome_trace
from dllama.sampling.grammar import Grammar
from dllama.text.stream import Token

log = logging.getLogger("dllama.cli")

EXAMPLES = """\
dllama run
dllama run "ROMEO:"
dllama run -m llama "Once upon a time" --steps 64
dllama run -m llama --prompt-file letter.txt --temperature 0 --json costs.json
dllama run -m llama "A character of a play, as JSON:" --json-schema character.json
dllama run --nodes 4
dllama run -m llama --workers 10.0.0.2:9999 10.0.0.3:9999 --transport nonblocking"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers, "run", run, "Generate a text and show what each token cost.", EXAMPLES
    )
    groups = {
        "text": TEXT_OPTIONS,
        "grammar, one of these (needs pip install 'dllama[grammar]')": GRAMMAR_OPTIONS,
        "sampling (defaults: generation_config.json of the model folder, or as given here)":
            SAMPLING_OPTIONS,
        "model": MODEL_OPTIONS,
        "cluster": CLUSTER_OPTIONS,
        "drafts": DRAFT_OPTIONS,
        "report": (*REPORT_OPTIONS, TRACE),
    }  # fmt: skip
    add_options(parser, groups, PROMPT)


def run(args: argparse.Namespace) -> int:
    """Print the text to stdout as it comes, and then its costs to stderr."""
    values = settings(args)
    text = _prompt_text(values)
    if "model" not in values and _is_path(text):
        log.warning("%s is taken as the text; -m %s would name a model", text, text)
    check_output(values.get("json"))
    check_output(values.get("trace"))
    source = grammar_text(values)
    with open_model(values) as llm:
        prompt = text if llm.tokenizer else written_ids(text)
        tokens: list[Token] = []
        grammar = compiled(llm, source)
        generated = _generate(llm, prompt, grammar, values)
        try:
            _print_text(llm, text, generated, tokens, values)
        finally:
            # The cost of an interrupted text counts too.
            if not values.get("quiet"):
                print(report(llm), file=sys.stderr)
        if "json" in values:
            write_json(values["json"], result(llm, tokens))
        if "trace" in values:
            write_json(values["trace"], chrome_trace(llm.timelines), indent=None)
    return 0


def _prompt_text(values: dict[str, Any]) -> str:
    """The prompt that the options give; else that of the demo model."""
    text = prompt_text(values)
    return ("" if "model" in values else DEMO_PROMPT) if text is None else text


def _is_path(text: str) -> bool:
    """Whether a text names a file or folder, as that of a model would."""
    try:
        return Path(text).exists() if text else False
    except OSError:  # too long for a name
        return False


def _generate(
    llm: LLM, prompt: str | list[int], grammar: Grammar | None, values: dict[str, Any]
) -> Iterator[Token]:
    """Start a text."""
    return llm.generate(
        prompt,
        values.get("steps", _default_steps(llm, prompt)),
        stop=values.get("stop", ()),
        stop_ids=values.get("stop_ids", ()),
        ignore_eos=values.get("ignore_eos", False),
        grammar=grammar,
        **sampling(llm, values),
    )


def _default_steps(llm: LLM, prompt: str | list[int]) -> int:
    """DEFAULT_STEPS, or fewer if the context is short. The last token takes no position."""
    ids = prompt_ids(llm, prompt, llm.seq_len) if isinstance(prompt, str) else prompt
    return max(1, min(DEFAULT_STEPS, llm.seq_len - max(1, len(ids)) + 1))


def _print_text(
    llm: LLM, text: str, generated: Iterator[Token], tokens: list[Token], values: dict[str, Any]
) -> None:
    """Print the prompt, then the text of each token as it comes; collect the tokens."""
    try:
        _show("" if values.get("quiet") else text)
        for token in generated:
            tokens.append(token)
            _show(token.text if llm.tokenizer else f" {token.id}")
    finally:
        _show("\n")


def _show(text: str) -> None:
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
