"""The command `dllama`: one module per subcommand, all of the same shape.

Each module has add_parser(subparsers), which describes the subcommand, and run(args), which runs
it and returns the exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from dllama import __version__
from dllama._kernels import cpu
from dllama.checks import one_line
from dllama.cli import launched
from dllama.cli.parser import Parser, UsageError
from dllama.cli.signals import Terminated, ending_raises
from dllama.errors import ConfigError, DllamaError

COMMANDS = (
    "run", "chat", "serve", "worker", "nodes", "convert", "pull", "bench", "plan", "perplexity",
    "info", "secret",
)  # fmt: skip
SERVICES = ("serve", "worker")  # which only a signal ends: that is no failure, whenever it comes
DESCRIPTION = "Run Llama-family language models on several ordinary CPU machines at once."
EPILOG = """\
examples:
  dllama run                                    a text by the built-in model
  dllama chat                                   a conversation with it
  dllama convert Llama-3.2-1B --output llama    make a model folder
  dllama pull OWNER/NAME --output llama         the same from Hugging Face
  dllama run -m llama "Once upon a time"        a text by that model
  dllama run -m llama --nodes 4 "Once"          the same, shared by 4 processes
  dllama serve llama                            APIs over HTTP, and a page to chat

Each command explains itself: dllama COMMAND --help

exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated (serve and worker: 0)
"""
DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


class LineFormatter(logging.Formatter):
    """Gives each message one line, and marks those of tracebacks.

    So nothing that a client or another node sends looks like a line of its own, or moves the cursor
    of a terminal.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format a record without its traceback."""
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Format a traceback."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  | {one_line(line)}" for line in lines)


def parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of the command line with some subcommands, whose modules it imports."""
    top = Parser(prog="dllama", description=DESCRIPTION, epilog=EPILOG)
    top.add_argument("--version", action="version", version=f"dllama {__version__}")
    top.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in commands:
        importlib.import_module(f"dllama.cli.{command}").add_parser(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 or 129 ended by SIGTERM
        or SIGHUP. Services are done when a signal ends them.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("dllama: %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.addLevelName(logging.WARNING, "warning")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with ending_raises():
            return _run(words)
    except (Terminated, KeyboardInterrupt) as ended:
        return _ended(words, ended)
    except BrokenPipeError:
        _abandon_stdout()  # the reader of the output has gone; there is nobody to tell
        return FAILED
    except Exception as error:
        if isinstance(error.__cause__, (Terminated, KeyboardInterrupt)):
            return _ended(words, error.__cause__)  # so does Python 3.11 with those in __set_name__
        if "--debug" in words:
            raise
        return _report(error, launched.leaves_it_to_others(words))


def _run(words: list[str]) -> int:
    """Run one command, and return its exit status."""
    command = _command(words)
    args = parser([command] if command in COMMANDS else COMMANDS).parse_args(words)
    cpu.isa()  # a wrong DLLAMA_ISA is an error of every command
    status = launched.run(args)
    sys.stdout.flush()
    return status


def _command(words: list[str]) -> str | None:
    """The word that should be a command, if there is one."""
    return next((word for word in words if not word.startswith("-")), None)


def _ended(words: list[str], ended: Terminated | KeyboardInterrupt) -> int:
    """Return the exit status of a command that a signal ended."""
    if _command(words) in SERVICES:
        return DONE
    return 128 + ended.number if isinstance(ended, Terminated) else INTERRUPTED


def _report(error: Exception, silent: bool = False) -> int:
    """Print an error as one line, below the usage where that is wrong; return the exit status."""
    status = WRONG_USAGE if isinstance(error, ConfigError) else FAILED
    if silent:
        return status
    try:
        sys.stdout.flush()
    except OSError:
        _abandon_stdout()
    message = one_line(" ".join(str(error).split()))
    if not isinstance(error, (DllamaError, OSError, MemoryError)):
        message = f"unexpected {type(error).__name__}: {message} (--debug shows where)"
    if isinstance(error, UsageError):
        print(error.usage, file=sys.stderr, end="")
    print(f"dllama: error: {message or type(error).__name__}", file=sys.stderr)
    return status


def _abandon_stdout() -> None:
    """Discard what is still to be written: the interpreter flushes once more when it exits."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
