"""/v1/completions: a continuation of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from dllama import Token
from dllama.server.apis.openai_format import OpenAIFormat
from dllama.server.body import read_json
from dllama.server.delivery import JobResponse
from dllama.server.desk import Desk
from dllama.server.fields import Fields, required, wrong
from dllama.server.problems import ApiError
from dllama.server.requests import MAX_TEXTS, MAX_TOKENS, MAX_TOP, Options, take_options
from dllama.server.served import Served

DEFAULT_TOKENS = 16  # as in OpenAI's API
MAX_JOBS = 2048  # of a request


def routes(desk: Desk) -> list[Route]:
    """Return the paths."""

    async def answer(request: Request) -> JobResponse:
        parsed = await read_json(request, parse_completion)
        return await desk.complete(request, parsed.prompts, parsed.options, CompletionFormat)

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
    limit = fields.integer("max_tokens", 1, MAX_TOKENS)
    top = fields.integer("logprobs", 0, MAX_TOP)
    count, tries = _counts(fields)
    fields.only("echo", [False])
    fields.only("suffix", [""])
    options = take_options(fields, DEFAULT_TOKENS if limit is None else limit, top, count, tries)
    if len(prompts) * tries > MAX_JOBS:
        message = f"{len(prompts)} prompts with {tries} texts each are more than {MAX_JOBS} texts"
        raise ApiError(400, message, param="prompt", code="invalid_value")
    if options.stream and options.chooses:
        raise ApiError(400, "best_of above n needs stream to be false", param="best_of")
    return CompletionRequest(prompts, options)


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
    if isinstance(value, list) and all(type(token) is int for token in value):
        return value
    if not isinstance(value, str):
        raise wrong(where, value, "a string or a list of token ids")
    return value


class CompletionFormat(OpenAIFormat):
    """The text, in chunks or as a whole."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, served: Served, options: Options, prompt: Sequence[int]) -> None:
        super().__init__(served, options)
        self._offset = 0  # characters sent so far

    def text(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"text": "".join(texts)}

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
