"""The objects that responses of OpenAI's two older APIs have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from dllama import Token, __version__
from dllama.server.fields.options import Options
from dllama.server.queue.jobs import Done
from dllama.server.response_format import ResponseFormat
from dllama.server.served import Served


class OpenAIFormat(ResponseFormat):
    """A response with choices, in chunks or as a whole.

    Args:
        served: the model.
        options: options of the request.
    """

    prefix: str  # of the response's id
    whole_object: str
    chunk_object: str

    def __init__(self, served: Served, options: Options) -> None:
        self._served = served
        self._options = options
        self._head = {
            "id": f"{self.prefix}-{options.id}",
            "created": options.created,
            "model": served.name,
            "system_fingerprint": f"dllama-{__version__}",
        }

    def opening(self) -> list[dict[str, Any]]:
        choice = self.first_choice()
        return [] if choice is None else [self._chunk(choice)]

    def piece(self, token: Token) -> list[dict[str, Any]]:
        logprobs = self._logprobs([token])
        parts = self.parts(token.text) or ([self.part("")] if logprobs is not None else [])
        chunks = []
        for part in parts:
            chunks.append(self._chunk({**part, "logprobs": logprobs, "finish_reason": None}))
            logprobs = None
        return chunks

    def closing(self, done: Done) -> list[dict[str, Any]]:
        ends = {"logprobs": None, "finish_reason": None}
        chunks = [self._chunk({**part, **ends}) for part in self.last_parts()]
        last = {**self.part(""), "logprobs": None, "finish_reason": self.reason(done)}
        return [*chunks, self._chunk(last)]

    def summary(self, ends: Sequence[Done]) -> list[dict[str, Any]]:
        if not self._options.include_usage:
            return []
        usage = {"choices": [], "usage": self.usage(ends)}
        return [{**self._head, "object": self.chunk_object, **usage}]

    def end(self) -> str:
        return "data: [DONE]\n\n"

    def whole(self, tokens: Sequence[Token], done: Done) -> dict[str, Any]:
        choice = {
            "index": self._options.index,
            **self.text([token.text for token in tokens]),
            "logprobs": self._logprobs(tokens),
            "finish_reason": self.reason(done),
        }
        return {**self._head, "object": self.whole_object, "choices": [choice]}

    def merged(self, parts: Sequence[dict[str, Any]], ends: Sequence[Done]) -> dict[str, Any]:
        choices = [choice for part in parts for choice in part["choices"]]
        return {**parts[0], "choices": choices, "usage": self.usage(ends)}

    @abstractmethod
    def text(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the field of a choice that holds the texts of all tokens."""

    @abstractmethod
    def part(self, text: str) -> dict[str, Any]:
        """Return the field of a streamed choice that holds some text."""

    def parts(self, text: str) -> list[dict[str, Any]]:
        """Return the fields of the streamed choices that some text becomes."""
        return [self.part(text)] if text else []

    def last_parts(self) -> list[dict[str, Any]]:
        """Return the fields of the streamed choices that come after all text."""
        return []

    def reason(self, done: Done) -> str:
        """Return why the response ends."""
        return done.reason

    @abstractmethod
    def first_choice(self) -> dict[str, Any] | None:
        """Return the choice that comes before all text, if any."""

    @abstractmethod
    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """Return the log probabilities of tokens."""

    def spell(self, token: int) -> tuple[str, list[int]]:
        """Return the text and the bytes of an id; invalid UTF-8 becomes U+FFFD in the text."""
        tokenizer = self._served.tokenizer
        raw = b"" if tokenizer is None else tokenizer.spell(token)
        return raw.decode(errors="replace"), list(raw)

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        """Return the log probabilities of tokens; None if not requested."""
        return None if self._options.top is None else self.logprobs(tokens)

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        content = {
            "object": self.chunk_object,
            "choices": [{"index": self._options.index, **choice}],
        }
        usage = {"usage": None} if self._options.include_usage else {}
        return {**self._head, **content, **usage}

    def usage(self, ends: Sequence[Done]) -> dict[str, Any]:
        """Return the tokens of all texts. A prompt with several texts counts once."""
        prompts = ends[:: self._options.tries]
        read = sum(done.prompt for done in prompts)
        generated = sum(done.generated for done in ends)
        return {
            "prompt_tokens": read,
            "completion_tokens": generated,
            "total_tokens": read + generated,
            "prompt_tokens_details": {"cached_tokens": sum(done.cached for done in prompts)},
        }
