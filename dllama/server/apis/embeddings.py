"""/v1/embeddings: a vector for each text."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from functools import partial

from starlette.requests import Request
from starlette.routing import Route

from dllama.options import POOLING
from dllama.server.desk import Desk
from dllama.server.fields.json_object import Fields
from dllama.server.fields.options import IGNORED
from dllama.server.http.body import read_json
from dllama.server.queue.jobs import Done
from dllama.server.response_format import compact
from dllama.server.served import Served
from dllama.server.vectors import (
    EmbeddingRequest,
    VectorResponse,
    as_json,
    check_width,
    numbers,
    parse_input,
)

ENCODINGS = ("float", "base64")


def routes(desk: Desk) -> list[Route]:
    """Return the paths."""

    async def embed(request: Request) -> VectorResponse:
        served = desk.served
        asked, encoding = await read_json(request, partial(parse_embeddings, served))
        return await desk.embed(request, asked, partial(_pieces, served, encoding))

    return [Route("/v1/embeddings", embed, methods=["POST"])]


def parse_embeddings(served: Served, body: object) -> tuple[EmbeddingRequest, str]:
    """Parse a body; ApiError 400 if it is wrong.

    Returns:
        What is asked for, and how vectors are encoded.
    """
    fields = Fields(body)
    texts = parse_input(fields.take("input"))
    encoding = fields.word("encoding_format", ENCODINGS, "float")
    pooling = fields.word("pooling", POOLING.choices or (), served.pooling)
    check_width(fields, served.facts.width)
    asked = EmbeddingRequest(fields.text("model"), texts, pooling)
    fields.ignore(IGNORED)
    fields.end()
    return asked, encoding


def _pieces(served: Served, encoding: str, ends: Sequence[Done]) -> Iterator[str]:
    """Yield the parts of the body."""
    yield '{"object":"list","data":['
    for index, done in enumerate(ends):
        vector = numbers(done)
        value = as_json(vector) if encoding == "float" else _base64(vector.astype("<f4").tobytes())
        start = "," if index else ""
        yield f'{start}{{"object":"embedding","index":{index},"embedding":{value}}}'
    tokens = sum(done.prompt for done in ends)
    usage = compact({"prompt_tokens": tokens, "total_tokens": tokens})
    yield f'],"model":{json.dumps(served.name)},"usage":{usage}}}'


def _base64(raw: bytes) -> str:
    return f'"{b64encode(raw).decode()}"'
