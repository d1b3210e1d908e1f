"""Text as it streams, with and without special tokens."""

from __future__ import annotations

import pytest

from dllama.model_path import DEMO
from dllama.text.stream import TextStream
from dllama.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.open(DEMO)


def streamed(tokenizer, text, stops=(), special=True):
    """What comes of the ids of a text."""
    stream = TextStream(tokenizer, stops, special)
    pieces = [stream.push(token) for token in tokenizer.encode(text, add_bos=False)]
    return "".join(pieces) + stream.flush()


@pytest.mark.parametrize(
    "text",
    [
        "Who <|eot_id|> are<|eot_id|><|start_header_id|>you\u65e5<|eot_id|>\u65e5?",
        "<|eot_id|>",
        "a",
    ],
)
def test_special_tokens_in_the_text(tokenizer, text):
    assert streamed(tokenizer, text) == text
    names = [
        tokenizer.name(one) for one in range(tokenizer.vocab_size) if tokenizer.is_special(one)
    ]
    plain = text
    for name in names:
        plain = plain.replace(name, "")
    assert streamed(tokenizer, text, special=False) == plain


def test_a_stop_string_with_a_special_token(tokenizer):
    assert streamed(tokenizer, "Who<|eot_id|>, you", ["<|eot_id|>,"]) == "Who"
