"""/v1/messages and /v1/messages/count_tokens: Anthropic's API, which coding agents use."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dllama.server.apis.anthropic.format import MessageFormat
from dllama.server.apis.anthropic.request import parse_message
from dllama.server.delivery import JobResponse
from dllama.server.desk import Desk
from dllama.server.http.body import read_json


def routes(desk: Desk) -> list[Route]:
    """Return the paths."""

    async def answer(request: Request) -> JobResponse:
        asked = await read_json(request, parse_message)
        return await desk.chat(request, asked, partial(MessageFormat, asked.options.stop))

    async def count(request: Request) -> Response:
        asked = await read_json(request, partial(parse_message, limited=False))
        return JSONResponse({"input_tokens": await desk.count(request, asked)})

    return [
        Route("/v1/messages", answer, methods=["POST"]),
        Route("/v1/messages/count_tokens", count, methods=["POST"]),
    ]
