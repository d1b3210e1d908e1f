"""A conversation with a model: its messages, and the context kept from turn to turn."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dllama.engine import LLM
from dllama.errors import ContextError, FormatError, InputError, ModelError
from dllama.options import MAX_SEED
from dllama.text.stream import Token, stop_strings
from dllama.text.template import ChatTemplate, Message
from dllama.text.tokenizer import Tokenizer

FORMAT = "dllama conversation"
MAX_FILE = 1 << 24  # bytes
# 1/RESERVE of the context is kept free for the answer, or less if the answer is to be shorter.
RESERVE = 4


class Conversation:
    """Messages to a model and its answers, one at a time.

    The context keeps what consecutive turns have in common, so only new text is evaluated. When the
    context is full, the oldest turns (a message and its answer) are left out of the prompt until
    half of it is free. They remain in `messages`. Each answer advances the seed.

    Args:
        llm: a model with a tokenizer.
        template: its chat template.
        system: system prompt, or None.
        steps: maximum number of tokens of an answer. Default: as many as fit.
        **options: passed to LLM.generate.

    Attributes:
        turns: messages and answers without the system prompt, oldest first.
        forgotten: how many of `turns` the model no longer sees.
        kept: how many ids of all prompts so far did not have to be evaluated again.

    Raises:
        ModelError: the model has no tokenizer.
        TemplateError: the template refuses the system prompt.
    """

    def __init__(
        self,
        llm: LLM,
        template: ChatTemplate,
        system: str | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> None:
        self._llm = llm
        self._tokenizer = required_tokenizer(llm)
        self._template = template
        self._steps = steps
        self._options = options
        self._system: str | None = None
        self.turns: list[Message] = []
        self.forgotten = 0
        self.kept = 0
        self.set_system(system)

    @property
    def system(self) -> str | None:
        """The system prompt, or None."""
        return self._system

    @property
    def messages(self) -> list[Message]:
        """All messages with the system prompt, oldest first."""
        system = [] if self._system is None else [Message("system", self._system)]
        return system + self.turns

    def set_system(self, text: str | None) -> None:
        """Change the system prompt; the conversation goes on.

        Raises:
            TemplateError: the template refuses it. The old one stays.
        """
        before, self._system = self._system, text
        try:
            self._ids([Message("user", "a")])
        except BaseException:
            self._system = before
            raise

    def reset(self) -> None:
        """Forget all messages but the system prompt."""
        self.turns, self.forgotten = [], 0

    def restore(self, messages: list[Message]) -> None:
        """Continue from these messages: an optional system prompt, then messages and answers."""
        system = messages[0].content if messages and messages[0].role == "system" else None
        self.set_system(system)
        self.turns = messages[system is not None :]
        self.forgotten = 0

    def say(self, text: str) -> Iterator[Token]:
        """Send a message to the model and yield the tokens of its answer.

        Message and answer join the conversation when the iterator ends, is closed or fails, unless
        no token has come by then. LLM.interrupt ends an answer.

        Raises:
            TemplateError: the template refuses the message.
            ConfigError: the text is not valid Unicode.
            ContextError: the message is too long.

        The conversation is unchanged after these errors.
        """
        message = Message("user", text)
        ids, forgotten = self._fitting_ids([*self.turns, message])
        self.kept += self._llm.continue_from(ids)
        tokens = self._generate(len(ids))
        self.forgotten = forgotten
        return self._answer(message, tokens)

    def _answer(self, message: Message, tokens: Iterator[Token]) -> Iterator[Token]:
        """Yield the tokens, and add their text to the conversation at the end."""
        texts: list[str] = []
        try:
            for token in tokens:
                texts.append(token.text)
                yield token
        finally:
            if texts:
                self.turns = [*self.turns, message, Message("assistant", "".join(texts))]

    def _generate(self, used: int) -> Iterator[Token]:
        """Generate an answer in a context that holds `used` ids."""
        room = self._llm.seq_len - used + 1
        stops = stop_strings(self._options.get("stop"))
        ends = () if self._options.get("ignore_eos") else self._template.stop_ids
        options = {
            **self._options,
            "stop": (*self._template.stops, *stops),
            "stop_ids": (*ends, *self._options.get("stop_ids", ())),
        }
        if options.get("seed") is not None:  # the same seed could repeat the last answer
            options["seed"] = (options["seed"] + len(self.turns)) % (MAX_SEED + 1)
        return self._llm.generate(
            [],
            room if self._steps is None else min(room, self._steps),
            **options,
        )

    def _fitting_ids(self, turns: list[Message]) -> tuple[list[int], int]:
        """Return the ids of the prompt, and how many of the oldest messages it leaves out."""
        size, forgotten = self._llm.seq_len, self.forgotten
        reserve = size // RESERVE if self._steps is None else min(size // RESERVE, self._steps)
        ids = self._ids(turns[forgotten:])
        if len(ids) + reserve > size + 1:
            counts = range(forgotten, len(turns) - 1, 2)
            fits = bisect_left(
                counts, True, key=lambda count: len(self._ids(turns[count:])) <= size // 2
            )
            forgotten = counts[fits] if fits < len(counts) else len(turns) - 1
            ids = self._ids(turns[forgotten:])
        if len(ids) > size:
            raise ContextError(
                f"the message does not fit: the prompt has {len(ids)} tokens, the context holds "
                f"{size}"
            )
        return ids, forgotten

    def _ids(self, turns: list[Message]) -> list[int]:
        """Return the ids of the system prompt and these turns, with an answer begun."""
        system = self.messages[: self._system is not None]
        return self._template.encode(self._tokenizer, system + turns)


def required_tokenizer(llm: LLM) -> Tokenizer:
    """Return the tokenizer of a model, or raise ModelError."""
    if llm.tokenizer is None:
        raise ModelError(
            f"{llm.model_path} has no tokenizer, and a conversation needs one: give it with "
            f"--tokenizer"
        )
    return llm.tokenizer


def to_json(messages: list[Message]) -> dict[str, Any]:
    """Return a conversation in the form in which it is saved."""
    return {
        "format": FORMAT,
        "version": 1,
        "messages": [{"role": one.role, "content": one.content} for one in messages],
    }


def read_messages(path: str | Path) -> list[Message]:
    """Read a saved conversation.

    Raises:
        InputError: the file cannot be read.
        FormatError: the file is not a saved conversation.
    """
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise FormatError(path, "size", f"more than {MAX_FILE} bytes", "a conversation")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, "JSON", f"broken ({error})", "a saved conversation") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("version") != 1:
        raise FormatError(path, "content", "something else", f"a {FORMAT} of version 1")
    return _checked(path, value.get("messages"))


def _checked(path: Path, values: object) -> list[Message]:
    """Check that roles alternate and contents are strings."""
    if not isinstance(values, list):
        raise FormatError(path, "messages", type(values).__name__, "a list")
    messages = [_message(path, index, value) for index, value in enumerate(values)]
    begin = 1 if messages and messages[0].role == "system" else 0
    for index, message in enumerate(messages[begin:]):
        expected = ("user", "assistant")[index % 2]
        if message.role != expected:
            found = repr(message.role)[:50]
            raise FormatError(path, f"role of message {begin + index}", found, expected)
    if (len(messages) - begin) % 2:
        raise FormatError(path, "last message", "from the user", "an answer")
    return messages


def _message(path: Path, index: int, value: object) -> Message:
    role, content = (value.get("role"), value.get("content")) if isinstance(value, dict) else (0, 0)
    if not isinstance(role, str) or not isinstance(content, str):
        raise FormatError(path, f"message {index}", "something else", "strings role and content")
    try:
        (role + content).encode()
    except UnicodeEncodeError as error:
        raise FormatError(path, f"message {index}", "not valid Unicode", "text") from error
    return Message(role, content)
