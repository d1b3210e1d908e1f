"""The HTTP side of the server: bodies, paths, methods, hosts, keys, health and metrics."""

from __future__ import annotations

import json

import pytest
from serving import http, serving, wait_until

PROMPT = "MACBETH:\n"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"prompt": NaN}', 400, "NaN is not allowed"),
        (b"\xff", 400, "not JSON"),
        (b"[]", 400, "the body is [], expected a JSON object"),
        (b" " * (5 << 20), 413, "longer than"),
        (b'{"prompt": [' + b"0, " * (1 << 17), 413, "more than 131072 values"),
        ({"prompt": "hello " * 600_000}, 400, "a text of 3600000 bytes has more than 512 tokens"),
        ({"prompt": ", [" * 200_000}, 400, "a text of 600000 bytes has more than 512 tokens"),
        ({"prompt": "\ud800"}, 400, "not valid Unicode"),
        ({"prompt": "a", "model": "\ud800"}, 400, "not valid Unicode"),
        (b'{"\\uDFFF": 1}', 400, "not valid Unicode"),
        ({"prompt": "a", "model": "\U0001f600"}, 404, "does not exist"),
        ({"prompt": [5, 99999]}, 400, "token id is 99999"),
        ({"prompt": [-1]}, 400, "token id is -1"),
    ],
)
def test_bodies_that_are_wrong(server, body, status, message):
    found, headers, raw = http(f"{server.url}/v1/completions", body)
    error = json.loads(raw)["error"]
    assert (found, error["type"]) == (status, "invalid_request_error")
    assert message in error["message"]
    assert headers["content-type"] == "application/json"


def test_wrong_paths_and_methods(server):
    url = f"{server.url}/v1/completions"
    assert http(f"{server.url}/v1/other")[0] == 404
    status, headers, _ = http(url)
    assert (status, headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_browsers_have_to_declare_json(server, kind):
    """A page of another site can make a browser send the other types without permission."""
    headers = {"content-type": kind}
    asked = f"{server.url}/tokenize", {"prompt": "a"}
    assert http(*asked, **headers)[0] == 200
    for name, value in (("origin", "null"), ("sec-fetch-site", "cross-site")):
        status, _, raw = http(*asked, **headers, **{name: value})
        assert status == 415
        assert "expected 'application/json'" in json.loads(raw)["error"]["message"]


def test_errors_have_the_format_of_the_api(server):
    message = "GET '/v1/messages/a': no such path"
    error = {"type": "not_found_error", "message": message}
    assert json.loads(http(f"{server.url}/v1/messages/a")[2]) == {"type": "error", "error": error}
    assert json.loads(http(f"{server.url}/api/a")[2]) == {"error": "GET '/api/a': no such path"}
    _, _, raw = http(f"{server.url}/api/a", host="attacker.example")
    assert "attacker.example" in json.loads(raw)["error"]


def test_other_names_for_this_machine_are_refused(server):
    assert http(f"{server.url}/v1/models", host="localhost:1")[0] == 200
    assert http(f"{server.url}/v1/models", host="[::1]:1")[0] == 200
    status, _, raw = http(f"{server.url}/v1/models", host="attacker.example")
    assert status == 403
    assert "attacker.example" in json.loads(raw)["error"]["message"]


def test_health_and_metrics(client, server):
    for path in ("/health", "/ready"):
        assert http(server.url + path)[::2] == (200, b'{"status":"ok"}')
    client.completions.create(model="demo", prompt=PROMPT, max_tokens=2)
    status, headers, raw = http(f"{server.url}/metrics")
    lines = dict(line.rsplit(" ", 1) for line in raw.decode().splitlines() if line[0] != "#")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert float(lines["dllama_model_up"]) == 1
    assert float(lines["dllama_generated_tokens_total"]) >= 2
    assert float(lines['dllama_http_requests_total{path="/v1/completions",status="200"}']) >= 1
    assert float(lines["dllama_token_seconds_count"]) >= 1
    http(f"{server.url}/v1/models/a/b")
    http(f"{server.url}/nothing")
    # A response may arrive before it is counted.
    wait_until(lambda: 'path="other",status="404"' in server.metrics.text().decode())
    counted = server.metrics.text().decode()
    assert 'dllama_http_requests_total{path="/v1/models/{name}",status="404"} 1.0' in counted


def test_api_key():
    with serving(key="gehé1m".encode()) as server:
        for given in ("none", "gehé1", "gehé1mm"):
            status, headers, raw = http(
                f"{server.url}/v1/models", authorization=f"Bearer {given}".encode().decode("latin1")
            )
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert json.loads(raw)["error"]["code"] == "invalid_api_key"
        right = "gehé1m".encode().decode("latin1")
        assert http(f"{server.url}/metrics")[0] == 401
        assert http(f"{server.url}/v1/models", authorization=f"Basic {right}")[0] == 401
        assert http(f"{server.url}/v1/models", authorization=f"Bearer {right}")[0] == 200
        assert http(f"{server.url}/health", host="elsewhere.example")[0] == 200
        assert http(f"{server.url}/")[0] == 200
