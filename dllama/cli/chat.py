"""`dllama chat`: a conversation with a model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dllama import LLM
from dllama.cli.console import Console, on_interrupt
from dllama.cli.files import check_output, write_json
from dllama.cli.options import open_model, sampling, settings, template_name, template_variables
from dllama.cli.parser import add_command, add_options
from dllama.cli.prompt import prompt_text
from dllama.cli.report import drafts, plural, result
from dllama.cli.typing_ahead import kept
from dllama.conversation import Conversation, read_messages, required_tokenizer, to_json
from dllama.errors import (
    ConfigError,
    ContextError,
    DllamaError,
    FormatError,
    InputError,
    OutputError,
    TemplateError,
)
from dllama.model_path import DEMO
from dllama.options import (
    CHAT_OPTIONS,
    CLUSTER_OPTIONS,
    DRAFT_OPTIONS,
    MODEL,
    MODEL_OPTIONS,
    REPORT_OPTIONS,
    SAMPLING_OPTIONS,
    TRACE,
)
from dllama.runtime.stats import DECODE, PREFILL, Stats
from dllama.runtime.trace import chrome_trace
from dllama.text.stream import End, Token
from dllama.text.template import ChatTemplate

EXAMPLES = """\
dllama chat
dllama chat llama --system "Answer in one sentence."
dllama chat llama --nodes 4
dllama chat llama --template plain           a model that knows no chat format
dllama chat llama --quiet < questions.txt    a message per line"""
HELP = """\
A line is a message. A backslash at its end continues it in the next line; lines between \"\"\"
and \"\"\" are one message. Ctrl-C stops an answer, Ctrl-D ends the conversation, Tab completes a
command.

/system [TEXT]  show the instructions for the model, or change them ("" for none)
/reset          forget all messages
/save FILE      write the conversation to FILE
/load FILE      continue the conversation in FILE
/stats          show the context and the speed
/help           show this
/exit           end the conversation

To begin a message with a slash, type two: //"""
DEMO_NOTE = (
    "The built-in model has learnt plays, not conversations. It talks like a character of a play."
)
# Commands of other programs for what is no text.
MEDIA = ("audio", "document", "file", "image", "images", "picture", "video", "voice")
# Errors that leave the model and the conversation as they were.
HARMLESS = (ConfigError, ContextError, FormatError, InputError, OutputError, TemplateError)


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(subparsers, "chat", run, "Have a conversation with a model.", EXAMPLES)
    groups = {
        "conversation": CHAT_OPTIONS,
        "sampling (defaults: generation_config.json of the model folder, or as given here)":
            SAMPLING_OPTIONS,
        "model": MODEL_OPTIONS,
        "cluster": CLUSTER_OPTIONS,
        "drafts": DRAFT_OPTIONS,
        "report": (*REPORT_OPTIONS, TRACE),
    }  # fmt: skip
    add_options(parser, groups, MODEL)
    parser.description = f"Have a conversation with a model.\n\n{HELP}"


def run(args: argparse.Namespace) -> int:
    """Answer messages until there are no more."""
    values = settings(args)
    first = prompt_text(values)
    check_output(values.get("json"))
    check_output(values.get("trace"))
    with open_model(values) as llm:
        console = Console(bool(values.get("quiet")))
        chat = _Chat(llm, _conversation(llm, values), console, values.get("steps"))
        chat.keeps = "json" in values
        if console.interactive:
            chat.greet()
        chat.talk(first)
        if "json" in values:
            messages = to_json(chat.conversation.messages)["messages"]
            write_json(values["json"], {**result(llm, chat.tokens), "messages": messages})
        if "trace" in values:
            write_json(values["trace"], chrome_trace(llm.timelines), indent=None)
    return 0


def _conversation(llm: LLM, values: dict[str, Any]) -> Conversation:
    """Begin the conversation that the options ask for."""
    template = ChatTemplate.of(
        required_tokenizer(llm), template_name(llm, values), template_variables(values)
    )
    return Conversation(
        llm,
        template,
        values.get("system"),
        values.get("steps"),
        stop=tuple(values.get("stop", ())),
        stop_ids=tuple(values.get("stop_ids", ())),
        ignore_eos=values.get("ignore_eos", False),
        **sampling(llm, values),
    )


class _Chat:
    """Takes messages and commands from a console, and shows answers and notes there."""

    def __init__(
        self, llm: LLM, conversation: Conversation, console: Console, steps: int | None
    ) -> None:
        self.conversation = conversation
        self.keeps = False
        self.tokens: list[Token] = []  # of all answers, if they are kept
        self._llm = llm
        self._console = console
        self._steps = steps
        self._ended = False
        self._failure: DllamaError | None = None
        self._commands = {
            "help": self._help,
            "system": self._system,
            "reset": self._reset,
            "save": self._save,
            "load": self._load,
            "stats": self._stats,
            "exit": self._exit,
        }
        console.complete([f"/{name}" for name in self._commands])

    def greet(self) -> None:
        """Say which model this is, and how to get help."""
        llm = self._llm
        if llm.model_path.parent == DEMO:
            self._console.note(DEMO_NOTE)
        size = llm.seq_len
        self._console.note(f"{llm.name}, a context of {size} tokens. /help shows what there is.")

    def talk(self, first: str | None) -> None:
        """Answer the first message, if there is one, and then those from the console.

        If the model failed, its error is raised at the end.
        """
        with self._console:
            text = first if first is not None else self._console.read()
            while text is not None:
                self._take(text)
                text = None if self._ended else self._console.read()
        if self._failure:
            raise self._failure

    def _take(self, text: str) -> None:
        """Handle a message or a command.

        In a terminal an error is a note, so that the conversation can be saved even if the model
        has failed. Otherwise it is raised.
        """
        try:
            if text.startswith("/") and not text.startswith("//"):
                self._obey(text[1:])
            elif text.strip():
                self._answer(text.removeprefix("/") if text.startswith("//") else text)
        except DllamaError as error:
            if not self._console.interactive:
                raise
            self._console.note(f"({error})")
            if not isinstance(error, HARMLESS):
                self._failure = self._failure or error
                self._console.note("(the model cannot go on; /save keeps the conversation)")

    def _answer(self, text: str) -> None:
        """Show the answer to a message as it comes, and then its length and speed."""
        given, steps = list[Token](), self._llm.stats.count
        try:
            with kept(), on_interrupt(self._llm.interrupt) as pressed:
                tokens = self._say(text)
                if pressed.is_set():  # before there was anything to stop
                    self._llm.interrupt()
                for token in tokens:
                    given.append(token)
                    self._console.show(token.text)
        finally:
            self._console.end_line()
            self.tokens += given if self.keeps else ()
        cost = self._llm.stats.since(steps)
        self._console.note(f"({_cost(given, cost, self._steps)})")

    def _say(self, text: str) -> Iterator[Token]:
        """Start an answer; a note says which turns are forgotten for it."""
        before = self.conversation.forgotten
        tokens = self.conversation.say(text)
        if self.conversation.forgotten > before:
            count = plural((self.conversation.forgotten - before) // 2, "turn")
            self._console.note(f"(the context is full: the oldest {count} are forgotten)")
        return tokens

    def _obey(self, line: str) -> None:
        """Run a command."""
        name, _, argument = line.partition(" ")
        command = self._commands.get(name.strip())
        if command is None:
            raise ConfigError(_unknown(name.strip(), [*self._commands]))
        command(argument.strip())

    def _help(self, _: str) -> None:
        self._console.note(HELP)

    def _system(self, text: str) -> None:
        if text:
            self.conversation.set_system(None if text == '""' else text)
        system = self.conversation.system
        self._console.note(f"(system: {system})" if system else "(there is no system prompt)")

    def _reset(self, _: str) -> None:
        self.conversation.reset()
        self._console.note("(all messages are forgotten)")

    def _save(self, name: str) -> None:
        path = Path(_file(name, "save")).expanduser()
        if path.is_file():
            read_messages(path)  # only a conversation is overwritten
        check_output(str(path))
        write_json(str(path), to_json(self.conversation.messages))
        self._console.note(f"(saved in {path})")

    def _load(self, name: str) -> None:
        messages = read_messages(_file(name, "load"))
        self.conversation.restore(messages)
        self._console.note(f"({plural(len(messages), 'message')} loaded)")

    def _stats(self, _: str) -> None:
        self._console.note("\n".join(_state(self._llm, self.conversation)))

    def _exit(self, _: str) -> None:
        self._ended = True


def _unknown(name: str, commands: list[str]) -> str:
    """What to say of a command that there is not."""
    if name in MEDIA:
        return f"no command /{name}: models read and write text only"
    near = get_close_matches(name, commands, 1)
    hint = f"perhaps /{near[0]}" if near else "/help lists them"
    return f"no command /{name}: {hint}; two slashes begin a message with one"


def _file(name: str, command: str) -> str:
    """The file name that a command needs; ConfigError if it is missing."""
    if not name:
        raise ConfigError(f"/{command} needs the name of a file")
    return name


def _cost(tokens: list[Token], stats: Stats, steps: int | None) -> str:
    """The length and speed of an answer, and what ended it if not the model."""
    if not tokens:
        return "stopped before the answer began: the message is forgotten"
    parts = [plural(len(tokens), "token")]
    if tokens[-1].end is End.INTERRUPT:
        parts.insert(0, "stopped")
    if tokens[-1].end is End.LENGTH:
        parts.insert(0, "cut by --steps" if len(tokens) == steps else "cut: the context is full")
    if stats.phase(DECODE):
        parts.append(f"{stats.summary()['tokens_per_s']:.1f} tokens/s")
    return ", ".join(parts)


def _state(llm: LLM, conversation: Conversation) -> list[str]:
    """The context, and the work so far."""
    summary = llm.stats.summary()
    read = sum(step.tokens for step in llm.stats.phase(PREFILL))
    written = sum(step.tokens for step in llm.stats.phase(DECODE))
    return [
        f"context   {llm.position} of {llm.seq_len} positions",
        f"messages  {len(conversation.messages)}, {conversation.forgotten} of them forgotten",
        f"prompts   {read} tokens evaluated, {conversation.kept} kept from turn to turn, "
        f"{summary['prompt_tokens_per_s']:.1f} tokens/s",
        f"answers   {written} tokens evaluated, {summary['tokens_per_s']:.1f} tokens/s",
        *(f"drafts    {line}" for line in drafts(summary)),
    ]
