"""/tokenize and /detokenize: the ids of a text or a conversation, and back, as in vLLM.

What llama.cpp calls `content` and `add_special` is understood, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dllama.server.desk import Desk
from dllama.server.fields.json_object import Fields, is_ids, wrong
from dllama.server.fields.messages import parse_messages
from dllama.server.fields.template import take_begin, take_variables
from dllama.server.fields.tools import take_tools
from dllama.server.http.body import read_json
from dllama.server.http.long_json import LongJson
from dllama.server.http.threads import in_thread
from dllama.server.problems import ApiError
from dllama.server.served import Served


def routes(desk: Desk) -> list[Route]:
    """Return the paths."""

    async def tokenize(request: Request) -> LongJson:
        fields = await read_json(request, Fields)
        desk.check_model(fields.text("model"))
        named = fields.boolean("return_token_strs")
        encode = _conversation(fields) if "messages" in fields else _text(fields)
        fields.end()
        ids = await in_thread(request, encode, desk.served)
        return LongJson(len(ids), partial(_answer, desk.served, ids, named))

    async def detokenize(request: Request) -> Response:
        fields = await read_json(request, Fields)
        desk.check_model(fields.text("model"))
        ids = fields.given("tokens")
        fields.end()
        if not is_ids(ids):
            raise wrong("tokens", ids, "a list of token ids")
        text = await in_thread(request, desk.served.text_of, ids)
        return JSONResponse({"prompt": text, "content": text})

    return [
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
    ]


def _text(fields: Fields) -> Callable[[Served], list[int]]:
    """Take what stands for a text; the result encodes it."""
    if "content" in fields and "prompt" in fields:
        raise ApiError(400, "prompt and content: only one of the two can be given", param="content")
    old = "content" in fields
    text = fields.given_text("content" if old else "prompt")
    name = "add_special" if old else "add_special_tokens"
    special = fields.boolean(name, not old)
    fields.only("parse_special", [True])
    return lambda served: served.text_ids(text, special)


def _conversation(fields: Fields) -> Callable[[Served], list[int]]:
    """Take what stands for a conversation; the result encodes it."""
    messages = parse_messages(fields.take("messages"))
    variables = take_variables(fields, fields.text("reasoning_effort"))
    if tools := take_tools(fields):
        variables = {**variables, "tools": tools.asked}
    begin = take_begin(fields, messages)
    fields.only("add_special_tokens", [False], ": the chat template writes them")
    return lambda served: served.rendered(messages, variables, begin)[1]


def _answer(served: Served, ids: list[int], named: bool) -> dict[str, Any]:
    assert served.tokenizer is not None
    names = [served.tokenizer.name(token) for token in ids] if named else None
    return {
        "tokens": ids,
        "count": len(ids),
        "max_model_len": served.seq_len,
        "token_strs": names,
    }
