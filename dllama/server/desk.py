"""Where requests of all APIs become jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from dllama.server.delivery import Delivery, JobResponse
from dllama.server.dispatcher import Dispatcher
from dllama.server.jobs import Job
from dllama.server.problems import ApiError, shown
from dllama.server.requests import Options
from dllama.server.responses import ResponseFormat
from dllama.server.served import Served
from dllama.server.tool_fields import Tools
from dllama.server.tools.answer import Answer

# Makes the format of a response from the model, the options and the length of the prompt.
MakeFormat = Callable[[Served, Options, int], ResponseFormat]


class MakeChatFormat(Protocol):
    """Makes the format of a message; `answer` finds calls in its text."""

    def __call__(
        self, served: Served, options: Options, prompt: int, answer: Answer | None = None
    ) -> ResponseFormat: ...


@dataclass(frozen=True)
class Conversation:
    """A request for the next message of a conversation, whatever its API.

    Attributes:
        messages: each has "role" and "content", as the chat template gets them.
        options: those of all requests.
        variables: of the chat template.
        tools: functions that may be called; None if there are none.
    """

    messages: list[dict[str, Any]]
    options: Options
    variables: dict[str, Any]
    tools: Tools | None = None


class Desk:
    """Takes parsed requests, queues their jobs, and returns the responses.

    Args:
        served: the model.
        dispatcher: runs the jobs.
    """

    def __init__(self, served: Served, dispatcher: Dispatcher) -> None:
        self.served = served
        self._dispatcher = dispatcher

    async def chat(
        self, request: Request, asked: Conversation, made: MakeChatFormat
    ) -> JobResponse:
        """Generate the next message of a conversation.

        Raises:
            ApiError: 400, 404: the request cannot be answered. 429, 503: not now.
        """
        self.check_model(asked.options.model)
        variables, stops = asked.variables, self.served.chat_stops
        options = replace(asked.options, stop=asked.options.stop + stops.texts)
        format: MakeFormat = made
        if tools := asked.tools:
            form = await run_in_threadpool(self.served.tool_format, tools)
            variables = {**variables, "tools": tools.asked}
            grammar = self.served.tool_grammar(form, tools) if tools.forced else None
            special = self.served.special_ids(form.markers)
            options = replace(options, special=special, grammar=grammar)
            stops = stops._replace(ids=stops.ids + self.served.special_ids(form.ends))
            format = partial(made, answer=Answer(form, tools))
        ids = await run_in_threadpool(self.served.chat_ids, asked.messages, variables)
        return await self._respond(request, ids, options, format, stops.ids)

    async def complete(
        self, request: Request, prompt: str | list[int], options: Options, made: MakeFormat
    ) -> JobResponse:
        """Continue a prompt; errors are those of `chat`."""
        self.check_model(options.model)
        ids = await run_in_threadpool(self.served.prompt_ids, prompt)
        return await self._respond(request, ids, options, made)

    def check_model(self, name: str | None) -> None:
        """Raise ApiError 404 if a request names another model. None means any model."""
        if name is not None and name != self.served.name:
            message = f"the model {shown(name)} does not exist, expected {self.served.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    async def _respond(
        self,
        request: Request,
        ids: list[int],
        options: Options,
        made: MakeFormat,
        stop_ids: Sequence[int] = (),
    ) -> JobResponse:
        """Queue a job and return the response, which is sent while the job runs."""
        grammar = await run_in_threadpool(self.served.grammar, options.grammar)
        delivery = Delivery()
        job = Job(
            prompt=ids,
            max_tokens=self.served.limit(len(ids), options.max_tokens),
            deliver=delivery.put,
            options={
                **self.served.defaults,
                **options.sampling,
                "stop": options.stop,
                "stop_ids": () if options.ignore_eos else stop_ids,
                "ignore_eos": options.ignore_eos,
                "logprobs": options.top,
                "grammar": grammar,
                "special": options.special,
            },
            client=request.client.host if request.client else "",
            moved=delivery.put,
        )
        self._dispatcher.submit(job)
        format = made(self.served, options, len(ids))
        return JobResponse(delivery, format, options.stream, partial(self._dispatcher.cancel, job))
