"""What is served: a model under a name, its tokenizer and template, and defaults of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dllama import LLM
from dllama.errors import ConfigError, TemplateError
from dllama.server.problems import ApiError
from dllama.text.template import ChatTemplate
from dllama.text.tokenizer import Tokenizer


class Stops(NamedTuple):
    """Texts and ids that end a message of a conversation."""

    texts: tuple[str, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Served:
    """What does not change when the model is opened again.

    name: of the model. created: seconds since 1970. seq_len: positions of the context.
    template: a TemplateError where there is none. defaults: arguments of LLM.generate.
    """

    name: str
    created: int
    seq_len: int
    vocab_size: int
    tokenizer: Tokenizer | None
    template: ChatTemplate | TemplateError
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, llm: LLM, defaults: Mapping[str, Any], template: str | Path | None = None
    ) -> Served:
        """A model that is open. template: as in ChatTemplate.of, errors as well; a model whose
        own is missing or broken is served without conversations."""
        return cls(
            name=llm.name,
            created=int(llm.model_path.stat().st_mtime),
            seq_len=llm.seq_len,
            vocab_size=llm.spec.vocab_size,
            tokenizer=llm.tokenizer,
            template=_template(llm, template),
            defaults=defaults,
        )

    def as_json(self) -> dict[str, Any]:
        """The model as /v1/models lists it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "dllama",
            "context_length": self.seq_len,
        }

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation and the beginning of its next message; ApiError 400."""
        if isinstance(self.template, TemplateError):
            raise ApiError(400, str(self.template), param="messages", code="no_chat_template")
        assert self.tokenizer is not None
        try:
            return self._fitting(self.template.encode(self.tokenizer, messages))
        except (ConfigError, TemplateError) as error:
            raise ApiError(400, str(error), param="messages", code="invalid_value") from None

    def prompt_ids(self, prompt: str | list[int]) -> list[int]:
        """Ids of a prompt at the beginning of a context; ApiError 400."""
        try:
            return self._fitting(self._ids(prompt) if isinstance(prompt, str) else prompt)
        except ConfigError as error:
            raise ApiError(400, str(error), param="prompt", code="invalid_value") from None

    def limit(self, prompt: int, max_tokens: int | None) -> int:
        """Tokens to generate after a prompt that fits: those asked for, or what there is room
        for. The last one takes no position."""
        room = self.seq_len - prompt + 1
        return room if max_tokens is None else min(room, max_tokens)

    @property
    def chat_stops(self) -> Stops:
        """What ends a message, besides the ends of texts."""
        if isinstance(self.template, TemplateError):
            return Stops((), ())
        return Stops(self.template.stops, self.template.stop_ids)

    def _ids(self, prompt: str) -> list[int]:
        """Ids of a text, of an empty one a bos."""
        if self.tokenizer is None:
            raise ConfigError("the prompt is text, but the model has no tokenizer: send ids")
        ids = self.tokenizer.encode(prompt)
        bos = self.tokenizer.bos_id
        return ids if ids or bos is None else [bos]

    def _fitting(self, ids: list[int]) -> list[int]:
        """The ids, if the model can take them."""
        if not ids:
            raise ConfigError("the prompt is empty and there is no token to begin with")
        if len(ids) > self.seq_len:
            message = f"the prompt has {len(ids)} tokens, the context holds {self.seq_len}"
            raise ApiError(400, message, code="context_length_exceeded")
        wrong = next((token for token in ids if not 0 <= token < self.vocab_size), None)
        if wrong is not None:
            raise ConfigError(f"token id is {wrong}, expected 0 to {self.vocab_size - 1}")
        return ids


def _template(llm: LLM, template: str | Path | None) -> ChatTemplate | TemplateError:
    """The template asked for, or the model's own."""
    try:
        if llm.tokenizer is None:
            raise TemplateError(f"{llm.model_path} has no tokenizer")
        return ChatTemplate.of(llm.tokenizer, template)
    except TemplateError as error:
        if template is not None:
            raise
        return error
