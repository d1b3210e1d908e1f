"""The JSON objects of responses, where the tokens of a model do not matter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dllama import TemplateError, Token
from dllama.model_path import DEMO
from dllama.server.apis.chat import ChatFormat
from dllama.server.apis.completions import CompletionFormat
from dllama.server.fields.options import Options
from dllama.server.queue.jobs import Done
from dllama.server.served import Served
from dllama.server.tools.answer import Answer
from dllama.server.tools.base import TextParser
from dllama.text.tokenizer import Tokenizer

OPTIONS = Options(None, None, {}, (), False, False, False, 3)


@pytest.fixture
def served():
    return Served("demo", 0, 512, 2048, Tokenizer.open(DEMO), TemplateError("none"))


def test_parts_of_characters_have_names_of_their_own(served):
    """As text, all of them would be U+FFFD, and names tell alternatives apart."""
    ids = served.tokenizer.encode("\u65e5", add_bos=False)
    assert len(ids) == 3
    tokens = [
        Token(one, "", -0.5, tuple((other, -float(other)) for other in ids)) for one in ids[:2]
    ] + [Token(ids[2], "\u65e5", -0.5, ((ids[2], -0.5),))]
    (choice,) = CompletionFormat(served, OPTIONS, [1], [[1]]).whole(tokens, Done("length", 0, 3))[
        "choices"
    ]
    assert choice["text"] == "\u65e5"
    assert choice["logprobs"]["tokens"] == ["bytes:\\xe6", "bytes:\\x97", "bytes:\\xa5"]
    assert [len(top) for top in choice["logprobs"]["top_logprobs"]] == [3, 3, 1]
    format = ChatFormat(served, OPTIONS, [1], Answer(TextParser()))
    (choice,) = format.whole(tokens, Done("length", 0, 3))["choices"]
    assert [one["bytes"] for one in choice["logprobs"]["content"]] == [[0xE6], [0x97], [0xA5]]


def test_ids_of_a_model_without_a_tokenizer(served):
    ids = replace(served, tokenizer=None)
    tokens = [Token(7, "", -0.5, ((7, -0.5), (9, -1.0)))]
    (choice,) = CompletionFormat(ids, OPTIONS, [1], [[1]]).whole(tokens, Done("length", 0, 1))[
        "choices"
    ]
    assert choice["logprobs"]["tokens"] == ["token_id:7"]
    assert choice["logprobs"]["top_logprobs"] == [{"token_id:7": -0.5, "token_id:9": -1.0}]
