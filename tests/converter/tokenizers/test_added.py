"""Tokens that a folder adds to its tokenizer.model or tokenizer.json."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from dllama.converter.tokenizers.folder import convert_tokenizer, open_tokenizer
from dllama.errors import FormatError, UnsupportedError
from dllama.text.tokenizer import Tokenizer

MODEL = Path(__file__).parents[2] / "data" / "small.tokenizer.model"  # 400 pieces
CHAT = "<|im_start|>user\nhi<|im_end|>"
# What LlamaTokenizer of transformers makes of CHAT.
IDS = [401, 339, 327, 261, 13, 333, 331, 400]
PLAIN = {"<|im_end|>": 400, "<|im_start|>": 401}
DESCRIBED = {
    "0": {"content": "<unk>", "special": True}, "2": {"content": "</s>", "special": True},
    "400": {"content": "<|im_end|>", "special": True, "lstrip": False, "rstrip": False},
    "401": {"content": "<|im_start|>", "special": True, "normalized": False},
}  # fmt: skip


@pytest.fixture
def source(tmp_path):
    """A folder with a tokenizer.model and nothing else."""
    folder = tmp_path / "source"
    folder.mkdir()
    shutil.copy(MODEL, folder / "tokenizer.model")
    return folder


def put(source, plain=None, **config):
    if plain is not None:
        (source / "added_tokens.json").write_text(json.dumps(plain))
    (source / "tokenizer_config.json").write_text(json.dumps(config))


def tokenizer(source):
    """The tokenizer of the model folder, for a model of 402 tokens."""
    output = Path(tempfile.mkdtemp(dir=source.parent))
    assert convert_tokenizer(open_tokenizer(source), output, 402) == []
    return Tokenizer.open(output)


@pytest.mark.parametrize(
    ("plain", "described"), [(PLAIN, DESCRIBED), (PLAIN, None), (None, DESCRIBED)]
)
def test_added_tokens_have_their_ids(source, plain, described):
    put(source, plain, tokenizer_class="LlamaTokenizer", added_tokens_decoder=described)
    opened = tokenizer(source)
    assert opened.vocab_size == 402
    assert opened.encode(CHAT, add_bos=False) == IDS
    assert opened.is_special(400)
    assert opened.decode(IDS[1:-1]) == "user\nhi"


def test_an_added_token_may_be_the_eos(source):
    put(source, PLAIN, eos_token="<|im_end|>")
    (source / "config.json").write_text('{"eos_token_id": 400}')
    assert tokenizer(source).eos_ids == (400,)


def test_tokens_that_stand_for_text(source):
    described = {"400": {"content": "  "}, "401": {"content": "[TOOL]", "special": False}}
    put(source, added_tokens_decoder=described)
    opened = tokenizer(source)
    assert 401 in opened.encode("a [TOOL] b")
    assert not opened.is_special(401)
    assert opened.decode([401]) == "[TOOL]"


def test_a_space_after_special_tokens_as_the_folder_says(source):
    """LlamaTokenizer puts none there unless it is a legacy one; SentencePiece alone does."""
    put(source, PLAIN, tokenizer_class="LlamaTokenizer", legacy=True)
    assert tokenizer(source).encode(CHAT, add_bos=False)[:3] == [401, 321, 339]
    put(source, PLAIN)
    assert tokenizer(source).encode(CHAT, add_bos=False)[:3] == [401, 321, 339]
    put(source, PLAIN, tokenizer_class="LlamaTokenizer", add_prefix_space=False)
    assert tokenizer(source).encode("user", add_bos=False) == IDS[1:4]


@pytest.mark.parametrize(
    ("plain", "config", "error", "message"),
    [
        ({"<x>": 401}, {}, UnsupportedError, "'<x>' has the id 401, but 400 is next"),
        ({"<x>": 7}, {}, UnsupportedError, "'<x>' has the id 7"),
        ({"</s>": 400}, {}, UnsupportedError, "its id in the model is 2"),
        ({"<x>": "400"}, {}, FormatError, r"added_tokens\.json: '<x>' is '400'"),
        ({"<x>": 400}, {"added_tokens_decoder": {"400": {"content": "<y>"}}}, FormatError,
         r"token 400 is '<x>', expected <y>"),
        (None, {"added_tokens_decoder": {"400": {}}}, FormatError, r"added_tokens_decoder\.400"),
        (None, {"added_tokens_decoder": {"x": {"content": "<y>"}}}, FormatError, "decoder.x is"),
        (None, {"added_tokens_decoder": [1]}, FormatError, "expected an object"),
    ],
)  # fmt: skip
def test_refuses_ids_that_it_cannot_give(source, plain, config, error, message):
    put(source, plain, **config)
    with pytest.raises(error, match=message):
        open_tokenizer(source)


@pytest.fixture
def fast(source, tmp_path):
    """A folder with the same tokenizer as tokenizer.json, without added tokens."""
    convert_tokenizer(open_tokenizer(source), tmp_path, 400)
    folder = tmp_path / "fast"
    folder.mkdir()
    shutil.move(tmp_path / "tokenizer.json", folder)
    return folder


@pytest.mark.parametrize(
    ("plain", "described"), [(PLAIN, DESCRIBED), (PLAIN, None), (None, DESCRIBED)]
)
def test_tokens_that_tokenizer_json_lacks_are_added(fast, plain, described):
    put(fast, plain, added_tokens_decoder=described)
    opened = tokenizer(fast)
    ids = opened.encode(CHAT, add_bos=False)
    assert (ids[0], ids[-1], opened.vocab_size) == (401, 400, 402)
    assert opened.is_special(400)


def test_tokenizer_json_knows_better(fast, tmp_path):
    """Other files may be older; the tokens that it has stay as they are."""
    put(fast, {"</s>": 7, "<s>": 1}, added_tokens_decoder={"0": {"content": "<unk>"}})
    before = (fast / "tokenizer.json").read_bytes()
    assert convert_tokenizer(open_tokenizer(fast), tmp_path, 400) == []
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    put(fast, {"<|im_end|>": 401})
    with pytest.raises(UnsupportedError, match=r"'<\|im_end\|>' has the id 401, but 400 is next"):
        open_tokenizer(fast)
