"""`dllama convert`: make a model folder from a checkpoint."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from dllama.calibration import calibrate
from dllama.checks import one_line
from dllama.cli.files import read_text
from dllama.cli.parser import add_command, add_option
from dllama.cluster.layout import thread_count
from dllama.converter import convert
from dllama.converter.recipe import CALIBRATED, TYPES, WEIGHTS, Importance
from dllama.converter.sources.checkpoint import open_checkpoint
from dllama.errors import ConfigError
from dllama.options.conversion import CONVERSION_OPTIONS, OUTPUT

EXAMPLES = """\
dllama convert Llama-3.2-1B --output llama
dllama convert Llama-3.2-1B --output llama --calibration text.txt
dllama convert Llama-3.2-1B --output llama --weights q40 --output-weights q80
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
        choices = {"weights": WEIGHTS, "output_weights": TYPES}.get(option.name)
        add_option(parser, replace(option, choices=choices) if choices else option)


def run(args: argparse.Namespace) -> int:
    """Convert, and report sizes and time."""
    convert_and_report(Path(args.source), Path(args.output), args)
    return 0


def convert_and_report(source: Path, output: Path, args: argparse.Namespace) -> None:
    """Convert with the options of add_conversion_options, print warnings and a report."""
    importance = _importance(source, output, args)
    report = convert(
        source,
        output,
        args.weights,
        output_weights=args.output_weights,
        importance=importance,
        threads=args.threads,
        progress=not args.quiet,
    )
    for warning in report.warnings:
        print(f"dllama: warning: {one_line(warning)}", file=sys.stderr)
    if not args.quiet:
        rate = (report.read_bytes + report.written_bytes) / report.seconds / 1e9
        print(
            f"{report.output}: {report.read_bytes / 1e9:.3f} GB read, "
            f"{report.written_bytes / 1e9:.3f} GB written in {report.seconds:.1f} s "
            f"({rate:.2f} GB/s)"
        )


def _importance(source: Path, output: Path, args: argparse.Namespace) -> Importance | None:
    """What --calibration measures.

    Raises:
        ConfigError: no weight type leaves a choice how numbers are rounded.
    """
    if args.calibration is None:
        return None
    weights = args.weights or open_checkpoint(source).weights
    if not {weights, args.output_weights} & {*CALIBRATED}:
        found = f"{weights} weights" if weights else "tensors that keep their types"
        expected = ", ".join(CALIBRATED)
        raise ConfigError(f"--calibration does not change {found}, expected one of {expected}")
    text = read_text(args.calibration, "--calibration")
    threads = thread_count(args.threads)
    return calibrate(source, output, text, threads, progress=not args.quiet)
