"""`dllama perplexity`: how well a model predicts a text."""

from __future__ import annotations

import argparse
import time
from typing import Any

from tqdm import tqdm

from dllama.cli.options import (
    MODEL_OPTIONS,
    REPORT_OPTIONS,
    add_command,
    add_options,
    open_model,
    read_text,
    settings,
    write_json,
)
from dllama.config import Option
from dllama.errors import ConfigError
from dllama.perplexity import perplexity

DEFAULT_CONTEXT = 512
OPTIONS = (
    Option("context", int, f"tokens of a window (default: {DEFAULT_CONTEXT}, or the model's)", "N"),
)


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers,
        "perplexity",
        run,
        "Measure the perplexity of a text: exp(mean negative log likelihood of its tokens).",
        "dllama perplexity text.txt --model llama",
    )
    parser.add_argument("file", metavar="FILE", help="a UTF-8 text")
    add_options(parser, OPTIONS, MODEL_OPTIONS, REPORT_OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Print the perplexity and how fast it was measured."""
    values = settings(args)
    text = read_text(args.file, "file")
    with open_model(values) as llm:
        if llm.tokenizer is None:
            raise ConfigError(f"{llm.model_path} has no tokenizer, which perplexity needs")
        ids = llm.tokenizer.encode(text, add_bos=False)
        context = values.get("context", min(DEFAULT_CONTEXT, llm.seq_len))
        begin = time.perf_counter()
        hidden = True if values.get("quiet") else None
        with tqdm(total=len(ids), unit="token", disable=hidden, leave=False) as bar:
            measured = perplexity(llm, ids, context, bar.update)
        seconds = time.perf_counter() - begin
        result = {
            "model": str(llm.model_path),
            "file": args.file,
            "perplexity": measured.perplexity,
            "tokens": measured.tokens,
            "context": context,
            "tokens_per_s": measured.tokens / seconds,
        }
    print(
        f"perplexity {measured.perplexity:.4f} of {measured.tokens} tokens "
        f"in windows of {context}, {result['tokens_per_s']:.1f} tokens/s"
    )
    if "json" in values:
        write_json(values["json"], result)
    return 0
