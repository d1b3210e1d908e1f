"""The JSON objects of responses, as in OpenAI's API."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from dllama import Token, __version__
from dllama.server.jobs import Done
from dllama.server.requests import Options
from dllama.server.served import Served
from dllama.server.tools.answer import Answer
from dllama.text.stream import End


class ResponseFormat(ABC):
    """Builds the response to one request, in chunks or as a whole.

    Args:
        served: the model.
        options: options of the request.
        prompt: number of tokens in the prompt.
    """

    prefix: str  # of the response's id
    whole_object: str
    chunk_object: str

    def __init__(self, served: Served, options: Options, prompt: int) -> None:
        self._served = served
        self._options = options
        self._prompt = prompt
        self._offset = 0  # characters sent so far
        self._head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": f"dllama-{__version__}",
        }

    def opening(self) -> list[dict[str, Any]]:
        """Return the first objects of a stream."""
        choice = self.first_choice()
        return [] if choice is None else [self._chunk(choice)]

    def piece(self, token: Token) -> list[dict[str, Any]]:
        """Return what a token adds to a stream, which may be nothing."""
        logprobs = self._logprobs([token])
        parts = self.parts(token.text) or ([self.part("")] if logprobs is not None else [])
        chunks = []
        for part in parts:
            chunks.append(self._chunk({**part, "logprobs": logprobs, "finish_reason": None}))
            logprobs = None
        return chunks

    def closing(self, done: Done) -> list[dict[str, Any]]:
        """Return the last objects of a stream."""
        ends = {"logprobs": None, "finish_reason": None}
        chunks = [self._chunk({**part, **ends}) for part in self.last_parts()]
        last = {**self.part(""), "logprobs": None, "finish_reason": self.reason(done)}
        chunks.append(self._chunk(last))
        if self._options.include_usage:
            usage = {"choices": [], "usage": self._usage(done)}
            chunks.append({**self._head, "object": self.chunk_object, **usage})
        return chunks

    def whole(self, tokens: Sequence[Token], done: Done) -> dict[str, Any]:
        """Return a response that is not streamed."""
        choice = {
            "index": 0,
            **self.text("".join(token.text for token in tokens)),
            "logprobs": self._logprobs(tokens),
            "finish_reason": self.reason(done),
        }
        content = {"object": self.whole_object, "choices": [choice], "usage": self._usage(done)}
        return {**self._head, **content}

    @abstractmethod
    def text(self, text: str) -> dict[str, Any]:
        """Return the field of a choice that holds the whole text."""

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
        """Return the log probabilities of all tokens but an EOS; None if not requested."""
        if self._options.top is None:
            return None
        return self.logprobs([token for token in tokens if token.end is not End.EOS])

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        content = {"object": self.chunk_object, "choices": [{"index": 0, **choice}]}
        usage = {"usage": None} if self._options.include_usage else {}
        return {**self._head, **content, **usage}

    def _usage(self, done: Done) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": done.generated,
            "total_tokens": self._prompt + done.generated,
            "prompt_tokens_details": {"cached_tokens": done.cached},
        }


class ChatFormat(ResponseFormat):
    """/v1/chat/completions.

    Args:
        answer: finds calls in the text; None if nothing may be called.
    """

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self, served: Served, options: Options, prompt: int, answer: Answer | None = None
    ) -> None:
        super().__init__(served, options, prompt)
        self._answer = answer

    def text(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": {**message, **(self._answer.whole(text) if self._answer else {})}}

    def part(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def parts(self, text: str) -> list[dict[str, Any]]:
        if self._answer is None:
            return super().parts(text)
        return [{"delta": delta} for delta in self._answer.push(text)]

    def last_parts(self) -> list[dict[str, Any]]:
        return [{"delta": delta} for delta in self._answer.end()] if self._answer else []

    def reason(self, done: Done) -> str:
        called = self._answer is not None and self._answer.called
        return "tool_calls" if called and done.reason == "stop" else done.reason

    def first_choice(self) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"delta": delta, "logprobs": None, "finish_reason": None}

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        content = []
        for token in tokens:
            top = [self._entry(*pair) for pair in token.top]
            content.append({**self._entry(token.id, token.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        text, raw = self.spell(token)
        return {"token": text, "logprob": logprob, "bytes": raw}


class CompletionFormat(ResponseFormat):
    """/v1/completions."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def text(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def part(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def first_choice(self) -> dict[str, Any] | None:
        return None

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self.spell(token.id)[0])
        tops = [{self._label(one): value for one, value in token.top} for token in tokens]
        return {
            "tokens": [self._label(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _label(self, token: int) -> str:
        """Return the text of an id, which names it in the response.

        An id that is not valid text (part of a character) gets its bytes in OpenAI's notation,
        because all of them would have the same text. Without a tokenizer, the label is the number.
        """
        text, raw = self.spell(token)
        if self._served.tokenizer is None:
            return f"token_id:{token}"
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw) if "\ufffd" in text else text
