"""`dllama perplexity`: how well a model predicts a text."""

from __future__ import annotations

import argparse
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tqdm import tqdm

from dllama import LLM
from dllama.cli.files import check_output, read_text, write_json
from dllama.cli.options import open_model, settings
from dllama.cli.parser import add_command, add_options
from dllama.errors import ModelError
from dllama.options import (
    AGAINST,
    CLUSTER_OPTIONS,
    DEFAULT_WINDOW,
    MODEL_OPTIONS,
    REPORT_OPTIONS,
    TRACE,
    WINDOW,
)
from dllama.perplexity import Perplexity, perplexity
from dllama.runtime.trace import NodePass, chrome_trace

EXAMPLES = """\
dllama perplexity text.txt
dllama perplexity text.txt -m llama --context 2048
dllama perplexity text.txt -m llama-q40 --against llama-f16
dllama perplexity text.txt -m llama --kv-cache q80 --against llama"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers,
        "perplexity",
        run,
        "Measure the perplexity of a text: exp(mean negative log likelihood of its tokens).",
        EXAMPLES,
    )
    parser.add_argument("file", metavar="FILE", help="a UTF-8 text")
    groups = {
        "text": (WINDOW, AGAINST),
        "model": MODEL_OPTIONS,
        "cluster": CLUSTER_OPTIONS,
        "report": (*REPORT_OPTIONS, TRACE),
    }
    add_options(parser, groups)


def run(args: argparse.Namespace) -> int:
    """Print the perplexity, and how fast it was measured."""
    values = settings(args)
    text = read_text(args.file, "FILE")
    check_output(values.get("json"))
    check_output(values.get("trace"))
    timelines: list[NodePass] = []
    with open_model(values) as llm, _reference(values) as against:
        longest = min(llm.seq_len, against.seq_len) if against else llm.seq_len
        context = values.get("context", min(DEFAULT_WINDOW, longest))
        begin = time.perf_counter()
        measured = _measure(llm, against, text, context, bool(values.get("quiet")), timelines)
        rate = measured.tokens / (time.perf_counter() - begin)
        print(
            f"perplexity {measured.perplexity:.4f} of {measured.tokens} tokens "
            f"in windows of {context}, {rate:.1f} tokens/s"
        )
        if against:
            print(
                f"divergence {measured.divergence:.4f} nats per token from {against.name}, "
                f"same likeliest token {measured.same_top:.1%}"
            )
        if "json" in values:
            write_json(values["json"], _result(llm, args.file, measured, context, rate))
        if "trace" in values:
            write_json(values["trace"], chrome_trace(timelines), indent=None)
    return 0


def _reference(values: dict[str, Any]) -> AbstractContextManager[LLM | None]:
    """The model to compare with, on this node alone, if one is asked for."""
    if "against" not in values:
        return nullcontext()
    alike: dict[str, Any] = {n: values[n] for n in ("threads", "max_seq_len") if n in values}
    return open_model({**alike, "model": values["against"], "quiet": values.get("quiet", False)})


def _measure(
    llm: LLM,
    against: LLM | None,
    text: str,
    context: int,
    quiet: bool,
    timelines: list[NodePass],
) -> Perplexity:
    """The perplexity of the text, with a progress bar on a terminal."""
    if llm.tokenizer is None:
        raise ModelError(f"{llm.model_path} has no tokenizer, which perplexity needs")
    ids = llm.tokenizer.encode(text, add_bos=False)
    hidden = True if quiet else None
    with tqdm(total=len(ids), unit="token", disable=hidden, leave=False) as bar:

        def done(count: int) -> None:
            bar.update(count)
            timelines.extend(llm.timelines)

        return perplexity(llm, ids, context, done, against)


def _result(
    llm: LLM, file: str, measured: Perplexity, context: int, rate: float
) -> dict[str, object]:
    """What --json writes."""
    result: dict[str, object] = {
        "model": str(llm.model_path),
        "file": file,
        "perplexity": measured.perplexity,
        "tokens": measured.tokens,
        "context": context,
        "tokens_per_s": rate,
    }
    if measured.divergence is not None:
        result |= {"divergence": measured.divergence, "same_top": measured.same_top}
    return result
