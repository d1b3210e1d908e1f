"""Who may use the server: keys, hosts, and web pages of other origins."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dllama.server.http.cors import cors
from dllama.server.http.guard import Access, Guard
from dllama.server.problems import ApiError

KEY = "gehé1m".encode()
SENT = KEY.decode("latin-1")
ORIGIN = "https://chat.example"


def headers(**given):
    fields = {name.replace("_", "-"): value for name, value in given.items()}
    return Headers(raw=[(k.encode(), v.encode("latin-1")) for k, v in fields.items()])


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ({"authorization": f"Bearer {SENT}"}, True),
        ({"authorization": f"bearer {SENT} "}, True),
        ({"x_api_key": SENT}, True),
        ({"api_key": SENT}, True),
        ({"api_key": "other", "x_api_key": SENT}, True),
        ({"authorization": f"Basic {SENT}"}, False),
        ({"authorization": SENT}, False),
        ({"x_api_key": f"Bearer {SENT}"}, False),
        ({"api_key": ""}, False),
        ({"x_key": SENT}, False),
        ({}, False),
    ],
)
def test_where_a_key_may_be(given, right):
    access = Access(KEY, local=False)
    assert access.has_key(headers(**given)) is right
    for path in ("/", "/live", "/ready", "/health"):
        access.check(path, headers())
    if right:
        access.check("/metrics", headers(**given))
    else:
        with pytest.raises(ApiError, match="the API key is missing or wrong"):
            access.check("/metrics", headers(**given))


def ask(access, method="GET", path="/v1/models", **given):
    """Return status, headers and body of the answer of a guarded application."""
    fields = [(b"host", b"localhost"), *headers(**given).raw]
    scope = {
        "type": "http", "method": method, "path": path, "headers": fields, "query_string": b"",
    }  # fmt: skip
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    route = Route("/v1/models", lambda request: PlainTextResponse("here"))
    app = Starlette(routes=[route])
    made = Guard(app, access)
    for one in cors(access):
        made = one.cls(made, **one.kwargs)
    asyncio.run(made(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(one["body"] for one in sent[1:])


PREFLIGHT = {
    "origin": ORIGIN,
    "access_control_request_method": "POST",
    "access_control_request_headers": "authorization, content-type",
}


def test_pages_of_other_origins_that_may_use_it():
    """A preflight has no key; browsers let a page see why it is refused."""
    access = Access(KEY, True, (ORIGIN,))
    status, found, _ = ask(access, "OPTIONS", **PREFLIGHT)
    assert (status, found["access-control-allow-origin"]) == (200, ORIGIN)
    assert found["access-control-allow-headers"] == "authorization, content-type"
    assert "POST" in found["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in found
    status, found, body = ask(access, origin=ORIGIN)
    assert (status, found["access-control-allow-origin"]) == (401, ORIGIN)
    assert json.loads(body)["error"]["code"] == "invalid_api_key"
    status, found, body = ask(access, origin=ORIGIN, x_api_key=SENT)
    assert (status, body, found["access-control-allow-origin"]) == (200, b"here", ORIGIN)
    assert ask(Access(None, True, ("*",)), origin=ORIGIN)[1]["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("origins", "status", "code"),
    [((), 401, "invalid_api_key"), (("https://other.example",), 403, "foreign_origin")],
)
def test_pages_of_other_origins_that_may_not(origins, status, code):
    access = Access(KEY, True, origins)
    refused, found, body = ask(access, "OPTIONS", **PREFLIGHT)
    assert (refused, json.loads(body)["error"]["code"]) == (status, code)
    assert "access-control-allow-origin" not in found
    assert "access-control-allow-origin" not in ask(access, origin=ORIGIN, api_key=SENT)[1]
