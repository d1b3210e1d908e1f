"""Bodies with a wrong value anywhere are parsed or refused by an ApiError, never by a fault."""

from __future__ import annotations

from functools import partial

import pytest
from bodies import CHAT, EMBED, MESSAGE, PROMPT, RESPONSE, VECTORS
from mutations import changed, places

from dllama import TemplateError
from dllama.server.apis.anthropic.request import parse_message
from dllama.server.apis.embeddings import parse_embeddings
from dllama.server.apis.ollama.embed import parse_embed
from dllama.server.apis.ollama.request import parse_chat, parse_generate
from dllama.server.apis.responses.request import parse_response
from dllama.server.apis.responses.store import Store
from dllama.server.facts import Facts
from dllama.server.problems import ApiError
from dllama.server.served import Served

SERVED = Served("m", 0, 9, 9, None, TemplateError("none"), facts=Facts(width=4))
WRONG = [None, True, -1, 10**400, "\ud800", [], {}, [None], {"type": ["a"]}, {"type": "text"}]


def refusal(parse, body):
    """The error of a body; None if it is right."""
    try:
        parse(body)
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("parse", "body"),
    [(partial(parse_response, store=Store()), RESPONSE), (parse_message, MESSAGE),
     (parse_chat, CHAT), (parse_generate, PROMPT), (partial(parse_embeddings, SERVED), VECTORS),
     (partial(parse_embed, SERVED), EMBED)],
    ids=["responses", "messages", "chat", "generate", "embeddings", "embed"],
)  # fmt: skip
def test_wrong_values_anywhere(parse, body):
    assert refusal(parse, body) is None
    bodies = [changed(body, place, value) for place in places(body) for value in WRONG]
    errors = [error for one in bodies if (error := refusal(parse, one))]
    assert {error.status for error in errors} == {400}
    assert len(errors) > len(bodies) / 3
    "".join(map(str, errors)).encode()
