"""/v1/models: which model is served, as clients of OpenAI, vLLM and Anthropic read it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dllama.server.desk import Desk
from dllama.server.served import Served


def routes(desk: Desk) -> list[Route]:
    """Return the paths."""

    async def models(request: Request) -> Response:
        name = desk.served.name
        pages = {"first_id": name, "last_id": name, "has_more": False}  # of Anthropic's list
        return JSONResponse({"object": "list", "data": [_entry(desk.served)], **pages})

    async def model(request: Request) -> Response:
        desk.check_model(request.path_params["name"])
        return JSONResponse(_entry(desk.served))

    return [Route("/v1/models", models), Route("/v1/models/{name:path}", model)]


def _entry(served: Served) -> dict[str, Any]:
    """Return the object of a model. Those of the APIs share the id, and no other names."""
    openai = {"object": "model", "created": served.created, "owned_by": "dllama"}
    lengths = {"context_length": served.seq_len, "max_model_len": served.seq_len}
    made = datetime.fromtimestamp(served.created, timezone.utc).isoformat()
    anthropic = {"type": "model", "display_name": served.name, "created_at": made}
    return {"id": served.name, **openai, **lengths, **anthropic}
