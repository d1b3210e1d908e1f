"""The JSON objects of answers, as OpenAI has them: one class for each kind, of the same shape."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from dllama import Token, __version__
from dllama.server.requests import Options
from dllama.server.scheduler import Done
from dllama.server.served import Served
from dllama.text.stream import End


class Form(ABC):
    """Turns tokens into the answer to one request, in pieces or as a whole.

    prompt: how many tokens it has.
    """

    prefix: str  # of the answer's id
    whole_object: str
    chunk_object: str

    def __init__(self, served: Served, options: Options, prompt: int) -> None:
        self._served = served
        self._options = options
        self._prompt = prompt
        self._offset = 0  # characters given so far
        self._head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": f"dllama-{__version__}",
        }

    def opening(self) -> list[dict[str, Any]]:
        """What a stream begins with."""
        choice = self.first_choice()
        return [] if choice is None else [self._chunk(choice)]

    def piece(self, token: Token) -> list[dict[str, Any]]:
        """What a token adds to a stream; nothing where it adds nothing."""
        logprobs = self._logprobs([token])
        if not token.text and logprobs is None:
            return []
        return [self._chunk({**self.part(token.text), "logprobs": logprobs, "finish_reason": None})]

    def closing(self, done: Done) -> list[dict[str, Any]]:
        """What a stream ends with."""
        last = {**self.part(""), "logprobs": None, "finish_reason": done.reason}
        chunks = [self._chunk(last)]
        if self._options.include_usage:
            usage = {"choices": [], "usage": self._usage(done)}
            chunks.append({**self._head, "object": self.chunk_object, **usage})
        return chunks

    def whole(self, tokens: Sequence[Token], done: Done) -> dict[str, Any]:
        """The answer in one piece."""
        choice = {
            "index": 0,
            **self.text("".join(token.text for token in tokens)),
            "logprobs": self._logprobs(tokens),
            "finish_reason": done.reason,
        }
        content = {"object": self.whole_object, "choices": [choice], "usage": self._usage(done)}
        return {**self._head, **content}

    @abstractmethod
    def text(self, text: str) -> dict[str, Any]:
        """The part of a choice that holds the text of a whole answer."""

    @abstractmethod
    def part(self, text: str) -> dict[str, Any]:
        """The part of a choice that holds a part of the text."""

    @abstractmethod
    def first_choice(self) -> dict[str, Any] | None:
        """The choice that comes before all text."""

    @abstractmethod
    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """The log probabilities of tokens."""

    def spell(self, token: int) -> tuple[str, list[int]]:
        """The text of an id and its bytes; what is no UTF-8 has U+FFFD in its text."""
        tokenizer = self._served.tokenizer
        raw = b"" if tokenizer is None else tokenizer.spell(token)
        return raw.decode(errors="replace"), list(raw)

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        """Those of all tokens but the one that says that the text has ended."""
        if self._options.top is None:
            return None
        return self.logprobs([token for token in tokens if token.end is not End.EOS])

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        """An object of a stream."""
        content = {"object": self.chunk_object, "choices": [{"index": 0, **choice}]}
        usage = {"usage": None} if self._options.include_usage else {}
        return {**self._head, **content, **usage}

    def _usage(self, done: Done) -> dict[str, Any]:
        """How many tokens it took."""
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": done.generated,
            "total_tokens": self._prompt + done.generated,
            "prompt_tokens_details": {"cached_tokens": done.cached},
        }


class ChatForm(Form):
    """/v1/chat/completions."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def text(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def part(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

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
        """A token with its log probability."""
        text, raw = self.spell(token)
        return {"token": text, "logprob": logprob, "bytes": raw}


class CompletionForm(Form):
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
        """The text of an id, its bytes in OpenAI's spelling where they are no text (parts of
        characters would all have the same one), or the id where there is no tokenizer."""
        text, raw = self.spell(token)
        if self._served.tokenizer is None:
            return f"token_id:{token}"
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw) if "\ufffd" in text else text
