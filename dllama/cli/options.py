"""Options that several commands share, from the command line and from a YAML file."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dllama import LLM
from dllama.config import Option, read_config
from dllama.errors import ConfigError, OutputError
from dllama.settings import BUFFERS, KV_CACHES

MODEL_OPTIONS = (
    Option("model", str, "model folder or .m file (default: the built-in demo model)", "PATH"),
    Option("tokenizer", str, "tokenizer folder or .t file (default: beside the model)", "PATH"),
    Option("nodes", int, "nodes that share the model (this version: 1)", "N"),
    Option("threads", int, "threads per node (default: one per core)", "N"),
    Option("buffer", str, "what travels between nodes (default: q80 for q40 and q80 weights, "
           "else f32)", choices=BUFFERS),
    Option("max_seq_len", int, "positions of the context (default: the model's, at most 4096)",
           "N"),
    Option("kv_cache", str, "numbers of the KV cache (default: auto: f32 for f32 weights, "
           "else f16)", choices=KV_CACHES),
)  # fmt: skip
SAMPLING_OPTIONS = (
    Option("temperature", float, "0 takes the likeliest token (default: 0.8)", "T"),
    Option("top_p", float, "sample from the likeliest tokens of this total probability "
           "(default: 0.9)", "P"),
    Option("top_k", int, "sample from the K likeliest tokens (default: 0, all)", "K"),
    Option("min_p", float, "sample from tokens at least this likely, relative to the likeliest "
           "(default: 0)", "P"),
    Option("repetition_penalty", float, "above 1, make tokens of the context less likely "
           "(default: 1)", "R"),
    Option("seed", int, "repeat a text (default: another one every time)", "N"),
)  # fmt: skip
REPORT_OPTIONS = (
    Option("json", str, "write the results to FILE", "FILE"),
    Option("quiet", bool, "print nothing but the result"),
)
LLM_ARGUMENTS = ("model", "tokenizer", "nodes", "threads", "buffer", "max_seq_len", "kv_cache")


def add_options(parser: argparse.ArgumentParser, *groups: tuple[Option, ...]) -> None:
    """Add options, and --config FILE.yaml that gives them other defaults."""
    options = [option for group in groups for option in group]
    for option in options:
        flag = "--" + option.name.replace("_", "-")
        common: dict[str, Any] = {"default": None, "help": option.help, "dest": option.name}
        if option.type is bool:
            parser.add_argument(flag, action="store_true", **common)
        elif option.choices:
            parser.add_argument(flag, choices=option.choices, **common)
        else:
            parser.add_argument(flag, type=option.type, metavar=option.metavar, **common)
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="options from a file; the command line wins"
    )
    parser.set_defaults(known=options)


def add_command(
    subparsers: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, example: str
) -> argparse.ArgumentParser:
    """A subcommand with its help text and an example."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text[0].lower() + text[1:].rstrip("."),
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run)
    return parser


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by the command line or else by the --config file."""
    given = {option.name: getattr(args, option.name) for option in args.known}
    defaults = read_config(Path(args.config), args.known) if args.config else {}
    return defaults | {name: value for name, value in given.items() if value is not None}


def open_model(values: dict[str, Any]) -> LLM:
    """The model that the options ask for."""
    arguments = {name: values[name] for name in LLM_ARGUMENTS if name in values}
    return LLM(**arguments, progress=not values.get("quiet", False))


def read_text(path: str, option: str) -> str:
    """A text file; ConfigError names the option where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{option} {path}: {reason}") from error


def write_json(path: str, value: object) -> None:
    """Write a JSON file complete or not at all."""
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=target.name + ".", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror}") from error
