"""/v1/completions: a continuation of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from dllama import Token
from dllama.server.apis.openai_format import OpenAIFormat
from dllama.server.delivery import JobResponse
from dllama.server.desk import Desk
from dllama.server.fields.json_object import Fields, is_ids, required, wrong
from dllama.server.fields.options import MAX_TEXTS, MAX_TOKENS, MAX_TOP, Options, take_options
from dllama.server.http.body import read_json
from dllama.server.problems import ApiError
from dllama.server.served import Served

DEFAULT_TOKENS = 16  # as in OpenAI's API
MAX_JOBS = 2048  # of a request


def routes(desk: Desk) -> list[Route]:
    """Return the paths."""

    async def answer(request: Request) -> JobResponse:
        parsed = await read_json(request, parse_completion)
        made = partial(CompletionFormat, prompts=parsed.prompts)
        return await desk.complete(request, parsed.prompts, parsed.options, made)

    return [Route("/v1/completions", answer, methods=["POST"])]


@dataclass(frozen=True)
class CompletionRequest:
    """A request; prompts are text or ids."""

    prompts: list[str | list[int]]
    options: Options


def parse_completion(body: object) -> CompletionRequest:
    """Parse a body; ApiError 400 if it is wrong."""
    fields = Fields(body)
    prompts = _prompts(fields.take("prompt"))
    limit = fields.integer("max_tokens", 0, MAX_TOKENS)
    top = fields.integer("logprobs", 0, MAX_TOP)
    count, tries = _counts(fields)
    echo = fields.boolean("echo")
    fields.only("suffix", [""])
    fields.only("add_special_tokens", [True])
    options = take_options(fields, DEFAULT_TOKENS if limit is None else limit, top, count, tries)
    if len(prompts) * tries > MAX_JOBS:
        message = f"{len(prompts)} prompts with {tries} texts each are more than {MAX_JOBS} texts"
        raise ApiError(400, message, param="prompt", code="invalid_value")
    if options.stream and options.chooses:
        raise ApiError(400, "best_of above n needs stream to be false", param="best_of")
    return CompletionRequest(prompts, replace(options, echo=echo))


def _counts(fields: Fields) -> tuple[int, int]:
    """Take how many texts to return for each prompt, and how many to generate."""
    count = fields.integer("n", 1, MAX_TEXTS) or 1
    tries = fields.integer("best_of", 1, MAX_TEXTS) or count
    if tries < count:
        raise wrong("best_of", tries, f"at least n, which is {count}")
    return count, tries


def _prompts(value: object) -> list[str | list[int]]:
    """Parse a prompt, or a list of several."""
    if value is None:
        raise required("prompt")
    several = isinstance(value, list) and value and isinstance(value[0], (str, list))
    if not several:
        return [_prompt(value, "prompt")]
    assert isinstance(value, list)
    return [_prompt(one, f"prompt[{index}]") for index, one in enumerate(value)]


def _prompt(value: object, where: str) -> str | list[int]:
    """Check a prompt."""
    if is_ids(value):
        return value
    if not isinstance(value, str):
        raise wrong(where, value, "a string or a list of token ids")
    return value


class CompletionFormat(OpenAIFormat):
    """The text, in chunks or as a whole.

    Args:
        served: the model.
        options: options of the request.
        prompt: ids of the prompt.
        prompts: all prompts of the request, as it has them.
    """

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(
        self,
        served: Served,
        options: Options,
        prompt: Sequence[int],
        prompts: Sequence[str | list[int]],
    ) -> None:
        super().__init__(served, options)
        self._asked = prompts[options.index // options.count]
        self._prompt = prompt
        self._offset = 0  # characters before the next token

    @cached_property
    def _echo(self) -> str:
        """What the text begins with. Many ids take long to decode, so not before it is needed."""
        tokenizer = self._served.tokenizer
        if not self._options.echo:
            return ""
        if isinstance(self._asked, str):
            return self._asked
        return "" if tokenizer is None else tokenizer.decode(self._prompt)

    def text(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"text": self._echo + "".join(texts)}

    def part(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def first_choice(self) -> dict[str, Any] | None:
        if not self._options.echo:
            return None
        return {**self.part(self._echo), "logprobs": None, "finish_reason": None}

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {
            "tokens": [self._label(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [self._next_offset(token.id) for token in tokens],
        }

    def _top(self, token: Token) -> dict[str, float] | None:
        """Return the likeliest tokens and the token itself; None for the first of a prompt."""
        if token.logprob is None:
            return None
        top = {self._label(one): value for one, value in token.top}
        return {**top, self._label(token.id): token.logprob}

    def _next_offset(self, token: int) -> int:
        """Return where the text of the next token begins. Special tokens have none."""
        offset, tokenizer = self._offset, self._served.tokenizer
        if tokenizer is not None and not tokenizer.is_special(token):
            self._offset += len(self.spell(token)[0])
        return offset

    def _label(self, token: int) -> str:
        """Return the text of an id, which names it in the response.

        An id that is not valid text (part of a character) gets its bytes in OpenAI's notation,
        because all of them would have the same text. Without a tokenizer, the label is the number.
        """
        text, raw = self.spell(token)
        if self._served.tokenizer is None:
            return f"token_id:{token}"
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw) if "\ufffd" in text else text
