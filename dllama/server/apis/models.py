"""/v1/models: which model is served."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dllama.server.desk import Desk


def routes(desk: Desk) -> list[Route]:
    """Return the paths."""

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [desk.served.as_json()]})

    async def model(request: Request) -> Response:
        desk.check_model(request.path_params["name"])
        return JSONResponse(desk.served.as_json())

    return [Route("/v1/models", models), Route("/v1/models/{name:path}", model)]
