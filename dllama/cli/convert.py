"""`dllama convert`: make a model folder from a checkpoint."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from dllama.cli.parser import add_command, add_option
from dllama.converter import convert
from dllama.converter.convert import WEIGHTS
from dllama.options import CONVERSION_OPTIONS, OUTPUT

EXAMPLES = """\
dllama convert Llama-3.2-1B --output llama --weights q40
dllama convert llama-3.2-1b.Q8_0.gguf --output llama"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers,
        "convert",
        run,
        "Convert a Hugging Face folder, a checkpoint of Meta, or a GGUF file to a model folder.",
        EXAMPLES,
    )
    parser.add_argument(
        "source", metavar="SRC", help="folder with config.json or params.json, or GGUF file"
    )
    add_option(parser, OUTPUT, required=True)
    add_conversion_options(parser)


def add_conversion_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that converts."""
    for option in CONVERSION_OPTIONS:
        typed = option.name in ("weights", "output_weights")
        add_option(parser, replace(option, choices=WEIGHTS) if typed else option)


def run(args: argparse.Namespace) -> int:
    """Convert, and report sizes and time."""
    convert_and_report(Path(args.source), Path(args.output), args)
    return 0


def convert_and_report(source: Path, output: Path, args: argparse.Namespace) -> None:
    """Convert with the options of add_conversion_options, print warnings and a report."""
    report = convert(
        source,
        output,
        args.weights,
        output_weights=args.output_weights,
        threads=args.threads,
        progress=not args.quiet,
    )
    for warning in report.warnings:
        print(f"dllama: warning: {warning}", file=sys.stderr)
    if not args.quiet:
        rate = (report.read_bytes + report.written_bytes) / report.seconds / 1e9
        print(
            f"{report.output}: {report.read_bytes / 1e9:.3f} GB read, "
            f"{report.written_bytes / 1e9:.3f} GB written in {report.seconds:.1f} s "
            f"({rate:.2f} GB/s)"
        )
