"""Tokenizers of GGUF files: same ids as the tokenizers from which the files were made."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as HfTokenizer

import dllama
from dllama.converter.tokenizers.byte_level import STYLES, build_bytelevel
from dllama.converter.tokenizers.folder import convert_tokenizer
from dllama.converter.tokenizers.gguf import read_tokenizer
from dllama.errors import FormatError, UnsupportedError
from dllama.text.tokenizer import Tokenizer
from dllama.text.tokenizer_file import read_tokenizer as read_file

DEMO = Path(dllama.__file__).parent / "demo"
DATA = Path(__file__).parents[2] / "data"
MULTILINGUAL = (DATA / "multilingual.txt").read_bytes().decode()
FILE = Path("model.gguf")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


@pytest.fixture
def bytelevel():
    """Metadata for the built-in model's tokenizer, as llama.cpp's converter writes it."""
    config = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = {index: token for token, index in config["model"]["vocab"].items()}
    vocab |= {entry["id"]: entry["content"] for entry in config["added_tokens"]}
    special = {entry["id"] for entry in config["added_tokens"]}
    types = [CONTROL if index in special else NORMAL for index in range(len(vocab))]
    merges = [" ".join(m) if isinstance(m, list) else m for m in config["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [vocab[index] for index in range(len(vocab))],
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 2043,
        "tokenizer.ggml.eos_token_id": 2047,
        "tokenizer.chat_template": "{{ messages }}",
    }


@pytest.fixture(scope="module")
def spm_model():
    """A SentencePiece model like Llama 2's."""
    spm = pytest.importorskip("sentencepiece")
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(MULTILINGUAL.splitlines() * 3), model_writer=out, vocab_size=900,
        character_coverage=0.98, hard_vocab_limit=False, num_threads=1, minloglevel=2,
        model_type="bpe", normalization_rule_name="identity", remove_extra_whitespaces=False,
        byte_fallback=True,
    )  # fmt: skip
    return spm.SentencePieceProcessor(model_proto=out.getvalue())


@pytest.fixture
def pieces(spm_model):
    """Metadata of a file with that model."""
    ids = range(spm_model.vocab_size())
    types = [
        UNKNOWN if spm_model.is_unknown(i) else CONTROL if spm_model.is_control(i)
        else BYTE if spm_model.is_byte(i) else NORMAL for i in ids
    ]  # fmt: skip
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [spm_model.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": np.array([spm_model.get_score(i) for i in ids], np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def test_bytelevel_ids_are_those_of_the_original(bytelevel, tmp_path):
    source = read_tokenizer(FILE, bytelevel)
    assert convert_tokenizer(source, tmp_path, 2048) == []
    tokenizer, original = Tokenizer.open(tmp_path), Tokenizer.open(DEMO)
    for text in [*MULTILINGUAL.splitlines(), MULTILINGUAL, "<|eot_id|>a", ""]:
        assert tokenizer.encode(text) == original.encode(text), text
    ids = original.encode(MULTILINGUAL)
    assert tokenizer.decode(ids) == original.decode(ids)
    data = read_file(tmp_path / "tokenizer.t")
    assert data.vocab == read_file(DEMO / "tokenizer.t").vocab
    assert data.scores == read_file(DEMO / "tokenizer.t").scores
    assert (data.bos_id, data.add_bos, data.chat_template) == (2043, True, "{{ messages }}")
    assert data.eos_ids == (2047, 2044)  # the one in the metadata, then tokens with a known name


def test_sentencepiece_ids_are_those_of_the_library(pieces, spm_model, tmp_path):
    convert_tokenizer(read_tokenizer(FILE, pieces), tmp_path, 10_000)
    tokenizer = Tokenizer.open(tmp_path)
    plain = MULTILINGUAL.replace("<s>", "").replace("</s>", "").replace("<unk>", "")
    for text in [*plain.splitlines(), plain, "  a  b ", ""]:
        assert tokenizer.encode(text) == [1, *spm_model.encode(text)], text
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.add_bos) == (1, (2,), True)
    pieces["tokenizer.ggml.add_space_prefix"] = False
    bare = read_tokenizer(FILE, pieces).tokenizer
    assert bare.encode("the").tokens[1] != "▁the"
    assert tokenizer.decode(tokenizer.encode("the")) == "the"


def test_pieces_with_merges(pieces):
    """As in Gemma 4: the order of merges counts, and scores say nothing."""
    pieces["tokenizer.ggml.add_space_prefix"] = False
    expected = read_tokenizer(FILE, pieces).tokenizer
    stored = [pieces[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type")]
    scores = {name: score for name, score, kind in zip(*stored, strict=True) if kind == NORMAL}
    pairs = [(-scores[name], -cut, name[:cut], name[cut:]) for name in scores
             for cut in range(1, len(name)) if {name[:cut], name[cut:]} <= set(scores)]  # fmt: skip
    merges = [f"{left} {right}" for *_, left, right in sorted(pairs)]
    merged = pieces | {"tokenizer.ggml.model": "gemma4", "tokenizer.ggml.merges": merges,
                       "tokenizer.ggml.scores": np.zeros(len(stored[0]), np.float32)}  # fmt: skip
    del merged["tokenizer.ggml.add_space_prefix"]
    found = read_tokenizer(FILE, merged).tokenizer
    for text in [*MULTILINGUAL.splitlines(), MULTILINGUAL, "  a  b ", ""]:
        assert found.encode(text).ids == expected.encode(text).ids, text
    other = read_tokenizer(FILE, merged | {"tokenizer.ggml.merges": merges[::-1]}).tokenizer
    assert other.encode(MULTILINGUAL).ids != expected.encode(MULTILINGUAL).ids
    for wrong in ([], ["nosuch token"], ["a"]):
        with pytest.raises(FormatError, match="merges is"):
            read_tokenizer(FILE, merged | {"tokenizer.ggml.merges": wrong})


@pytest.mark.parametrize(("flag", "expected"), [(True, True), (False, False), (None, True)])
def test_bos_as_the_file_says(bytelevel, pieces, flag, expected):
    for metadata in (bytelevel, pieces):
        if flag is not None:
            metadata["tokenizer.ggml.add_bos_token"] = flag
        bos = metadata["tokenizer.ggml.bos_token_id"]
        assert (read_tokenizer(FILE, metadata).tokenizer.encode("a").ids[0] == bos) is expected
    bytelevel["tokenizer.ggml.pre"] = "qwen2"
    ids = read_tokenizer(FILE, bytelevel).tokenizer.encode("a").ids
    assert (ids[0] == 2043) is (flag is True)


def test_padding_and_added_tokens(pieces):
    """Padding has no text; added tokens are never split, also those of spaces."""
    pieces["tokenizer.ggml.tokens"] += ["[PAD900]", "hello", "   "]
    count = len(pieces["tokenizer.ggml.tokens"])
    types = [*pieces["tokenizer.ggml.token_type"], UNUSED, USER_DEFINED, USER_DEFINED]
    pieces["tokenizer.ggml.token_type"] = np.array(types, np.int32)
    scores = [*pieces["tokenizer.ggml.scores"], 0, 0, 0]
    pieces["tokenizer.ggml.scores"] = np.array(scores, np.float32)
    tokenizer = read_tokenizer(FILE, pieces).tokenizer
    assert count - 2 in tokenizer.encode("xhellox").ids
    assert tokenizer.decode([count - 3]) == ""
    ids = tokenizer.encode("x   y").ids
    assert count - 1 in ids
    assert tokenizer.decode(ids) == "x   y"


def test_the_unknown_piece_may_be_called_a_control_token(pieces):
    expected = read_tokenizer(FILE, pieces).tokenizer.encode("a \u1000 b").ids
    types = pieces["tokenizer.ggml.token_type"]
    (unknown,) = np.flatnonzero(types == UNKNOWN)
    pieces["tokenizer.ggml.token_type"] = np.where(types == UNKNOWN, CONTROL, types)
    with pytest.raises(FormatError, match="unknown_token_id is 5000"):
        read_tokenizer(FILE, pieces | {"tokenizer.ggml.unknown_token_id": 5000})
    pieces["tokenizer.ggml.unknown_token_id"] = int(unknown)
    assert read_tokenizer(FILE, pieces).tokenizer.encode("a \u1000 b").ids == expected


@pytest.mark.parametrize("metadata", [{}, {"tokenizer.ggml.model": "no_vocab"}])
def test_a_file_without_tokenizer(metadata, tmp_path):
    (warning,) = convert_tokenizer(read_tokenizer(FILE, metadata), tmp_path, 100)
    assert "model.gguf: has no tokenizer" in warning


THREES = ["It", "'s", " ", "123", "4", " x", ".\n\n", "Ab"]
ONES = ["It", "'s", " ", "1", "2", "3", "4", " x", ".\n\n", "Ab"]
DIGITS = ["It", "'s", " ", "1", "2", "3", "4", " x", ".", "\n", "\n", "Ab"]
APART = ["It", "'", "s", " ", "1", "2", "3", "4", " x", ".", "\n", "\n", "Ab"]
WHOLE = ["It", "'s", " 1234", " x", ".", "\n", "\n", "Ab"]
STYLE_CASES = {
    "llama-bpe": THREES, "smaug-bpe": THREES, "dbrx": THREES, "chatglm-bpe": THREES, "glm4": THREES,
    "deepseek-v3": THREES, "qwen2": ONES, "qwen35": ONES, "tekken": ONES,
    **dict.fromkeys(("falcon3", "falcon-h1", "pixtral", "midm-2.0"), THREES),
    **dict.fromkeys(("stablelm2", "megrez"), ONES),
    "seed-coder": [*ONES[:8], ".", "\n\n", "Ab"],
    **dict.fromkeys(("gpt-2", "exaone4", "a.x-4.0", "mellum", "trillion", "mpt", "olmo"), WHOLE),
    **dict.fromkeys(("smollm", "refact", "starcoder", "minerva-7b"), DIGITS),
    "deepseek-llm": APART, "deepseek-coder": APART,
    "gpt-4o": ["It's", " ", "123", "4", " x", ".\n\n", "Ab"],
}  # fmt: skip
# Texts that tell styles apart which cut the one above alike.
OTHER_CASES = [
    ("qwen2", "कि", ["क", "ि"]),
    ("qwen35", "कि", ["कि"]),
    ("deepseek-v3", "कि日本!x", ["कि", "日本", "!x"]),
    ("deepseek-llm", "éß日本!x ", ["éß", "日本", "!", "x", " "]),
    ("deepseek-coder", "日本! x", ["日本", "!", " x"]),
    ("gpt-4o", "camelCase I'LL/\n", ["camel", "Case", " I'LL", "/\n"]),
    ("tekken", "camelCase I'LL/\n", ["camel", "Case", " I", "'LL", "/\n"]),
    ("dbrx", "camelCase I'LL/\n", ["camelCase", " I", "'LL", "/\n"]),
    ("gpt-4o", "a\n /\n", ["a", "\n", " /\n"]),
    ("stablelm2", "x!\n", ["x", "!\n"]),
    ("seed-coder", "x!\n", ["x", "!", "\n"]),
]


def pieces_of(name, text):
    """How a style cuts a text."""
    tokens = [chr(code) for code in range(0x100, 0x200)] + [chr(c) for c in range(0x21, 0x7F)]
    tokenizer = build_bytelevel(tokens, [], STYLES[name])
    cut = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [text[begin:end] for _, (begin, end) in cut]


def test_texts_are_split_like_in_the_models():
    assert {*STYLES} - {*STYLE_CASES} == {"llama3", "llama-v3", "deepseek-r1-qwen"}
    for name, expected in STYLE_CASES.items():
        assert pieces_of(name, "It's 1234 x.\n\nAb") == expected, name
    for name, text, expected in OTHER_CASES:
        assert pieces_of(name, text) == expected, (name, text)


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        (["<|end|>", "<|endoftext|>"], [0, 1]),  # Phi
        (["<|end|>", "<|return|>", "<|call|>", "<|endoftext|>"], [1, 2, 3]),  # gpt-oss
        (["<bos>", "<end_of_turn>"], [1]),
    ],
)
def test_tokens_with_known_names_end_a_text(bytelevel, tokens, ends):
    del bytelevel["tokenizer.ggml.eos_token_id"]
    names = bytelevel["tokenizer.ggml.tokens"][: -len(tokens)] + tokens
    first = 2048 - len(tokens)
    bytelevel["tokenizer.ggml.tokens"] = [
        f"x{index}" if name.startswith("<|e") and index < first else name
        for index, name in enumerate(names)
    ]
    config = read_tokenizer(FILE, bytelevel).config
    assert config.eos_ids == tuple(first + end for end in ends)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "bert"}, UnsupportedError, "tokenizer 'bert' is not supported"),
        (
            {"pre": "unheard-of"},
            UnsupportedError,
            "pre-tokenizer 'unheard-of' is not supported",
        ),
        ({"pre": None}, UnsupportedError, "pre-tokenizer None"),
        ({"tokens": None}, FormatError, "tokens is missing"),
        ({"tokens": "a"}, FormatError, "tokens is not a list"),
        ({"merges": None}, FormatError, "merges is missing"),
        ({"merges": ["a"]}, FormatError, "merges is broken"),
        ({"merges": ["a b c"]}, FormatError, "merges is broken"),
        ({"merges": ["nosuch token"]}, FormatError, "merges is broken"),
        ({"token_type": np.zeros(2048, np.int32)}, FormatError, "token_type is broken"),
        ({"token_type": np.ones(5, np.int32)}, FormatError, "not one number per token"),
        ({"bos_token_id": 2048}, FormatError, "bos_token_id is 2048"),
        ({"eos_token_id": "x"}, FormatError, "eos_token_id is 'x'"),
        ({"add_bos_token": 1}, FormatError, "add_bos_token is 1"),
        ({"model": "llama"}, FormatError, "scores is missing"),
        ({"model": "llama", "scores": np.full(2048, np.nan, np.float32)}, FormatError, "is nan"),
    ],
)
def test_broken_metadata_is_named(bytelevel, changes, error, message):
    bytelevel |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    metadata = {key: value for key, value in bytelevel.items() if value is not None}
    with pytest.raises(error, match=message) as caught:
        read_tokenizer(FILE, metadata)
    assert "model.gguf" in str(caught.value)


def test_survives_being_saved(bytelevel):
    tokenizer = read_tokenizer(FILE, bytelevel).tokenizer
    again = HfTokenizer.from_str(tokenizer.to_str())
    assert again.encode(MULTILINGUAL).ids == tokenizer.encode(MULTILINGUAL).ids
