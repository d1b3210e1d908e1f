"""The HTTP application: what each path does."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from importlib.resources import files

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dllama.server.body import read_json
from dllama.server.delivery import Delivery, JobResponse
from dllama.server.dispatcher import Dispatcher
from dllama.server.guard import Guard, error_response
from dllama.server.jobs import Job, State
from dllama.server.metrics import CONTENT_TYPE, Metrics
from dllama.server.problems import ApiError, shown
from dllama.server.requests import Options, parse_chat, parse_completion
from dllama.server.responses import ChatFormat, CompletionFormat, ResponseFormat
from dllama.server.served import Served
from dllama.server.tools.answer import Answer

# Makes the format of a response from the model, the options and the length of the prompt.
MakeFormat = Callable[[Served, Options, int], ResponseFormat]


def make_app(
    served: Served, dispatcher: Dispatcher, metrics: Metrics, key: bytes | None, local: bool
) -> Starlette:
    """Create the application; see Guard for `key` and `local`."""
    api = Api(served, dispatcher, metrics)
    return Starlette(
        routes=[
            Route("/", api.page),
            Route("/health", api.health),
            Route("/metrics", api.metrics),
            Route("/v1/models", api.models),
            Route("/v1/models/{name:path}", api.model),
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
            Route("/v1/completions", api.complete, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, key=key, local=local, metrics=metrics)],
        exception_handlers={
            ApiError: _report_api_error,
            HTTPException: _report_http_error,
            Exception: _report_fault,
        },
    )


class Api:
    """The handlers of the paths."""

    def __init__(self, served: Served, dispatcher: Dispatcher, metrics: Metrics) -> None:
        self._served = served
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._page = _Page()

    async def page(self, request: Request) -> Response:
        """Serve the chat page."""
        return HTMLResponse(self._page.text, headers=self._page.headers)

    async def health(self, request: Request) -> Response:
        """Report whether the server can handle requests now."""
        state = self._dispatcher.state
        body = {"status": state.value}
        if state is State.READY:
            return JSONResponse(body)
        return JSONResponse(body, 503, {"retry-after": "2"})

    async def metrics(self, request: Request) -> Response:
        """Serve metrics in Prometheus' format."""
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def models(self, request: Request) -> Response:
        """List the model."""
        return JSONResponse({"object": "list", "data": [self._served.as_json()]})

    async def model(self, request: Request) -> Response:
        """Describe the model."""
        self._check_model(request.path_params["name"])
        return JSONResponse(self._served.as_json())

    async def chat(self, request: Request) -> JobResponse:
        """Generate the next message of a conversation."""
        parsed = parse_chat(await read_json(request))
        self._check_model(parsed.options.model)
        variables, stops = parsed.variables, self._served.chat_stops
        options = replace(parsed.options, stop=parsed.options.stop + stops.texts)
        made: MakeFormat = ChatFormat
        if tools := parsed.tools:
            form = await run_in_threadpool(self._served.tool_format, tools)
            variables = {**variables, "tools": tools.asked}
            grammar = self._served.tool_grammar(form, tools) if tools.forced else None
            special = self._served.special_ids(form.markers)
            options = replace(options, special=special, grammar=grammar)
            stops = stops._replace(ids=stops.ids + self._served.special_ids(form.ends))
            made = partial(ChatFormat, answer=Answer(form, tools))
        ids = await run_in_threadpool(self._served.chat_ids, parsed.messages, variables)
        return await self._respond(request, ids, options, made, stops.ids)

    async def complete(self, request: Request) -> JobResponse:
        """Continue a prompt."""
        parsed = parse_completion(await read_json(request))
        self._check_model(parsed.options.model)
        ids = await run_in_threadpool(self._served.prompt_ids, parsed.prompt)
        return await self._respond(request, ids, parsed.options, CompletionFormat)

    async def _respond(
        self,
        request: Request,
        ids: list[int],
        options: Options,
        format: MakeFormat,
        stop_ids: Sequence[int] = (),
    ) -> JobResponse:
        """Queue a job and return the response, which is sent while the job runs."""
        grammar = await run_in_threadpool(self._served.grammar, options.grammar)
        delivery = Delivery()
        job = Job(
            prompt=ids,
            max_tokens=self._served.limit(len(ids), options.max_tokens),
            deliver=delivery.put,
            options={
                **self._served.defaults,
                **options.sampling,
                "stop": options.stop,
                "stop_ids": () if options.ignore_eos else stop_ids,
                "ignore_eos": options.ignore_eos,
                "logprobs": options.top,
                "grammar": grammar,
                "special": options.special,
            },
            client=request.client.host if request.client else "",
        )
        self._dispatcher.submit(job)
        made = format(self._served, options, len(ids))
        return JobResponse(delivery, made, options.stream, partial(self._dispatcher.cancel, job))

    def _check_model(self, name: str | None) -> None:
        """Raise ApiError 404 if the request names another model. None means any model."""
        if name is not None and name != self._served.name:
            message = f"the model {shown(name)} does not exist, expected {self._served.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")


class _Page:
    """The chat page. It may run only its own script and talk only to this server."""

    def __init__(self) -> None:
        self.text = files("dllama.server").joinpath("page.html").read_text(encoding="utf-8")
        script = self.text.partition("<script>")[2].partition("</script>")[0]
        digest = b64encode(sha256(script.encode()).digest()).decode()
        rules = (
            "default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'",
            "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'",
            "frame-ancestors 'none'",
        )  # fmt: skip
        self.headers = {
            "content-security-policy": "; ".join(rules),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }


async def _report_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _report_http_error(request: Request, error: Exception) -> Response:
    """Put Starlette's errors into OpenAI's format."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {shown(request.url.path)}"
    message = {404: f"{where}: no such path", 405: f"{where}: method not allowed"}
    response = error_response(
        ApiError(error.status_code, message.get(error.status_code, error.detail))
    )
    response.headers.update(error.headers or {})
    return response


async def _report_fault(request: Request, error: Exception) -> Response:
    """Hide the details of an unexpected error; the log has them."""
    return error_response(ApiError(500, "the server failed on this request; see its log"))
