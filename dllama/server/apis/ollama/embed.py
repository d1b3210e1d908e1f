"""/api/embed: a vector for each text."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

from dllama.server.apis.ollama.catalogue import listed, named
from dllama.server.fields.json_object import Fields
from dllama.server.queue.exchange import Exchange
from dllama.server.queue.jobs import Done
from dllama.server.served import Served
from dllama.server.vectors import EmbeddingRequest, as_json, check_width, numbers, parse_input


def parse_embed(served: Served, body: object) -> EmbeddingRequest:
    """Parse a body of /api/embed; ApiError 400 if it is wrong."""
    fields = Fields(body)
    texts = parse_input(fields.take("input"))
    check_width(fields, served.facts.width)
    truncate = fields.boolean("truncate", True)
    model = named(fields.text("model"), served)
    fields.ignore(["keep_alive", "options"])  # how a model is loaded
    fields.end()
    return EmbeddingRequest(model, texts, served.pooling, truncate)


def pieces(served: Served, exchange: Exchange, ends: Sequence[Done]) -> Iterator[str]:
    """Yield the parts of the body."""
    yield f'{{"model":{json.dumps(listed(served))},"embeddings":['
    for index, done in enumerate(ends):
        yield ("," if index else "") + as_json(numbers(done))
    duration = int((time.monotonic() - exchange.since) * 1e9)
    tokens = sum(done.prompt for done in ends)
    yield f'],"total_duration":{duration},"load_duration":0,"prompt_eval_count":{tokens}}}'
