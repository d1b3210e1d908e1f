"""What is served: a model with its name, tokenizer, template and default options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from dllama import LLM
from dllama.errors import ConfigError, ContextError, TemplateError
from dllama.options import MEAN
from dllama.sampling.grammar import Grammar, Grammars, GrammarText
from dllama.scheduling.embedding import own_pooling
from dllama.server.answers import Answers
from dllama.server.facts import Facts
from dllama.server.problems import ApiError
from dllama.text.template import Begin, ChatTemplate
from dllama.text.tokenizer import Tokenizer


class Stops(NamedTuple):
    """Strings and ids that end an assistant's message."""

    texts: tuple[str, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Served:
    """What stays the same when the model is reopened.

    Attributes:
        name: name of the model.
        created: Unix time in seconds.
        seq_len: positions of the context.
        vocab_size: all ids are below it.
        tokenizer: None if the model has none.
        template: a TemplateError if there is no usable template.
        defaults: arguments of LLM.generate.
        grammars: compiles what requests ask for.
        facts: sizes and kinds.
        pooling: how texts are embedded if a request does not say.
    """

    name: str
    created: int
    seq_len: int
    vocab_size: int
    tokenizer: Tokenizer | None
    template: ChatTemplate | TemplateError
    defaults: Mapping[str, Any] = field(default_factory=dict)
    grammars: Grammars = field(default_factory=lambda: Grammars(None, Path("the model")))
    facts: Facts = field(default_factory=Facts)
    pooling: str = MEAN

    @classmethod
    def of(
        cls,
        llm: LLM,
        defaults: Mapping[str, Any],
        template: str | Path | None = None,
        variables: Mapping[str, Any] | None = None,
        name: str | None = None,
        pooling: str | None = None,
    ) -> Served:
        """Describe an open model.

        A model whose own template is missing or broken is served without /v1/chat/completions.

        Args:
            llm: the model.
            defaults: default arguments of LLM.generate.
            template, variables: as in ChatTemplate.of, which also lists the errors.
            name: of the model; None for that of its folder or file.
            pooling: how texts are embedded if a request does not say; None: as the model's folder
                says.
        """
        return cls(
            name=name or llm.name,
            created=int(llm.model_path.stat().st_mtime),
            seq_len=llm.seq_len,
            vocab_size=llm.spec.vocab_size,
            tokenizer=llm.tokenizer,
            template=_template(llm, template, variables),
            defaults=defaults,
            grammars=Grammars(llm.tokenizer, llm.model_path),
            facts=Facts.of(llm.spec, llm.model_path),
            pooling=pooling or own_pooling(llm.model_path),
        )

    @cached_property
    def answers(self) -> Answers:
        """How the model answers in conversations; ApiError 400 if it has no chat template."""
        if isinstance(self.template, TemplateError):
            raise ApiError(400, str(self.template), param="messages", code="no_chat_template")
        assert self.tokenizer is not None
        return Answers(self.tokenizer, self.template)

    def chat_prompt(
        self, messages: list[dict[str, Any]], variables: Mapping[str, Any], begin: Begin
    ) -> tuple[str, list[int]]:
        """Return a conversation that fits, as text and ids; ApiError 400.

        Args:
            messages: of the conversation.
            variables: of the template, besides those of the server.
            begin: what comes after the last message.
        """
        text, ids = self.rendered(messages, variables, begin, most=self.seq_len)
        try:
            return text, self._checked(ids)
        except ConfigError as error:
            raise ApiError(400, str(error), param="messages", code="invalid_value") from None

    def rendered(
        self,
        messages: list[dict[str, Any]],
        variables: Mapping[str, Any],
        begin: Begin,
        most: int | None = None,
    ) -> tuple[str, list[int]]:
        """Return a conversation as text and ids; ApiError 400.

        Args:
            messages, variables, begin: as in `chat_prompt`.
            most: as in Tokenizer.encode.
        """
        messages, variables = self.answers.prepared(messages, variables)
        assert not isinstance(self.template, TemplateError)
        try:
            text = self.template.render_begun(messages, begin, variables)
            return text, self._tokenizer.encode(text, add_bos=False, most=most)
        except ContextError as error:
            raise _too_long(error) from None
        except (ConfigError, TemplateError) as error:
            raise ApiError(400, str(error), param="messages", code="invalid_value") from None

    def check_ids(self, name: str, ids: Iterable[int]) -> None:
        """Raise ApiError 400 unless all ids of a field are tokens."""
        if message := self._wrong_id(ids):
            raise ApiError(400, f"{name}: {message}", param=name, code="invalid_value")

    def text_ids(self, text: str, special: bool) -> list[int]:
        """Return the ids of a text, however many; ApiError 400.

        Args:
            text: any.
            special: whether it begins with the model's bos token, if the model has texts begin so.
        """
        try:
            return self._tokenizer.encode(text, None if special else False)
        except ConfigError as error:
            raise ApiError(400, str(error), param="prompt", code="invalid_value") from None

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids, with the names of special tokens; ApiError 400."""
        self.check_ids("tokens", ids)
        tokenizer = self._tokenizer
        special = (number for number, token in enumerate(ids) if tokenizer.is_special(token))
        first = next(special, len(ids))
        rest = b"".join(map(tokenizer.spell, ids[first:]))
        return tokenizer.decode(ids[:first]) + rest.decode(errors="replace")

    @property
    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ApiError(400, "the model has no tokenizer: send ids", code="no_tokenizer")
        return self.tokenizer

    def prompt_ids(self, prompt: str | list[int], truncate: bool = False) -> list[int]:
        """Return the ids of a prompt, or of a text that is embedded; ApiError 400.

        Args:
            prompt: a text or ids.
            truncate: whether to leave out what the context does not hold.
        """
        try:
            most = None if truncate else self.seq_len
            ids = self._ids(prompt, most) if isinstance(prompt, str) else prompt
            return self._checked(ids[: self.seq_len] if truncate else ids)
        except ContextError as error:
            raise _too_long(error) from None
        except ConfigError as error:
            raise ApiError(400, str(error), param="prompt", code="invalid_value") from None

    def grammar(self, text: GrammarText | None) -> Grammar | None:
        """Compile what a request asks for; ApiError 400.

        Functions that may be called need not be compiled, if they are lenient.
        """
        if text is None:
            return None
        if text.around:  # so that an error tells which of both is wrong
            self.grammar(text._replace(around=""))
            text = text._replace(name="tools")
        try:
            return self.grammars.compile(text)
        except ConfigError as error:
            if text.kind == "lark" and text.lenient:
                return None
            raise ApiError(400, str(error), param=text.name, code="invalid_value") from None

    def limit(self, prompt: int, max_tokens: int | None) -> int:
        """Return how many tokens to generate after a prompt: as requested, or as many as fit.

        The last token takes no position, because it is not evaluated.
        """
        room = self.seq_len - prompt + 1
        return room if max_tokens is None else min(room, max_tokens)

    @property
    def chat_stops(self) -> Stops:
        """What ends a message, in addition to EOS."""
        if isinstance(self.template, TemplateError):
            return Stops((), ())
        return Stops(self.template.stops, self.template.stop_ids)

    def _ids(self, prompt: str, most: int | None) -> list[int]:
        """Encode a text; an empty one becomes BOS. For `most` see Tokenizer.encode."""
        if self.tokenizer is None:
            raise ConfigError("the prompt is text, but the model has no tokenizer: send ids")
        ids = self.tokenizer.encode(prompt, most=most)
        bos = self.tokenizer.bos_id
        return ids if ids or bos is None else [bos]

    def _checked(self, ids: list[int]) -> list[int]:
        """Return the ids if the model can take them, or raise an error."""
        if not ids:
            raise ConfigError("the prompt is empty and the model has no BOS token")
        if len(ids) > self.seq_len:
            message = f"the prompt has {len(ids)} tokens, the context holds {self.seq_len}"
            raise _too_long(message)
        if message := self._wrong_id(ids):
            raise ConfigError(message)
        return ids

    def _wrong_id(self, ids: Iterable[int]) -> str:
        """Return what is wrong with the first id that is no token; "" if all are tokens."""
        wrong = next((token for token in ids if not 0 <= token < self.vocab_size), None)
        return "" if wrong is None else f"token id is {wrong}, expected 0 to {self.vocab_size - 1}"


def _too_long(why: object) -> ApiError:
    return ApiError(400, str(why), code="context_length_exceeded")


def _template(
    llm: LLM, template: str | Path | None, variables: Mapping[str, Any] | None
) -> ChatTemplate | TemplateError:
    """Load the requested template, or the model's own."""
    try:
        if llm.tokenizer is None:
            raise TemplateError(f"{llm.model_path} has no tokenizer")
        return ChatTemplate.of(llm.tokenizer, template, variables)
    except TemplateError as error:
        if template is not None:
            raise
        return error
