"""Ollama's API: /api/chat, /api/generate, /api/embed, and what its clients ask about models."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dllama.server.apis.ollama.catalogue import VERSION, described, named, running, tags
from dllama.server.apis.ollama.embed import parse_embed, pieces
from dllama.server.apis.ollama.format import (
    ChatFormat,
    GenerateFormat,
    OllamaFormat,
    RawFormat,
    loaded,
)
from dllama.server.apis.ollama.request import OllamaRequest, parse_chat, parse_generate, parse_show
from dllama.server.desk import Desk
from dllama.server.http.body import read_json
from dllama.server.queue.exchange import Exchange


def routes(desk: Desk) -> list[Route]:
    """Return the paths."""

    async def chat(request: Request) -> ASGIApp:
        return await answer(request, await read_json(request, parse_chat), ChatFormat)

    async def generate(request: Request) -> ASGIApp:
        return await answer(request, await read_json(request, parse_generate), GenerateFormat)

    async def answer(request: Request, asked: OllamaRequest, kind: type[OllamaFormat]) -> ASGIApp:
        options = asked.conversation.options
        options = replace(options, model=named(options.model, desk.served))
        if not asked.raw and not asked.conversation.messages:
            desk.check_model(options.model)
            return JSONResponse(loaded(kind, desk.served))
        exchange = Exchange.of(request.scope)
        if asked.raw:
            raw = partial(RawFormat, exchange)
            return await desk.complete(request, [asked.raw], options, raw)
        conversation = replace(asked.conversation, options=options)
        return await desk.chat(request, conversation, partial(kind, exchange))

    async def embed(request: Request) -> ASGIApp:
        served, exchange = desk.served, Exchange.of(request.scope)
        asked = await read_json(request, partial(parse_embed, served))
        return await desk.embed(request, asked, partial(pieces, served, exchange))

    async def show(request: Request) -> Response:
        desk.check_model(named(await read_json(request, parse_show), desk.served))
        return JSONResponse(described(desk.served))

    async def list_all(request: Request) -> Response:
        return JSONResponse({"models": [tags(desk.served)]})

    async def list_running(request: Request) -> Response:
        return JSONResponse({"models": [running(desk.served)]})

    async def version(request: Request) -> Response:
        return JSONResponse({"version": VERSION})

    return [
        Route("/api/chat", chat, methods=["POST"]),
        Route("/api/generate", generate, methods=["POST"]),
        Route("/api/embed", embed, methods=["POST"]),
        Route("/api/show", show, methods=["POST"]),
        Route("/api/tags", list_all),
        Route("/api/ps", list_running),
        Route("/api/version", version),
    ]
