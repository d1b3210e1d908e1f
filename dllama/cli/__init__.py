"""The command `dllama`: one module per subcommand, all of the same shape.

A subcommand module has add_parser(subparsers), which describes it, and run(args), which does
it and returns the exit status.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from dllama import __version__
from dllama.cli import convert, info, perplexity, run
from dllama.errors import ConfigError, DllamaError

COMMANDS = (run, convert, perplexity, info)
DESCRIPTION = "Run Llama-family language models on ordinary CPU machines."
EPILOG = """\
examples:
  dllama run                                    a text by the built-in model
  dllama convert Llama-3.2-1B --output llama    make a model folder
  dllama run --model llama --prompt "Once"      a text by that model

Each command explains itself: dllama COMMAND --help
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="dllama",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"dllama {__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    logging.basicConfig(format="dllama: %(levelname)s: %(message)s", level=logging.WARNING)
    logging.addLevelName(logging.WARNING, "warning")
    args = parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output went away; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DllamaError, OSError, MemoryError) as error:
        if args.debug:
            raise
        print(f"dllama: error: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


def _one_line(error: BaseException) -> str:
    """The message of an error on one line, or its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
