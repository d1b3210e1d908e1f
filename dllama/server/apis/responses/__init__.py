"""/v1/responses: OpenAI's newer API of the next message of a conversation."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.routing import Route

from dllama.server.apis.responses.format import ResponseObject
from dllama.server.apis.responses.request import parse_response
from dllama.server.apis.responses.store import Store
from dllama.server.delivery import JobResponse
from dllama.server.desk import Desk
from dllama.server.http.body import read_json


def routes(desk: Desk) -> list[Route]:
    """Return the paths."""
    store = Store()

    async def answer(request: Request) -> JobResponse:
        asked = await read_json(request, partial(parse_response, store=store))
        return await desk.chat(request, asked.conversation, partial(ResponseObject, asked, store))

    return [Route("/v1/responses", answer, methods=["POST"])]
