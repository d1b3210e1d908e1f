"""The HTTP application: what each path does."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dllama.server.apis import (
    anthropic,
    chat,
    completions,
    embeddings,
    models,
    ollama,
    responses,
    tokens,
)
from dllama.server.desk import Desk
from dllama.server.http import page
from dllama.server.http.access_log import AccessLog
from dllama.server.http.connection import OneLength
from dllama.server.http.cors import cors
from dllama.server.http.errors import error_response
from dllama.server.http.guard import Access, Guard
from dllama.server.http.threads import turns
from dllama.server.problems import ApiError, shown
from dllama.server.queue.dispatcher import RETRY_AFTER, Dispatcher
from dllama.server.queue.metrics import CONTENT_TYPE, Metrics
from dllama.server.queue.status import State

APIS = (chat, completions, embeddings, models, tokens, responses, anthropic, ollama)


def make_app(desk: Desk, dispatcher: Dispatcher, metrics: Metrics, access: Access) -> Starlette:
    """Create the application.

    Args:
        desk: takes the requests of all APIs.
        dispatcher: runs their jobs.
        metrics: are served, too.
        access: who may ask.
    """
    own = Pages(dispatcher, metrics, access)
    routes = [
        *page.routes(),
        Route("/live", own.live),
        Route("/ready", own.ready),
        Route("/health", own.ready),
        Route("/metrics", own.metrics),
        Route("/cluster", own.cluster),
        *(route for api in APIS for route in api.routes(desk)),
    ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(AccessLog, metrics=metrics, routes=routes),
            Middleware(OneLength),
            *cors(access),
            Middleware(Guard, access=access),
        ],
        exception_handlers={
            ApiError: _report_api_error,
            HTTPException: _report_http_error,
            Exception: _report_fault,
        },
    )
    app.state.turns = turns()
    app.state.long_json = turns()
    return app


class Pages:
    """The handlers of the paths that belong to no API."""

    def __init__(self, dispatcher: Dispatcher, metrics: Metrics, access: Access) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._access = access

    async def live(self, request: Request) -> Response:
        """Report that the process is there, whatever the model does."""
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Report whether the server can handle requests now, or else what it waits for."""
        status = self._dispatcher.status
        body = status.as_json(details=self._access.has_key(request.headers))
        if body["status"] == State.READY.value:
            return JSONResponse(body)
        return JSONResponse(body, 503, {"retry-after": str(RETRY_AFTER)})

    async def cluster(self, request: Request) -> Response:
        """Report what the nodes do."""
        return JSONResponse(self._dispatcher.cluster())

    async def metrics(self, request: Request) -> Response:
        """Serve metrics in Prometheus' format."""
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})


async def _report_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(request.scope, error)


async def _report_http_error(request: Request, error: Exception) -> Response:
    """Put Starlette's errors into the format of the API."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {shown(request.url.path)}"
    message = {404: f"{where}: no such path", 405: f"{where}: method not allowed"}
    reported = ApiError(error.status_code, message.get(error.status_code, error.detail))
    response = error_response(request.scope, reported)
    response.headers.update(error.headers or {})
    return response


async def _report_fault(request: Request, error: Exception) -> Response:
    """Hide the details of an unexpected error; the log has them."""
    failed = ApiError(500, "the server failed on this request; see its log")
    return error_response(request.scope, failed)
