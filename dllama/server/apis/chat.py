"""/v1/chat/completions: the next message of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from dllama import Token
from dllama.server.apis.openai_format import OpenAIFormat
from dllama.server.delivery import JobResponse
from dllama.server.desk import Conversation, Desk
from dllama.server.fields.json_object import Fields, wrong
from dllama.server.fields.messages import parse_messages
from dllama.server.fields.options import MAX_TEXTS, MAX_TOKENS, MAX_TOP, Options, take_options
from dllama.server.fields.template import take_begin, take_variables
from dllama.server.fields.tools import take_tools
from dllama.server.http.body import read_json
from dllama.server.problems import ApiError
from dllama.server.queue.jobs import Done
from dllama.server.served import Served
from dllama.server.tools.answer import Answer
from dllama.text.stream import End


def routes(desk: Desk) -> list[Route]:
    """Return the paths."""

    async def answer(request: Request) -> JobResponse:
        return await desk.chat(request, await read_json(request, parse_chat), ChatFormat)

    return [Route("/v1/chat/completions", answer, methods=["POST"])]


def parse_chat(body: object) -> Conversation:
    """Parse a body; ApiError 400 if it is wrong."""
    fields = Fields(body)
    messages = parse_messages(fields.take("messages"))
    variables = take_variables(fields, fields.text("reasoning_effort"))
    begin = take_begin(fields, messages)
    limit = _limit(fields)
    wants = fields.boolean("logprobs")
    top = fields.integer("top_logprobs", 0, MAX_TOP)
    if top is not None and not wants:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    fields.only("modalities", [["text"]])
    for name in ("echo", "add_special_tokens"):
        fields.only(name, [False])
    fields.only("functions", [[]], ": use tools instead")
    fields.only("function_call", ["none", "auto"], ": use tool_choice instead")
    tools = take_tools(fields)
    count = fields.integer("n", 1, MAX_TEXTS) or 1
    options = take_options(fields, limit, (top or 0) if wants else None, count, tries=count)
    return Conversation(messages, options, variables, tools, begin)


def _limit(fields: Fields) -> int | None:
    """Take the limit of tokens, which has a new and an old name."""
    names = ("max_completion_tokens", "max_tokens")
    limit, old = (fields.integer(name, 1, MAX_TOKENS) for name in names)
    if limit is not None and old not in (None, limit):
        raise wrong(names[1], old, f"as much as {names[0]}, which is {limit}")
    return old if limit is None else limit


class ChatFormat(OpenAIFormat):
    """The message, in chunks or as a whole.

    Args:
        served: the model.
        options: options of the request.
        prompt: ids of the prompt.
        answer: understands the text.
    """

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self, served: Served, options: Options, prompt: Sequence[int], answer: Answer
    ) -> None:
        super().__init__(served, options)
        self._answer = answer

    def text(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"message": {"role": "assistant", "refusal": None, **self._answer.whole(texts)}}

    def part(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def parts(self, text: str) -> list[dict[str, Any]]:
        return [{"delta": delta} for delta in self._answer.push(text)]

    def last_parts(self) -> list[dict[str, Any]]:
        return [{"delta": delta} for delta in self._answer.end()]

    def reason(self, done: Done) -> str:
        return "tool_calls" if self._answer.called and done.reason == "stop" else done.reason

    def usage(self, ends: Sequence[Done]) -> dict[str, Any]:
        details = {"reasoning_tokens": self._answer.tally.reasoning}
        return {**super().usage(ends), "completion_tokens_details": details}

    def first_choice(self) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"delta": delta, "logprobs": None, "finish_reason": None}

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        content = []
        for token in tokens:
            if token.end is End.EOS:
                continue
            top = [self._entry(*pair) for pair in token.top]
            content.append({**self._entry(token.id, token.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        text, raw = self.spell(token)
        return {"token": text, "logprob": logprob, "bytes": raw}
