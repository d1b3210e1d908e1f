"""Where requests of all APIs become jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from starlette.requests import Request

from dllama.options import MAX_SEED
from dllama.server.answers import Plan
from dllama.server.delivery import Delivery, JobResponse, Text
from dllama.server.fields.options import Options
from dllama.server.fields.tools import Tools
from dllama.server.http.threads import in_thread
from dllama.server.problems import ApiError, shown
from dllama.server.queue.dispatcher import Dispatcher
from dllama.server.queue.exchange import Exchange
from dllama.server.queue.jobs import Job, Place
from dllama.server.response_format import ResponseFormat
from dllama.server.served import Served
from dllama.server.tools.answer import Answer
from dllama.server.vectors import EmbeddingRequest, Pieces, VectorResponse
from dllama.text.template import Begin

MAX_SCORED = 1 << 20  # log probabilities of the prompts of a request, each some 100 bytes
MAX_SCORED_AT_ONCE = 4 * MAX_SCORED
# Makes the format of a text from the model, the options and the ids of the prompt.
MakeFormat = Callable[[Served, Options, Sequence[int]], ResponseFormat]


class MakeChatFormat(Protocol):
    """Makes the format of a message; `answer` understands its text."""

    def __call__(
        self, served: Served, options: Options, prompt: Sequence[int], answer: Answer
    ) -> ResponseFormat: ...


@dataclass(frozen=True)
class Conversation:
    """A request for the next message of a conversation, whatever its API.

    Attributes:
        messages: each has "role" and "content", as the chat template gets them.
        options: those of all requests.
        variables: of the chat template.
        tools: functions that may be called; None if there are none.
        begin: what comes after the last message.
    """

    messages: list[dict[str, Any]]
    options: Options
    variables: dict[str, Any]
    tools: Tools | None = None
    begin: Begin = Begin.NEXT


class Desk:
    """Takes parsed requests, queues their jobs, and returns the responses.

    Args:
        dispatcher: runs the jobs.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._served: Served | None = None
        self._scored: dict[Exchange, int] = {}  # log probabilities of the prompts of requests

    def open(self, served: Served) -> None:
        """Take requests for a model, which was loaded, from now on."""
        self._served = served

    @property
    def served(self) -> Served:
        """The model; ApiError 503 while it is being loaded."""
        if self._served is None:
            raise self._dispatcher.unavailable()
        return self._served

    async def chat(
        self, request: Request, asked: Conversation, made: MakeChatFormat
    ) -> JobResponse:
        """Generate the next message of a conversation.

        Raises:
            ApiError: 400, 404: the request cannot be answered. 429, 503: not now.
        """
        self.check_model(asked.options.model)
        ids, plan = await in_thread(request, self._planned, asked)
        stops = self.served.chat_stops
        options = replace(
            asked.options,
            stop=asked.options.stop + stops.texts,
            special=plan.special,
            grammar=plan.grammar,
        )

        def format(served: Served, options: Options, prompt: Sequence[int]) -> ResponseFormat:
            return made(served, options, prompt, answer=plan.answer())

        return await self._respond(request, [ids], options, format, stops.ids + plan.ends)

    def _planned(self, asked: Conversation) -> tuple[list[int], Plan]:
        """Return the ids of the prompt and the plan of what follows; ApiError 400."""
        answers, tools = self.served.answers, asked.tools
        variables = asked.variables
        if tools:
            variables = {**variables, "tools": tools.asked}
        text, ids = self.served.chat_prompt(asked.messages, variables, asked.begin)
        return ids, answers.plan(text, tools, asked.options.grammar)

    async def count(self, request: Request, asked: Conversation) -> int:
        """Return how many tokens the prompt of a conversation has; errors are those of `chat`."""
        self.check_model(asked.options.model)
        ids, _ = await in_thread(request, self._planned, asked)
        return len(ids)

    async def embed(
        self, request: Request, asked: EmbeddingRequest, pieces: Pieces
    ) -> VectorResponse:
        """Embed texts; errors are those of `chat`."""
        self.check_model(asked.model)
        delivery = Delivery(len(asked.texts))
        texts = await in_thread(request, self._embedded, asked)
        jobs = [
            Job(
                prompt=ids,
                max_tokens=0,
                deliver=partial(delivery.put, number),
                pooling=asked.pooling,
                client=_client(request),
                request=Exchange.of(request.scope),
            )
            for number, ids in enumerate(texts)
        ]
        self._dispatcher.submit(*jobs)
        return VectorResponse(delivery, partial(self._cancel, jobs), pieces)

    def _embedded(self, asked: EmbeddingRequest) -> list[list[int]]:
        """Return the ids of the texts; ApiError 400 names the one that is wrong."""
        found = []
        for index, text in enumerate(asked.texts):
            try:
                found.append(self.served.prompt_ids(text, asked.truncate))
            except ApiError as error:
                name = f"input[{index}]" if len(asked.texts) > 1 else "input"
                message = f"{name}: {error}"
                raise ApiError(error.status, message, param=name, code=error.code) from None
        return found

    def _cancel(self, jobs: Sequence[Job]) -> None:
        self._scored.pop(jobs[0].request, None)
        for job in jobs:
            self._dispatcher.cancel(job)

    async def complete(
        self, request: Request, prompts: list[str | list[int]], options: Options, made: MakeFormat
    ) -> JobResponse:
        """Continue prompts; errors are those of `chat`."""
        self.check_model(options.model)
        ids = await in_thread(request, lambda: [*map(self.served.prompt_ids, prompts)])
        return await self._respond(request, ids, options, made)

    def check_model(self, name: str | None) -> None:
        """Raise ApiError 404 if a request names another model. None means any model."""
        if name is not None and name != self.served.name:
            message = f"the model {shown(name)} does not exist, expected {self.served.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def _scored_in(self, ids: int, options: Options) -> int:
        """Return how many log probabilities of its prompts a request gets.

        Raises:
            ApiError: 400: they would take too much memory; 429: those of all requests would.
        """
        if not options.echo or options.top is None:
            return 0
        count = ids * options.tries * (1 + options.top)
        if count > MAX_SCORED:
            message = f"{count} log probabilities of prompts are too many, at most {MAX_SCORED}"
            raise ApiError(400, message, param="logprobs", code="invalid_value")
        if sum(self._scored.values()) + count > MAX_SCORED_AT_ONCE:
            message = "other requests get too many log probabilities of prompts, try again later"
            raise ApiError(429, message, param="logprobs", code="queue_full", retry_after=5)
        return count

    async def _respond(
        self,
        request: Request,
        prompts: list[list[int]],
        options: Options,
        made: MakeFormat,
        stop_ids: Sequence[int] = (),
    ) -> JobResponse:
        """Queue the jobs of a request and return its response, which is sent while they run."""
        self.served.check_ids("logit_bias", options.sampling.get("logit_bias", ()))
        self.served.check_ids("stop_token_ids", options.stop_ids)
        arguments = {
            **self._arguments(options, stop_ids),
            "grammar": await in_thread(request, self.served.grammar, options.grammar),
        }
        scored = self._scored_in(sum(map(len, prompts)), options)
        delivery = Delivery(len(prompts) * options.tries)
        exchange = Exchange.of(request.scope)
        jobs = [
            Job(
                prompt=ids,
                max_tokens=self.served.limit(len(ids), options.max_tokens),
                deliver=partial(delivery.put, number),
                options=_numbered(arguments, number % options.tries),
                client=_client(request),
                request=exchange,
                moved=_nobody if number else partial(delivery.put, number),
            )
            for number, ids in enumerate(ids for ids in prompts for _ in range(options.tries))
        ]
        texts = enumerate(ids for ids in prompts for _ in range(options.count))
        formats = [made(self.served, replace(options, index=index), ids) for index, ids in texts]
        self._dispatcher.submit(*jobs)
        self._scored[exchange] = scored
        choose = partial(likeliest, count=options.count, tries=options.tries)
        cancel = partial(self._cancel, jobs)
        return JobResponse(delivery, formats, options.stream, cancel, choose)

    def _arguments(self, options: Options, stop_ids: Sequence[int]) -> dict[str, Any]:
        """Return the arguments of LLM.submit that all texts of a request have."""
        return {
            **self.served.defaults,
            **options.sampling,
            "stop": options.stop,
            "stop_ids": (*options.stop_ids, *(() if options.ignore_eos else stop_ids)),
            "ignore_eos": options.ignore_eos,
            "logprobs": 0 if options.top is None and options.chooses else options.top,
            "prompt_logprobs": options.top if options.echo else None,
            "special": options.special,
        }


def _client(request: Request) -> str:
    """Return the address that identifies a client."""
    return request.client.host if request.client else ""


def _nobody(place: Place) -> None:
    """Tell nobody: a stream has only the places of its first text."""


def _numbered(arguments: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the arguments of LLM.submit for one of several texts, each with a seed of its own."""
    seed = arguments.get("seed")
    return arguments if seed is None else {**arguments, "seed": seed + number & MAX_SEED}


def likeliest(texts: Sequence[Text], count: int, tries: int) -> list[Text]:
    """Return the texts with the highest log probabilities per token, the best first.

    Args:
        texts: `tries` of each prompt, with log probabilities.
        count: how many of each prompt to return; if all, they stay in their order.
    """
    if count == tries:
        return [*texts]
    groups = [texts[first : first + tries] for first in range(0, len(texts), tries)]
    return [one for group in groups for one in sorted(group, key=_mean, reverse=True)[:count]]


def _mean(text: Text) -> float:
    """Return the mean log probability of the tokens of a text."""
    made = [token for token in text.tokens if not token.given]
    values = [token.logprob for token in made if token.logprob is not None]
    return sum(values) / max(1, len(values))
