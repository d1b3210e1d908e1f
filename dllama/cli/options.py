"""Options that several commands share, from the command line and from a YAML file."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dllama import LLM, transports
from dllama.config import Option, generation_defaults, read_config
from dllama.errors import ConfigError
from dllama.run_config import MOST_CONTEXTS
from dllama.sampling.sampler import MAX_SEED
from dllama.settings import (
    ALL_REDUCES,
    BUFFERS,
    DEFAULT_TIMEOUT,
    DEMO,
    KV_CACHES,
    MAX_NODES,
    MAX_THREADS,
)
from dllama.text.template import PLAIN
from dllama.transports.sockets import parse_tcp, parse_unix

DEFAULT_STEPS = 128
DEFAULT_CONTEXT = 512
DEMO_PROMPT = "MACBETH:\n"

TEXT_OPTIONS = (
    Option("prompt", str, f"the text to go on from (default: {DEMO_PROMPT!r} for the demo model, "
           "else none; a model without a tokenizer takes token ids: \"1 15 9\")", "TEXT"),
    Option("prompt_file", str, "a file with the text to go on from", "FILE"),
    Option("steps", int, f"tokens to generate (default: {DEFAULT_STEPS}, or what fits in the "
           "context)", "N", least=0),
    Option("stop", str, "end before this text; may be given several times", "TEXT", many=True),
    Option("ignore_eos", bool, "go on after an end-of-sequence token"),
)  # fmt: skip
TEMPLATE_OPTION = Option(
    "template", str, "how messages are put before the model: a file of Jinja, or plain for a text "
    "with names of speakers (default: the model's own chat template; plain for the demo model)",
    "FILE",
)  # fmt: skip
CHAT_OPTIONS = (
    Option("system", str, "what the model is told at the beginning", "TEXT"),
    TEMPLATE_OPTION,
    Option("prompt", str, "the first message", "TEXT"),
    Option("prompt_file", str, "a file with the first message", "FILE"),
    Option("steps", int, "most tokens of an answer (default: what fits in the context)", "N",
           least=1),
    Option("stop", str, "end an answer before this text; may be given several times", "TEXT",
           many=True),
    Option("ignore_eos", bool, "go on after an end-of-sequence token"),
)  # fmt: skip
SAMPLING_OPTIONS = (
    Option("temperature", float, "0 takes the likeliest token (default: 0.8)", "T", least=0),
    Option("top_p", float, "sample from the likeliest tokens of this total probability "
           "(default: 0.9)", "P", least=0, most=1, above=True),
    Option("top_k", int, "sample from the K likeliest tokens (default: 0, all)", "K", least=0),
    Option("min_p", float, "sample from tokens at least this likely, relative to the likeliest "
           "(default: 0)", "P", least=0, most=1),
    Option("repetition_penalty", float, "above 1, make tokens of the context less likely "
           "(default: 1)", "R", least=0, above=True),
    Option("seed", int, "repeat a text (default: another one every time)", "N",
           least=0, most=MAX_SEED),
)  # fmt: skip
THREADS = Option("threads", int, "threads (default: one per CPU)", "N", least=1, most=MAX_THREADS)
MODEL_OPTIONS = (
    Option("model", str, "model folder, .m or GGUF file (default: the demo model)", "PATH"),
    Option("tokenizer", str, "tokenizer folder, .t file or tokenizer.json (default: beside "
           "the model)", "PATH"),
    Option("max_seq_len", int, "positions of the context (default: the model's, at most 4096)",
           "N", least=1),
    Option("kv_cache", str, "numbers of the KV cache (default: auto: f32 for f32 weights, "
           "else f16)", choices=KV_CACHES),
    Option("threads", int, "threads per node (default: one per core, divided among --nodes)", "N",
           least=1, most=MAX_THREADS),
)  # fmt: skip


def _check_address(address: str) -> None:
    """ConfigError for what is no address of any transport."""
    scheme = transports.scheme_of(address)
    if scheme in ADDRESSES:
        ADDRESSES[scheme](address)
    else:
        transports.of_address(address)


ADDRESSES: dict[str, Callable[[str], object]] = {"tcp": parse_tcp, "unix": parse_unix}
CLUSTER_OPTIONS = (
    Option("nodes", int, "share the model between N processes on this machine (default: 1)", "N",
           least=1, most=MAX_NODES),
    Option("workers", str, "share the model with workers that run already", "ADDRESS",
           several=True, test=_check_address),
    Option("transport", str, "how nodes are connected: blocking, nonblocking, unix, or one that "
           "is installed (default: unix for --nodes, else what the addresses say)", "NAME",
           test=transports.get),
    Option("buffer", str, "what travels between nodes (default: q80 for q40 and q80 weights, "
           "else f32)", choices=BUFFERS),
    Option("all_reduce", str, "how sums over nodes are made (default: auto, by size and number "
           "of nodes)", choices=ALL_REDUCES),
    Option("shares", float, "how much of the model each node holds, the root first (default: "
           "equal parts)", "A,B,...", least=0, above=True, commas=True),
    Option("timeout", float, f"give up a node that does not answer for S seconds (default: "
           f"{DEFAULT_TIMEOUT:g})", "S", least=0.1, most=86400),
    Option("secret_file", str, "what nodes prove to each other (default: DLLAMA_SECRET, if set)",
           "FILE"),
)  # fmt: skip
CONTEXTS_OPTION = Option(
    "contexts", int, "texts whose keys and values are kept, so that as many conversations can take "
    "turns (default: up to 4, in 1 GB or a quarter of the model's size)", "N", least=1,
    most=MOST_CONTEXTS,
)  # fmt: skip
SERVER_OPTIONS = (
    Option("listen", str, "HOST:PORT or [IPV6]:PORT (default: 127.0.0.1:8080)", "ADDRESS",
           test=parse_tcp),
    Option("api_key_file", str, "what clients must send as their API key (default: "
           "DLLAMA_API_KEY, if set)", "FILE"),
    Option("insecure", bool, "listen where other machines can connect, without an API key"),
    Option("queue", int, "requests that may wait for their turn; more are turned away "
           "(default: 32)", "N", least=1, most=10000),
    CONTEXTS_OPTION,
)  # fmt: skip
REPORT_OPTIONS = (
    Option("json", str, "write the results to FILE", "FILE"),
    Option("quiet", bool, "print nothing but the result"),
)
TRACE_OPTION = Option(
    "trace", str, "write the time of every task on every node to FILE (Chrome trace format)", "FILE"
)
CONTEXT_OPTION = Option(
    "context", int, f"tokens of a window (default: {DEFAULT_CONTEXT}, or the model's)", "N", least=2
)
WORK_OPTIONS = (
    Option("prompt_tokens", int, "tokens of the prompt (default: 64, or what --prompt has)", "N",
           least=1),
    Option("repeats", int, "runs of each case, in turns (default: 3)", "N", least=1),
    Option("csv", str, "write the table to FILE as CSV", "FILE"),
    Option("plot", str, "draw tokens/s to FILE, a PNG (needs matplotlib: pip install "
           "'dllama[plot]')", "FILE"),
)  # fmt: skip
# A configuration file may hold the options of any command; each command takes its own.
ALL_OPTIONS = (
    *TEXT_OPTIONS,
    *CHAT_OPTIONS[:2],
    *SAMPLING_OPTIONS,
    *MODEL_OPTIONS,
    *CLUSTER_OPTIONS,
    *SERVER_OPTIONS,
    *REPORT_OPTIONS,
    TRACE_OPTION,
    CONTEXT_OPTION,
    *WORK_OPTIONS,
)
# Of these, the command line's takes the place of the file's.
OneOf = Sequence[Sequence[str]]
ONE_OF: OneOf = (("prompt", "prompt_file"), ("nodes", "workers"))
LLM_ARGUMENTS = tuple(option.name for option in (*MODEL_OPTIONS, *CLUSTER_OPTIONS))


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ConfigErrors, and whose options cannot be cut short."""

    def __init__(self, **arguments: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"formatter_class": formatter, "allow_abbrev": False, **arguments})

    def error(self, message: str) -> NoReturn:
        """Wrong usage."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def add_command(
    subparsers: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, example: str
) -> argparse.ArgumentParser:
    """A subcommand with its help text and examples, one per line."""
    lines = textwrap.indent(example, "  ")
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text[0].lower() + text[1:].rstrip("."),
        description=text,
        epilog=f"example{'s' if chr(10) in example else ''}:\n{lines}",
    )
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks of errors"
    )
    parser.set_defaults(run=run)
    return parser


def add_options(
    parser: argparse.ArgumentParser, groups: Mapping[str, Sequence[Option]], config: bool = True
) -> None:
    """Add options under headings, and --config FILE.yaml that gives them other defaults."""
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for option in options:
            add_option(group, option)
    if config:
        parser.add_argument(
            "--config", metavar="FILE", help="YAML file of options; the command line wins"
        )
    parser.set_defaults(known=[option for options in groups.values() for option in options])


def add_option(group: Any, option: Option) -> None:
    """Add an option; without it, its value is None."""
    common: dict[str, Any] = {"default": None, "help": option.help, "dest": option.name}
    if option.type is bool:
        group.add_argument(option.flag, action="store_true", **common)
        return
    metavar = "{" + ",".join(option.choices) + "}" if option.choices else option.metavar
    if option.many:
        common["action"] = "append"
    if option.several:
        common["nargs"] = "+"
        common["action"] = _Join if option.commas else "extend"
    group.add_argument(option.flag, type=_Type(option), metavar=metavar, **common)


class _Join(argparse.Action):
    """Makes one list of words that are lists."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        found = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, found + [item for word in values for item in word])


class _Type:
    """Option.parse for argparse, which shows the message of this error only."""

    def __init__(self, option: Option) -> None:
        self._parse = option.parse

    def __call__(self, text: str) -> Any:
        try:
            text.encode()
            return self._parse(text)
        except UnicodeEncodeError:
            raise argparse.ArgumentTypeError("not UTF-8") from None
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


def settings(args: argparse.Namespace, one_of: OneOf = ONE_OF) -> dict[str, Any]:
    """The options that were given, by the command line or else by the --config file.

    one_of: groups of options of which the command line's takes the place of the file's.
    """
    names = [option.name for option in args.known]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if not getattr(args, "config", None):
        return given
    values = read_config(Path(args.config), ALL_OPTIONS)
    for group in one_of:
        if any(name in given for name in group):
            values = {name: value for name, value in values.items() if name not in group}
            if "workers" in group:
                values = _without_ranks(values)
    return {name: value for name, value in values.items() if name in names} | given


def _without_ranks(values: dict[str, Any]) -> dict[str, Any]:
    """The values that are not about single nodes, where there are other nodes than the file's."""
    return {
        name: value
        for name, value in values.items()
        if name not in ("threads", "shares") or not isinstance(value, list)
    }


def sampling(llm: LLM, values: dict[str, Any]) -> dict[str, Any]:
    """How to sample: the options given, else what the model's folder says."""
    defaults = generation_defaults(llm.model_path.parent, SAMPLING_OPTIONS)
    given = {option.name: values[option.name] for option in SAMPLING_OPTIONS
             if option.name in values}  # fmt: skip
    return defaults | given


def template_name(llm: LLM, values: dict[str, Any]) -> str | None:
    """Which template puts messages before the model, for ChatTemplate.of."""
    default = PLAIN if llm.model_path.parent == DEMO else None
    return values.get("template", default)


def open_model(values: dict[str, Any], contexts: int | None = 1) -> LLM:
    """The model that the options ask for."""
    arguments = {name: values[name] for name in LLM_ARGUMENTS if name in values}
    quiet = values.get("quiet", False)
    return LLM(**arguments, contexts=contexts, trace="trace" in values, progress=not quiet)
