"""`dllama pull`: download a model of Hugging Face and convert it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dllama.cli.convert import add_conversion_options, convert_and_report
from dllama.cli.parser import add_command, add_option
from dllama.converter.convert import checked_output
from dllama.converter.hub import Hub, download
from dllama.options.conversion import PULL_OPTIONS

EXAMPLES = """\
dllama pull TinyLlama/TinyLlama-1.1B-Chat-v1.0 --output tinyllama
dllama pull TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF --file tinyllama-1.1b-chat-v1.0.Q8_0.gguf"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers,
        "pull",
        run,
        "Download a repository of Hugging Face and convert it to a model folder.",
        EXAMPLES,
    )
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME")
    for option in PULL_OPTIONS:
        add_option(parser, option)
    add_conversion_options(parser)


def run(args: argparse.Namespace) -> int:
    """Download, convert, and report sizes and time."""
    output = checked_output(Path(args.output or args.repo.rpartition("/")[2]))
    hub = Hub(args.repo, args.revision, args.endpoint, progress=not args.quiet)
    with hub.alone():
        convert_and_report(download(hub, args.file, args.weights), output, args)
        if not args.keep:
            hub.remove()
    return 0
