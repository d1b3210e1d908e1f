"""Text as it streams, with and without special tokens."""

from __future__ import annotations

import pytest

from dllama.model_path import DEMO
from dllama.text.stream import TextStream
from dllama.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.open(DEMO)


def streamed(tokenizer, text, stops=(), names=()):
    """What comes of the ids of a text, with the names of these special tokens."""
    special = [one for name in names for one in tokenizer.encode(name, add_bos=False)]
    stream = TextStream(tokenizer, stops, special)
    pieces = [stream.push(token) for token in tokenizer.encode(text, add_bos=False)]
    return "".join(pieces) + stream.flush()


END, HEAD = "<|eot_id|>", "<|start_header_id|>"


@pytest.mark.parametrize("text", [f"Who {END} are{END}{HEAD}you\u65e5{END}\u65e5?", END, "a"])
def test_special_tokens_in_the_text(tokenizer, text):
    assert streamed(tokenizer, text, names=[END, HEAD]) == text
    assert streamed(tokenizer, text, names=[END]) == text.replace(HEAD, "")
    assert streamed(tokenizer, text) == text.replace(HEAD, "").replace(END, "")


def test_the_stop_string_that_was_found(tokenizer):
    stream = TextStream(tokenizer, ["no", "you", "you are"])
    for token in tokenizer.encode("Who are you are not", add_bos=False):
        stream.push(token)
    assert stream.found == "you"


def test_a_stop_string_with_a_special_token(tokenizer):
    assert streamed(tokenizer, f"Who{END}, you", [f"{END},"], [END]) == "Who"
