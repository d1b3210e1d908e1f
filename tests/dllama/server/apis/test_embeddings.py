"""Embeddings as the clients of OpenAI and Ollama see them."""

from __future__ import annotations

import json

import numpy as np
import ollama
import openai
import pytest
from serving import LIMIT, http, wait_until

import dllama

TEXTS = ["MACBETH:\n", "So foul and fair a day I have not seen.", "Hail!"]


@pytest.fixture(scope="module")
def vectors():
    """What LLM.embed gives, by pooling."""
    with dllama.LLM(threads=1) as llm:
        return {pooling: llm.embed(TEXTS, pooling) for pooling in ("mean", "last")}


def ask(server, path="v1/embeddings", **body):
    status, _, raw = http(f"{server.url}/{path}", body)
    return status, json.loads(raw)


def test_openai(client, vectors):
    """The client asks for base64 unless it is told otherwise."""
    found = client.embeddings.create(model="demo", input=TEXTS)
    assert [one.index for one in found.data] == [0, 1, 2]
    np.testing.assert_array_equal([one.embedding for one in found.data], vectors["mean"])
    assert (found.model, found.object, found.data[0].object) == ("demo", "list", "embedding")
    numbers = client.embeddings.create(model="demo", input=TEXTS, encoding_format="float")
    floats = np.float32([one.embedding for one in numbers.data])
    np.testing.assert_array_equal(floats, vectors["mean"])
    used = [client.completions.create(model="demo", prompt=one, max_tokens=1) for one in TEXTS]
    tokens = sum(one.usage.prompt_tokens for one in used)
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (tokens, tokens)


def test_what_a_text_may_be(server, client, vectors):
    tokenizer = server.desk.served.tokenizer
    ids = [tokenizer.encode(text) for text in TEXTS]
    for given, expected in (
        (TEXTS[0], vectors["mean"][:1]), (ids[0], vectors["mean"][:1]), (ids, vectors["mean"]),
    ):  # fmt: skip
        found = client.embeddings.create(model="demo", input=given, dimensions=256, user="a")
        np.testing.assert_array_equal([one.embedding for one in found.data], expected)
    last = client.embeddings.create(model="demo", input=TEXTS, extra_body={"pooling": "last"})
    np.testing.assert_array_equal([one.embedding for one in last.data], vectors["last"])


def test_ollama(server, vectors):
    long = "a " * 600
    with ollama.Client(host=server.url, timeout=LIMIT) as made:
        found = made.embed("demo", TEXTS, keep_alive="5m")
        np.testing.assert_array_equal(np.float32(found.embeddings), vectors["mean"])
        assert (found.model, found.prompt_eval_count > 3) == ("demo:latest", True)
        assert found.load_duration + found.total_duration > 0
        for text in (long, "a " * 60_000):  # the second surely is longer, whatever its tokens
            assert len(made.embed("demo:latest", text).embeddings[0]) == 256
        with pytest.raises(ollama.ResponseError, match="the context holds 512"):
            made.embed("demo", long, truncate=False)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "input", "input is missing"),
        ({"input": []}, "input", "expected a text, token ids, or a list of 1 to 2048"),
        ({"input": ""}, "input", "expected a text or token ids, not empty"),
        ({"input": ["a", ""]}, "input[1]", "expected a text or token ids, not empty"),
        ({"input": [["a"]]}, "input[0]", "expected a text or token ids, not empty"),
        ({"input": [1, "a"]}, "input", "expected a text or token ids, not empty"),
        ({"input": [[5], [99999]]}, "input[1]", "input[1]: token id is 99999"),
        ({"input": ["a"] * 2049}, "input", "a list of 1 to 2048"),
        ({"input": "a " * 600}, "input", "the context holds 512"),
        ({"input": ["a", "a " * 60_000]}, "input[1]", "has more than 512 tokens"),
        ({"input": "a", "dimensions": 64}, "dimensions", "vectors of this model have 256 numbers"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "one of float, base64"),
        ({"input": "a", "pooling": "cls"}, "pooling", "expected one of mean, last"),
        ({"input": "a", "input_type": "query"}, "input_type", "unknown field"),
    ],
)
def test_what_is_refused(server, body, param, message):
    status, found = ask(server, **body)
    assert (status, found["error"]["param"]) == (400, param)
    assert message in found["error"]["message"]


def test_another_model(client):
    with pytest.raises(openai.NotFoundError, match="'other' does not exist"):
        client.embeddings.create(model="other", input="a")


def test_they_are_counted(server, caplog):
    caplog.set_level("INFO", "dllama.server")
    before = server.count("dllama_prompt_tokens_total")
    assert ask(server, input=[[5, 9], [7]])[0] == 200
    wait_until(lambda: "/v1/embeddings 200" in caplog.text)
    assert server.count("dllama_prompt_tokens_total") == before + 3
    assert "3 prompt tokens (0 cached), queue " in caplog.text
