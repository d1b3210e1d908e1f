"""The tokenizer: ids equal to Hugging Face's, .t files alone, and text that streams."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, normalizers

import dllama
from dllama.errors import ConfigError, ContextError, FormatError, ModelError
from dllama.text.template import ChatTemplate, Message
from dllama.text.tokenizer import Tokenizer
from dllama.text.tokenizer_file import TokenizerData, read_tokenizer, write_tokenizer

DEMO = Path(dllama.__file__).parent / "demo"
TEXTS = Path(__file__).parents[2] / "data"
MULTILINGUAL = (TEXTS / "multilingual.txt").read_bytes().decode()


def bard() -> Tokenizer:
    """Byte-level BPE with tokenizer.json."""
    return Tokenizer.open(DEMO)


def scored_bard(folder: Path) -> Tokenizer:
    """The same vocabulary as a .t file alone."""
    shutil.copy(DEMO / "tokenizer.t", folder / "bard.t")
    return Tokenizer.open(folder / "bard.t")


PIECES = (
    *(" ", "a", "b", "c", "l", "o", "h", "e", "é", "你"),
    *("he", "ll", "hell", "hello", " hello", "ab", "bc", "abc", "  "),
)


def sentencepiece_data(byte_names: bool) -> TokenizerData:
    """A vocabulary like Llama 2's, with fallback bytes named or raw."""
    names = [f"<0x{byte:02X}>".encode() if byte_names else bytes([byte]) for byte in range(256)]
    vocab = [b"<unk>", b"<s>", b"</s>", *names, *(piece.encode() for piece in PIECES)]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(PIECES))]
    return TokenizerData(vocab, scores, 1, (2,), True, None)


def scored_sentencepiece(folder: Path, byte_names: bool = True) -> Tokenizer:
    """A .t file with such a vocabulary."""
    write_tokenizer(folder / "pieces.t", sentencepiece_data(byte_names))
    return Tokenizer.open(folder / "pieces.t")


def fast_sentencepiece(folder: Path) -> Tokenizer:
    """A tokenizer.json with byte fallback, like Llama 2's."""
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = ["<unk>", "<s>", "</s>", *names, *(piece.replace(" ", "▁") for piece in PIECES)]
    ids = {name: index for index, name in enumerate(vocab)}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("▁", "hello")]
    model = models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = HfTokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return Tokenizer.open(folder)


KINDS: dict[str, Callable[[Path], Tokenizer]] = {
    "byte-level": lambda folder: bard(),
    "byte-level-scored": scored_bard,
    "sentencepiece": fast_sentencepiece,
    "sentencepiece-scored": scored_sentencepiece,
}


def test_ids_are_those_of_hugging_face() -> None:
    reference = HfTokenizer.from_file(str(DEMO / "tokenizer.json"))
    ours = bard()
    special = "<|begin_of_text|>a<|eot_id|> b<|start_header_id|>user<|end_header_id|>"
    for text in [MULTILINGUAL, *MULTILINGUAL.splitlines(), "", " ", special]:
        assert ours.encode(text) == reference.encode(text).ids
        plain = reference.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_bos=False) == plain
        assert ours.encode(text, add_bos=True) == [ours.bos_id, *plain]


def test_what_is_known_of_the_demo_tokenizer() -> None:
    tokenizer = bard()
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_ids) == (2048, 2043, (2044,))
    assert tokenizer.add_bos
    assert tokenizer.chat_template is not None
    assert "start_header_id" in tokenizer.chat_template


@pytest.mark.parametrize("kind", KINDS)
def test_text_survives_encoding(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind](tmp_path)
    for text in ["", "hello", " hello  abc", "a\n\nb\t", "naïve 你好 😀\x00\x7f", "\r\n \n"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    text = re.sub("</?s>|<unk>|▁", "", MULTILINGUAL)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_ids_are_the_bytes_of_the_text(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind](tmp_path)
    for text in ["hello", " hello  abc", "a\n\nb\t", "naïve 你好 😀\x00\x7f", "\r\n \n"]:
        raw = b"".join(tokenizer.spell(i) for i in tokenizer.encode(text, add_bos=False))
        assert raw.lstrip(b" ") == text.lstrip(" ").encode()
    assert tokenizer.spell(tokenizer.vocab_size) == b""


def test_special_tokens_are_spelled_by_their_names(tmp_path: Path) -> None:
    for tokenizer in (bard(), scored_bard(tmp_path)):
        assert tokenizer.spell(2043) == b"<|begin_of_text|>"
    assert fast_sentencepiece(tmp_path).spell(1) == b"<s>"


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_text_equals_decoded_text(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind](tmp_path)
    random = np.random.default_rng(3)
    cases = [tokenizer.encode(MULTILINGUAL), tokenizer.encode(" hello"), [], [0], [1, 1]]
    cases += [random.integers(0, tokenizer.vocab_size, 60).tolist() for _ in range(40)]
    cases += [random.integers(0, 290, 60).tolist() for _ in range(40)]
    cases += [random.choice([1, 2, 35, 198, 229, 231, 263, 259], 30).tolist() for _ in range(100)]
    cases += [[tokenizer.vocab_size + 5, 70, tokenizer.vocab_size, 71]]
    for ids in cases:
        stream = tokenizer.stream()
        texts = [stream.push(token) for token in ids]
        assert "".join(texts) + stream.flush() == tokenizer.decode(ids)


def test_incomplete_characters_are_held_back() -> None:
    tokenizer = bard()
    ids = tokenizer.encode("x😀y", add_bos=False)
    assert len(ids) > 4
    stream = tokenizer.stream()
    texts = [stream.push(token) for token in ids]
    assert [text for text in texts if text] == ["x", "😀", "y"]
    assert stream.flush() == ""


def test_flush_gives_what_is_incomplete() -> None:
    tokenizer = bard()
    stream = tokenizer.stream()
    ids = tokenizer.encode("x😀", add_bos=False)[:-1]
    assert "".join(map(stream.push, ids)) == "x"
    assert stream.flush() == "\ufffd"


def test_a_run_of_bytes_is_held_until_it_ends(tmp_path: Path) -> None:
    """ByteFallback turns a whole run into U+FFFD if any byte of it is wrong."""
    tokenizer = fast_sentencepiece(tmp_path)
    a, bad, piece = 3 + 0x41, 3 + 0xFF, 260
    stream = tokenizer.stream()
    assert [stream.push(token) for token in (a, a, piece)] == ["", "", "AAa"]
    assert [stream.push(token) for token in (a, 1, bad, piece)] == ["", "", "", "\ufffd\ufffda"]


def test_long_runs_stream_in_linear_time(tmp_path: Path) -> None:
    """Decoding all ids after each one would take forever."""
    for tokenizer, token in ((fast_sentencepiece(tmp_path), 3 + 0x41), (bard(), 70)):
        stream = tokenizer.stream()
        text = "".join(stream.push(token) for _ in range(20_000)) + stream.flush()
        assert text == tokenizer.decode([token] * 20_000)


@pytest.mark.parametrize("byte_names", [True, False])
def test_scored_sentencepiece_merges_characters_by_score(byte_names: bool, tmp_path: Path) -> None:
    tokenizer = scored_sentencepiece(tmp_path, byte_names)
    piece = {name: 259 + index for index, name in enumerate(PIECES)}
    assert tokenizer.encode("hello") == [1, piece[" hello"]]
    assert tokenizer.encode("hello", add_bos=False) == [piece[" hello"]]
    assert tokenizer.encode("", add_bos=False) == []
    # "ab" scores higher than "bc"; a character with a token does not become bytes.
    assert tokenizer.encode("abc", add_bos=False) == [piece[" "], piece["abc"]]
    assert tokenizer.encode("你é", add_bos=False) == [piece[" "], piece["你"], piece["é"]]
    assert tokenizer.encode("ü", add_bos=False) == [piece[" "], 3 + 0xC3, 3 + 0xBC]
    assert tokenizer.encode("a</s>a", add_bos=False) == [piece[" "], piece["a"], 2, piece["a"]]


def test_scored_merges_take_the_leftmost_of_equals(tmp_path: Path) -> None:
    vocab = [b"<unk>", b"<s>", b" ", b"a", b"aa", b"aaa"]
    data = TokenizerData(vocab, [0.0, 0.0, -9.0, -9.0, -1.0, -2.0], 1, (1,), False, None)
    write_tokenizer(tmp_path / "a.t", data)
    tokenizer = Tokenizer.open(tmp_path / "a.t")
    assert tokenizer.encode("aaaaa") == [2, 4, 5]
    assert tokenizer.encode("éü") == [2, 0]  # unknown neighbours are one token
    assert tokenizer.encode("a" * 50_001)[-1] == 5


def test_scored_byte_level_ids_are_nearly_those_of_hugging_face(tmp_path: Path) -> None:
    text = (TEXTS / "heldout.txt").read_text(encoding="utf-8")
    ids, reference = Counter(scored_bard(tmp_path).encode(text)), Counter(bard().encode(text))
    assert ((ids - reference) + (reference - ids)).total() < 0.01 * reference.total()


def test_scored_special_names_become_ids(tmp_path: Path) -> None:
    tokenizer = scored_bard(tmp_path)
    ids = tokenizer.encode("<|start_header_id|>user<|end_header_id|>\n", add_bos=False)
    assert ids[0] == 2045
    assert 2046 in ids
    assert tokenizer.decode(ids) == "user\n"


def test_a_character_without_a_token_is_an_error(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "a.t", TokenizerData([b" ", b"a"], [0.0, 0.0], -1, (), False, None))
    with pytest.raises(ConfigError, match="no token for 'é'"):
        Tokenizer.open(tmp_path / "a.t").encode("é")


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_is_not_unicode_is_an_error(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid Unicode at 1"):
        KINDS[kind](tmp_path).encode("a\ud800")


def test_a_text_that_is_much_too_long_is_not_encoded() -> None:
    tokenizer = bard()
    for text, most in (("hello " * 400_000, 9), ("hello " * 40_000, 9_000)):
        message = f"a text of {len(text)} bytes has more than {most} tokens"
        with pytest.raises(ContextError, match=message):
            tokenizer.encode(text, most=most)
    text = "hello " * 12_000
    ids = tokenizer.encode(text)
    assert tokenizer.encode(text, most=len(ids) * 2 // 3) == ids  # sure only when it is encoded
    assert tokenizer.encode("hello " * 9, most=1) == tokenizer.encode("hello " * 9)


def test_other_threads_run_while_a_text_is_encoded() -> None:
    tokenizer, text = bard(), "What is this, my lord? " * 10_000
    gaps, last = [], time.perf_counter()
    thread = threading.Thread(target=tokenizer.encode, args=(text,))
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        gaps.append(time.perf_counter() - last)
        last = time.perf_counter()
    assert max(gaps) < sum(gaps) / 2


def test_a_hugging_face_folder_opens_with_its_config_files(tmp_path: Path) -> None:
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    config = {"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|eot_id|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.open(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.add_bos) == (2043, (2047,), True)
    (tmp_path / "config.json").write_text('{"eos_token_id": 2044}')
    assert Tokenizer.open(tmp_path).eos_ids == (2044,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2047, 2044, 2047]}')
    assert Tokenizer.open(tmp_path).eos_ids == (2047, 2044)


def test_add_bos_of_the_configuration_adds_one(tmp_path: Path) -> None:
    fast_sentencepiece(tmp_path)
    config = {"bos_token": "<s>", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.open(tmp_path)
    assert tokenizer.encode("hello")[0] == 1
    assert tokenizer.encode("<s>hello")[:2] != [1, 1]
    assert tokenizer.encode("hello", add_bos=False)[0] != 1


def test_a_folder_may_hold_one_t_file_of_any_name(tmp_path: Path) -> None:
    scored_bard(tmp_path)
    assert Tokenizer.open(tmp_path).vocab_size == 2048


def test_a_tokenizer_json_stands_for_its_folder() -> None:
    tokenizer = Tokenizer.open(DEMO / "tokenizer.json")
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (2043, (2044,))


def test_no_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.t and no tokenizer\.json"):
        Tokenizer.open(tmp_path)
    with pytest.raises(ModelError, match=r"missing\.t: No such file"):
        Tokenizer.open(tmp_path / "missing.t")


def test_files_that_differ_in_size_are_an_error(tmp_path: Path) -> None:
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    data = read_tokenizer(DEMO / "tokenizer.t")
    shorter = TokenizerData(data.vocab[:2046], data.scores[:2046], 2043, (2044,), True, None)
    write_tokenizer(tmp_path / "tokenizer.t", shorter)
    with pytest.raises(FormatError, match="vocabulary is 2048 tokens, expected 2046"):
        Tokenizer.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": {"type": "BPE"}}', "\udcff"])
def test_a_broken_tokenizer_json_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FormatError, match=r"tokenizer\.json: tokenizer is broken"):
        Tokenizer.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", r"config\.json: JSON is broken"),
        ("config.json", "[1]", r"config\.json: JSON is list"),
        (
            "config.json",
            '{"eos_token_id": 2048}',
            "eos_token_id is 2048, expected a",
        ),
        ("config.json", '{"eos_token_id": "x"}', "eos_token_id is 'x'"),
        ("generation_config.json", '{"bos_token_id": -1}', "bos_token_id is -1"),
        ("tokenizer_config.json", "\udcff", r"tokenizer_config\.json: JSON is broken"),
    ],
)
def test_broken_config_files_are_errors(name: str, text: str, message: str, tmp_path: Path) -> None:
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FormatError, match=message):
        Tokenizer.open(tmp_path)


def test_chat_templates(tmp_path: Path) -> None:
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    config = tmp_path / "tokenizer_config.json"
    named = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}, 3]
    config.write_text(json.dumps({"chat_template": named}))
    assert Tokenizer.open(tmp_path).chat_template == "D"
    config.write_text(json.dumps({"chat_template": named[:1]}))
    assert Tokenizer.open(tmp_path).chat_template is None
    config.write_text(json.dumps({"chat_template": "S"}))
    assert Tokenizer.open(tmp_path).chat_template == "S"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert Tokenizer.open(tmp_path).chat_template == "J"


SPACED = "  {% if messages %}\n {{ messages | length }} \n\n  {% endif %}\nD\n"
MACROS = (
    "\n{%- macro say(what) %}{{ what }}{% endmacro %}\n{% set n = tools | length %}\n{{ say(n) }} T"
)


@pytest.mark.parametrize(
    ("default", "tool_use"), [("D\n\n", MACROS), (SPACED, f"{SPACED}\n "), ("", "T")]
)
def test_a_template_for_tools(default: str, tool_use: str, tmp_path: Path) -> None:
    """Each of both writes what it would write alone."""
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    config = tmp_path / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": tool_use}, {"name": "default", "template": default}]
    config.write_text(json.dumps({"chat_template": named}))
    in_config = Tokenizer.open(tmp_path).chat_template
    config.write_text("{}")
    (tmp_path / "chat_template.jinja").write_text(default)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text(tool_use)
    both = Tokenizer.open(tmp_path).chat_template
    assert both == in_config is not None
    messages = [Message("user", "a")]
    for source, variables in ((default, {}), (tool_use, {"tools": [{}]})):
        alone = ChatTemplate(source).render(messages, variables=variables)
        assert ChatTemplate(both).render(messages, variables=variables) == alone
