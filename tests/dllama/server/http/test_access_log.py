"""What the log says of a request, and that nobody else can write lines of it."""

from __future__ import annotations

import asyncio
import logging
import re
import sys

import pytest
from serving import LIMIT, http, wait_until

from dllama.cli import LineFormatter
from dllama.server.apis.completions import CompletionFormat
from dllama.server.delivery import Delivery, JobResponse
from dllama.server.fields.options import Options
from dllama.server.http.access_log import line
from dllama.server.problems import ApiError
from dllama.server.queue.exchange import Exchange
from dllama.server.served import Served

OPTIONS = Options(None, None, {}, (), False, True, False, None)
SCOPE = {"method": "POST", "path": "/v1/completions", "client": ("10.0.0.9", 4711)}


class Text:
    """A text, as far as an exchange looks at it."""

    def __init__(self, prompt, cached):
        self.prompt, self.cached = prompt, cached


def test_what_an_answer_took():
    exchange = Exchange(since=100.0)
    assert line(SCOPE, 499, exchange, 100.5) == "10.0.0.9 POST /v1/completions 499 in 0.50 s"
    exchange.begin(101.0)
    exchange.read(Text(12, 8))
    for at in (102.0, 102.5, 103.0):
        exchange.take(at)
    assert line(SCOPE, 200, exchange, 103.2) == (
        "10.0.0.9 POST /v1/completions 200 in 3.20 s, 12 prompt tokens (8 cached), 3 generated, "
        "queue 1.00 s, first token 2.00 s, 2.0 tokens/s"
    )


def test_several_texts_of_a_request_count_together():
    exchange = Exchange(since=0.0)
    for at in (1.0, 2.0):
        exchange.begin(at)
        exchange.read(Text(5, 1))
        exchange.take(at + 1.0)
    assert (exchange.prompt, exchange.cached, exchange.generated) == (10, 2, 2)
    assert (exchange.begun, exchange.first, exchange.last) == (1.0, 2.0, 3.0)


def test_a_stream_that_ends_by_an_error_says_why():
    async def respond():
        scope, sent = {**SCOPE, "type": "http"}, []

        async def receive():
            await asyncio.sleep(LIMIT)

        async def send(message):
            sent.append(message.get("body", b""))

        delivery = Delivery()
        delivery.put(0, ApiError(503, "a worker is lost"))
        formats = [CompletionFormat(Served("m", 0, 1, 1, None, None), OPTIONS, [1], [[1]])]
        await JobResponse(delivery, formats, True, lambda: None, list)(scope, receive, send)
        return line(scope, 200, Exchange.of(scope), 0.0), b"".join(sent)

    found, sent = asyncio.run(respond())
    assert found.endswith(" s: a worker is lost")
    assert b"a worker is lost" in sent


def test_why_a_request_was_refused():
    exchange = Exchange(since=0.0)
    exchange.error = ApiError(400, "top_p is 3", param="top_p", code="invalid_value")
    assert line({**SCOPE, "client": None}, 400, exchange, 0.1) == (
        "- POST /v1/completions 400 in 0.10 s: top_p is 3 (field top_p, code invalid_value)"
    )


def test_clients_cannot_write_lines_of_their_own():
    exchange = Exchange(since=0.0)
    exchange.error = ApiError(400, "a\r\ndllama: INFO: \x1b[2J\u2028\u202eb" + "c" * 9999)
    scope = {**SCOPE, "raw_path": b"/\xc2\x85\xa0%0a" + b"p" * 9999}
    found = line(scope, 404, exchange, 0.0)
    assert found.isprintable()
    assert "/\xc2\\x85\\xa0%0app" in found
    assert r"a\r\ndllama: INFO: \x1b[2J\u2028\u202eb" in found
    assert len(found) < 1000


def test_every_line_of_the_log_is_marked():
    try:
        raise ValueError("b\ndllama: INFO: c\x1b")
    except ValueError:
        record = logging.LogRecord("", logging.INFO, "", 0, "a\n%s", ("b\x07",), sys.exc_info())
    first, *others = LineFormatter("dllama: %(levelname)s: %(message)s").format(record).split("\n")
    assert first == "dllama: INFO: a\\nb\\x07"
    assert all(other.startswith("  | ") and other.isprintable() for other in others)


@pytest.mark.parametrize("stream", [False, True])
def test_requests_are_logged_when_they_end(server, caplog, stream):
    caplog.set_level(logging.INFO, "dllama.server")
    body = {"prompt": "MACBETH:\n", "max_tokens": 3, "stream": stream, "ignore_eos": True}
    assert http(f"{server.url}/v1/completions", body)[0] == 200
    wait_until(lambda: "200 in" in caplog.text)
    assert re.search(
        r"127\.0\.0\.1 POST /v1/completions 200 in \d+\.\d\d s, 4 prompt tokens \(\d cached\), "
        r"3 generated, queue \d\.\d\d s, first token \d\.\d\d s, \d+\.\d tokens/s\n",
        caplog.text,
    )
    assert http(f"{server.url}/v1/completions", {**body, "top_k": "\n"})[0] == 400
    wait_until(lambda: "400 in" in caplog.text)
    assert r"s: top_k is '\n', expected an integer" in caplog.text
    assert "(field top_k, code invalid_value)" in caplog.text
