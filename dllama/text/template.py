"""Chat templates turn the messages of a conversation into the text that a model expects.

A template is Jinja source that comes with a model and is written for apply_chat_template of
Hugging Face's transformers. It finds the same variables, filters and functions here. It may come
from an untrusted source, so it runs in a sandbox and in a process of its own (template_child.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from dllama.errors import InputError, TemplateError
from dllama.text import template_process
from dllama.text.tokenizer import Tokenizer

PLAIN = "plain"
# Writes a conversation as a play, for models that were trained on plain text only.
PLAIN_SOURCE = """\
{{ bos_token }}{% for message in messages %}
{% if message.role != 'system' %}
{{ message.role | upper }}:
{% endif %}
{{ message.content | trim }}

{% endfor %}
{% if add_generation_prompt %}
ASSISTANT:
{% endif %}
"""
MAX_SOURCE = 1 << 20


class Begin(Enum):
    """What comes after the last message of a conversation."""

    NEXT = "next"  # the next answer is begun
    NOTHING = "nothing"
    REST = "rest"  # the last message goes on: it has no end


@dataclass(frozen=True)
class Message:
    """One message of a conversation; its role is system, user or assistant."""

    role: str
    content: str


class ChatTemplate:
    """A chat template.

    Args:
        source: Jinja source.
        name: name of the template in error messages.
        tokens: texts of special tokens by their names in templates (bos_token, eos_token, ...).
        stops: strings that end an answer, for templates that end it with no special token.
        variables: what else the template finds, such as enable_thinking.

    Attributes:
        stop_ids: special tokens that end an answer.

    Raises:
        TemplateError: the source is not valid Jinja, or is too long.
    """

    def __init__(
        self,
        source: str,
        name: str = "chat template",
        tokens: Mapping[str, str] | None = None,
        stops: tuple[str, ...] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.source = source
        self.name = name
        self.stops = stops
        self.stop_ids: tuple[int, ...] = ()
        self._variables: dict[str, object] = {
            "tools": None,
            "documents": None,
            **(tokens or {}),
            **(variables or {}),
        }
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"{name} has {len(source)} characters, at most {MAX_SOURCE}")
        self._render(None)

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        template: str | Path | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> ChatTemplate:
        """Load the template for a model.

        Args:
            tokenizer: the model's tokenizer.
            template: None for the model's own template, "plain" for the built-in one, or a Jinja
                file.
            variables: what else the template finds, such as enable_thinking.

        Raises:
            TemplateError: the model has no template, or the template is broken.
            InputError: the file cannot be read.
        """
        found = cls._of(tokenizer, template, variables)
        found.stop_ids = found._end_of_turn(tokenizer)
        return found

    @classmethod
    def _of(
        cls,
        tokenizer: Tokenizer,
        template: str | Path | None,
        variables: Mapping[str, Any] | None,
    ) -> ChatTemplate:
        tokens = tokenizer.special_tokens
        if template == PLAIN:
            return cls(PLAIN_SOURCE, "template plain", tokens, ("\n\n",), variables)
        if template is not None:
            name = f"template {template}"
            return cls(_read(Path(template)), name, tokens, variables=variables)
        if tokenizer.chat_template is None:
            raise TemplateError(
                "the model has no chat template: give one with --template FILE, or use "
                "--template plain for a model that was trained on plain text"
            )
        name = "chat template of the model"
        return cls(tokenizer.chat_template, name, tokens, variables=variables)

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render the text of a conversation.

        Encode it with add_bos=False: the template itself writes BOS where it belongs.

        Args:
            messages: may have more keys than role and content.
            add_generation_prompt: whether to begin the next answer.
            variables: instead of, or besides, those of the template.

        Raises:
            TemplateError: the template refuses the messages or fails.
        """
        plain = [asdict(m) if isinstance(m, Message) else dict(m) for m in messages]
        return self._render(
            {
                **self._variables,
                **(variables or {}),
                "messages": plain,
                "add_generation_prompt": add_generation_prompt,
            }
        )

    def render_begun(
        self,
        messages: Sequence[Mapping[str, Any]],
        begin: Begin,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render the text of a conversation with what comes after its last message.

        TemplateError as for render, and if the last message goes on, but is not in the text as it
        is.
        """
        text = self.render(messages, begin is Begin.NEXT, variables)
        if begin is not Begin.REST:
            return text
        content = messages[-1]["content"].lstrip()
        for part in (content, content.rstrip()):
            if part and (at := text.rfind(part)) >= 0:
                return text[: at + len(part)]
        raise TemplateError(f"{self.name} changes the last message, so that it cannot go on")

    def _render(self, values: dict[str, Any] | None) -> str:
        """Render with all values, or only check the source."""
        try:
            return template_process.render(self.source, values)
        except TemplateError as error:
            raise TemplateError(f"{self.name}: {error}") from error

    def _end_of_turn(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Return the special token that ends an answer, if any. Not all models list it as EOS."""
        answer = "answer 4711"
        try:
            text = self.render([Message("user", "a"), Message("assistant", answer)], False)
        except TemplateError:  # it does not accept these messages
            return ()
        _, _, rest = text.rpartition(answer)
        ids = tokenizer.encode(rest, add_bos=False)
        return tuple([token for token in ids if tokenizer.is_special(token)][:1])

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message | Mapping[str, Any]],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        most: int | None = None,
    ) -> list[int]:
        """Render and encode a conversation; same ids as transformers' apply_chat_template.

        For `most` see Tokenizer.encode.
        """
        text = self.render(messages, add_generation_prompt, variables)
        return tokenizer.encode(text, add_bos=False, most=most)


def _read(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"template {path}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise InputError(f"template {path}: {error.strerror}, and it is not 'plain'") from error
