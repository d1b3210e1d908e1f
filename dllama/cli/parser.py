"""The list of options as argparse knows it: parsers, subcommands, and errors with their usage."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, NoReturn
from urllib.parse import urlsplit

from dllama import transports
from dllama.checks import shown
from dllama.cluster.names import clean
from dllama.errors import ConfigError
from dllama.options import (
    ALIAS,
    COMPARED_TRANSPORT,
    CORS_ORIGINS,
    HOST,
    LISTEN,
    TEMPLATE_KWARGS,
    TRANSPORT,
    WORKERS,
)
from dllama.options.option import Option
from dllama.options.planning import LATENCY, LINK_RATE
from dllama.options.workers import NAME, WORKER_LISTEN
from dllama.planning.units import RATE, TIME
from dllama.text.template_variables import parse_variables
from dllama.transports.sockets import parse_tcp, parse_unix

POSITIONAL = "positional"  # where argparse keeps a value until it is known what it means
MOST_SUGGESTED = 0.6  # how alike words are that may have been meant


class UsageError(ConfigError):
    """The command line is wrong; usage: of the command, to be shown before the message."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UsageErrors, and whose options cannot be abbreviated.

    positional: the option whose value may stand without its flag, None for none.
    """

    positional: Option | None = None

    def __init__(self, **arguments: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"formatter_class": formatter, "allow_abbrev": False, **arguments})

    def error(self, message: str) -> NoReturn:
        """Wrong usage of this command."""
        raise UsageError(f"{message} (see {self.prog} --help)", self.format_usage())

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all arguments; an unknown one is an error of this command, not of its parent."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown[0]))
        if self.positional:
            self._name_positional(found, self.positional)
        return found, unknown

    def _unknown(self, word: str) -> str:
        """What to say about an argument that there is not."""
        if not word.startswith("-"):
            hint = ": put a text of several words in quotes" if self._takes_text else ""
            return f"unexpected argument {word!r}{hint}"
        name = word.partition("=")[0]
        flags = [flag for action in self._actions for flag in action.option_strings]
        alike = get_close_matches(name, flags, n=1, cutoff=MOST_SUGGESTED)
        return f"unrecognized option {name}" + (f", did you mean {alike[0]}?" if alike else "")

    @property
    def _takes_text(self) -> bool:
        return self.positional is not None and self.positional.name == "prompt"

    def _name_positional(self, found: argparse.Namespace, option: Option) -> None:
        """Give the option the value that stands without its flag."""
        value = found.__dict__.pop(POSITIONAL, None)
        if value is None:
            return
        if getattr(found, option.name) is not None:
            self.error(
                f"{_metavar(option)} {shown(value)} and {option.flag}: only one of the two can be "
                "given"
            )
        setattr(found, option.name, value)


def add_command(
    subparsers: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, example: str
) -> Parser:
    """A subcommand with its help text and examples, one per line."""
    lines = textwrap.indent(example, "  ")
    parser: Parser = subparsers.add_parser(
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
    parser: Parser,
    groups: Mapping[str, Sequence[Option]],
    positional: Option | None = None,
    config: bool = True,
) -> None:
    """Add options to a command.

    Args:
        parser: of the command.
        groups: options by the headings under which the help shows them.
        positional: one of them, whose value may also stand without its flag.
        config: whether --config FILE.yaml may set them too.
    """
    if positional:
        parser.positional = positional
        parser.add_argument(
            POSITIONAL,
            nargs="?",
            type=_Type(positional),
            metavar=_metavar(positional),
            help=f"{positional.help}, the same as {positional.flag}",
        )
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for option in options:
            add_option(group, option)
    if config:
        parser.add_argument(
            "--config", metavar="FILE", help="YAML file of options; the command line wins"
        )
    parser.set_defaults(known=[option for options in groups.values() for option in options])


def add_option(group: Any, option: Option, required: bool = False) -> None:
    """Add an option; without it, its value is None, or where it is required an error."""
    flags = [option.short, option.flag] if option.short else [option.flag]
    help_text = option.description.replace("%", "%%")
    common: dict[str, Any] = {"default": None, "help": help_text, "dest": option.name}
    if option.type is bool:
        group.add_argument(*flags, action="store_true", **common)
        return
    metavar = "{" + ",".join(option.choices) + "}" if option.choices else option.metavar
    if option.many:
        common["action"] = "append"
    if option.several:
        common["nargs"] = "+"
        common["action"] = _Join if option.commas else "extend"
    group.add_argument(*flags, type=_Type(option), metavar=metavar, required=required, **common)


def _metavar(positional: Option) -> str:
    """What stands for an option's value where it has no flag."""
    return "TEXT" if positional.name == "prompt" else positional.name.upper()


def check_address(address: str) -> None:
    """ConfigError for what is no address of any transport."""
    scheme = transports.scheme_of(address)
    if scheme in ADDRESSES:
        ADDRESSES[scheme](address)
    else:
        transports.of_address(address)


def check_named(name: str) -> None:
    """ConfigError for an empty name, or one with control characters."""
    if not name or not name.isprintable():
        raise ConfigError(f"found {shown(name)}, expected a name")


def check_node_name(name: str) -> None:
    """ConfigError for what cannot be the name of a node."""
    if not name or clean(name) != name:
        raise ConfigError(f"found {shown(name)}, expected letters, digits, spaces, - and _")


def check_origin(text: str) -> None:
    """ConfigError for what is neither * nor the origin of a web page."""
    url = urlsplit(text)
    if (text != "*" and text != f"{url.scheme}://{url.netloc}") or not text or "@" in text:
        raise ConfigError(f"found {shown(text)}, expected * or an origin such as https://a.example")


def tested(option: Option) -> Option:
    """An option with the test of its values that needs to know the transports."""
    return replace(option, test=TESTS.get(option, option.test))


ADDRESSES: dict[str, Callable[[str], object]] = {"tcp": parse_tcp, "unix": parse_unix}
TESTS: dict[Option, Callable[[str], object]] = {
    WORKERS: check_address,
    TRANSPORT: transports.get,
    COMPARED_TRANSPORT: transports.get,
    LISTEN: parse_tcp,
    HOST: check_named,
    ALIAS: check_named,
    CORS_ORIGINS: check_origin,
    WORKER_LISTEN: check_address,
    NAME: check_node_name,
    TEMPLATE_KWARGS: parse_variables,
    LINK_RATE: RATE.parse,
    LATENCY: TIME.parse,
}


class _Join(argparse.Action):
    """Makes one list of words that are lists."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        found = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, found + [item for word in values for item in word])


class _Type:
    """Option.parse for argparse, which shows the message of this error only."""

    def __init__(self, option: Option) -> None:
        self.option = tested(option)

    def __call__(self, text: str) -> Any:
        try:
            text.encode()
            return self.option.parse(text)
        except UnicodeEncodeError:
            raise argparse.ArgumentTypeError("not UTF-8") from None
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
