"""/tokenize and /detokenize."""

from __future__ import annotations

import json

import pytest
from serving import http

ASKED = [{"role": "user", "content": "Who are you?"}]


def ask(server, path, **body):
    status, _, raw = http(f"{server.url}/{path}", body)
    return status, json.loads(raw)


@pytest.fixture(scope="module")
def tokenizer(running):
    return running.desk.served.tokenizer


def test_texts_and_their_ids(server, tokenizer):
    text = "MACBETH:\n<|eot_id|>So f\u00f6ul \U0001f600"
    ids = tokenizer.encode(text)
    status, found = ask(server, "tokenize", model="demo", prompt=text)
    assert (status, found) == (
        200, {"tokens": ids, "count": len(ids), "max_model_len": 512, "token_strs": None},
    )  # fmt: skip
    assert ids[0] == tokenizer.bos_id
    for old in ({"prompt": text, "add_special_tokens": False}, {"content": text}):
        assert ask(server, "tokenize", **old)[1]["tokens"] == ids[1:]
    assert ask(server, "tokenize", content=text, add_special=True)[1]["tokens"] == ids
    _, found = ask(server, "detokenize", tokens=ids)
    assert found == {"prompt": f"<|begin_of_text|>{text}", "content": f"<|begin_of_text|>{text}"}
    assert ask(server, "detokenize", tokens=ids[1:])[1]["prompt"] == text
    assert ask(server, "detokenize", tokens=[])[1]["prompt"] == ""


def test_names_and_long_texts(server, tokenizer):
    _, found = ask(server, "tokenize", prompt="a" * 9999, return_token_strs=True)
    assert found["count"] == len(found["tokens"]) > found["max_model_len"]
    assert found["token_strs"] == [tokenizer.name(token) for token in found["tokens"]]


def test_conversations(server, client, tokenizer):
    _, found = ask(server, "tokenize", messages=ASKED)
    used = client.chat.completions.create(model="demo", messages=ASKED, max_tokens=1).usage
    assert found["count"] == used.prompt_tokens
    text = ask(server, "detokenize", tokens=found["tokens"])[1]["prompt"]
    head = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert text.endswith(f"Who are you?<|eot_id|>{head}")
    _, ended = ask(server, "tokenize", messages=ASKED, add_generation_prompt=False)
    assert found["tokens"] == ended["tokens"] + tokenizer.encode(head, add_bos=False)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("tokenize", {}, "prompt is missing"),
        ("tokenize", {"prompt": 3}, "prompt is 3, expected a string"),
        ("tokenize", {"prompt": "a", "content": "a"}, "only one of the two"),
        ("tokenize", {"content": "a", "with_pieces": True}, "unknown field 'with_pieces'"),
        ("tokenize", {"messages": ASKED, "prompt": "a"}, "unknown field 'prompt'"),
        ("tokenize", {"messages": ASKED, "add_special_tokens": True}, "the chat template writes"),
        ("tokenize", {"prompt": "\ud800"}, "not valid Unicode"),
        ("tokenize", {"prompt": "a", "model": "b"}, "'b' does not exist"),
        ("detokenize", {}, "tokens is missing"),
        ("detokenize", {"tokens": ["a"]}, "expected a list of token ids"),
        ("detokenize", {"tokens": [99999]}, "token id is 99999, expected 0 to"),
        ("detokenize", {"tokens": [-1]}, "token id is -1, expected 0 to"),
    ],
)
def test_what_is_refused(server, path, body, message):
    status, found = ask(server, path, **body)
    assert status == (404 if "model" in body else 400)
    assert message in found["error"]["message"]
