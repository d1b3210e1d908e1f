"""SentencePiece models: same ids as the sentencepiece library, and broken files."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from dllama.converter.tokenizers.charsmap import check_charsmap
from dllama.converter.tokenizers.protobuf import Message, fields
from dllama.converter.tokenizers.sentencepiece import Style, parse, read_sentencepiece
from dllama.errors import DllamaError, FormatError, ModelError, UnsupportedError

spm = pytest.importorskip("sentencepiece")

DATA = Path(__file__).parents[2] / "data"
# Control names are the documented difference.
MULTILINGUAL = (DATA / "multilingual.txt").read_bytes().decode()
PLAIN = MULTILINGUAL.replace("<s>", "").replace("</s>", "").replace("<unk>", "")
HELDOUT = (DATA / "heldout.txt").read_text(encoding="utf-8").splitlines()
SYMBOLS = ["<tool>", "▁▁", "ab", "abab", "hello", ".*", "[INST]"]
EXTRA = [
    *("", " ", "  ", "   a", "a   ", "aaaaaaaaaa", "\n", "\n\n  \n", "▁", " ▁ ", "x\u200b", "\x00"),
    *("<tool>", "hi<tool>x <tool> y", "abababab ab", "hellohello", ".*.*a", "[INST] hi[INST]"),
]
LLAMA = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False,
         "byte_fallback": True}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "no-bytes": {**LLAMA, "byte_fallback": False},
    "no-prefix": {**LLAMA, "add_dummy_prefix": False},
    "user-defined": {**LLAMA, "user_defined_symbols": SYMBOLS},
    "one-space": {"normalization_rule_name": "identity"},
    "nmt-nfkc": {"byte_fallback": True, "user_defined_symbols": SYMBOLS[:1]},
}


def train(**options: Any) -> bytes:
    """Train a small model; with one thread, it is the same in every run."""
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(HELDOUT[:1000] + PLAIN.splitlines() * 3),
        model_writer=out,
        vocab_size=900,
        character_coverage=0.98,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def model() -> Callable[..., bytes]:
    """Models by their options; each is trained once."""
    done: dict[str, bytes] = {}

    def get(model_type: str = "bpe", name: str = "llama") -> bytes:
        key = f"{model_type} {name}"
        if key not in done:
            done[key] = train(model_type=model_type, **OPTIONS[name])
        return done[key]

    return get


def read(data: bytes, folder: Path, add_bos: bool = False) -> Tokenizer:
    """The tokenizer of a model file."""
    (folder / "tokenizer.model").write_bytes(data)
    return read_sentencepiece(folder / "tokenizer.model", Style(add_bos))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_ids_are_those_of_sentencepiece(
    model: Callable[..., bytes], model_type: str, name: str, tmp_path: Path
) -> None:
    data = model(model_type, name)
    reference, tokenizer = spm.SentencePieceProcessor(model_proto=data), read(data, tmp_path)
    assert tokenizer.get_vocab_size() == reference.vocab_size()
    lines = [*PLAIN.splitlines(), *HELDOUT[:300], *EXTRA]
    for text in lines if model_type == "unigram" else [*lines, PLAIN]:
        expected, found = reference.encode(text), tokenizer.encode(text).ids
        if model_type == "unigram" and found != expected:  # only among equally good splits
            scores = [sum(map(reference.get_score, ids)) for ids in (found, expected)]
            assert scores[0] == pytest.approx(scores[1], rel=1e-5), text
        elif "Combining" not in text or name != "nmt-nfkc":
            assert found == expected, text


@pytest.mark.parametrize("name", ["llama", "no-prefix", "user-defined"])
@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_text_survives(
    model: Callable[..., bytes], model_type: str, name: str, tmp_path: Path
) -> None:
    tokenizer = read(model(model_type, name), tmp_path)
    text = PLAIN.replace("▁", "")
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_control_names_become_ids_and_bos_is_added(
    model: Callable[..., bytes], tmp_path: Path
) -> None:
    tokenizer = read(model(), tmp_path, add_bos=True)
    assert tokenizer.encode("").ids == [1]
    assert tokenizer.encode("the").ids == [1, *read(model(), tmp_path).encode("the").ids]
    ids = tokenizer.encode("a</s>", add_special_tokens=False).ids
    assert ids[-1] == 2
    assert tokenizer.decode(ids) == "a"
    assert read(model(), tmp_path).encode("").ids == []


def test_survives_being_saved(model: Callable[..., bytes], tmp_path: Path) -> None:
    tokenizer = read(model("bpe", "user-defined"), tmp_path, add_bos=True)
    again = Tokenizer.from_str(tokenizer.to_str())
    assert again.encode(MULTILINGUAL).ids == tokenizer.encode(MULTILINGUAL).ids


@pytest.mark.parametrize("model_type", ["word", "char"])
def test_refuses_other_kinds(model_type: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="only BPE and unigram"):
        read(train(model_type=model_type), tmp_path)


def test_refuses_a_space_after_words(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="treat_whitespace_as_suffix"):
        read(train(model_type="bpe", treat_whitespace_as_suffix=True), tmp_path)


def field(number: int, value: bytes | int) -> bytes:
    """Encode a protobuf field of less than 128 bytes, or a small integer."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def piece(text: bytes, kind: int = 1, score: bytes = b"\0\0\0\0") -> bytes:
    """An entry of the vocabulary."""
    return field(1, field(1, text) + b"\x15" + score + field(3, kind))


UNKNOWN = piece(b"<unk>", 2)
BPE = field(2, field(3, 2))


def test_a_model_by_hand(tmp_path: Path) -> None:
    pieces = [piece(b"a"), piece(b"b"), piece(b"ab"), piece("▁".encode())]
    tokenizer = read(UNKNOWN + b"".join(pieces) + BPE, tmp_path)
    assert tokenizer.encode("ab c").ids == [4, 3, 4, 0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 unknown pieces, expected 1"),
        (b"\x0a", "cut off"),
        (b"\x0a\xff\xff\xff\xff\x0f", "longer than what is left"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "longer than what is left"),
        (b"\x0a" + b"\xff" * 11, "an integer is too long"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x01", "an integer where bytes are expected"),
        (UNKNOWN + piece(b"\xff"), "decode"),
        (UNKNOWN + piece(b""), "piece 1 has 0 characters"),
        (UNKNOWN + piece(b"a", 9), "9 is not a valid PieceType"),
        (UNKNOWN + piece(b"a") + piece(b"a"), "piece 'a' appears twice"),
        (UNKNOWN + piece(b"a", 6), "byte piece 'a'"),
        (UNKNOWN + piece(b"a", 1, b"\0\0\xc0\x7f"), "score of piece 1 is nan"),
        (UNKNOWN + field(1, field(1, b"a") + field(2, 1)), "an integer where bytes are expected"),
        (UNKNOWN + field(1, field(1, b"a") + field(2, b"ab")), "has 2 bytes, expected 4"),
        (UNKNOWN + field(2, field(3, b"x")), "holds bytes, expected an integer"),
        (UNKNOWN + field(3, field(2, b"abc")), "character map has 3 bytes"),
        (UNKNOWN + field(3, field(2, b"\x08\0\0\0abcd")), "trie of the character map has 8"),
        (UNKNOWN + field(3, field(2, b"\x04\0\0\0abcd")), "points outside itself"),
    ],
)
def test_broken_files_are_named(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        read(data, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "tokenizer.model"))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.model: No such file"):
        read_sentencepiece(tmp_path / "tokenizer.model")


def test_unused_pieces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="unused pieces"):
        read(UNKNOWN + piece(b"a", 5) + BPE, tmp_path)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_damaged_files_never_crash(
    model: Callable[..., bytes], model_type: str, tmp_path: Path
) -> None:
    data, dice = model(model_type, "nmt-nfkc"), random.Random(5)
    vocab = len(data) - len(next(bytes(v) for n, v in fields(data) if n == 3))  # type: ignore[arg-type]
    for attempt in range(150):
        broken = bytearray(data)
        for _ in range(dice.choice([1, 3, 30])):
            at = dice.randrange(vocab if attempt % 2 else len(data))
            broken[at] = dice.choice([0, 1, 0x7F, 0xFF, dice.randrange(256)])
        cut = len(broken) if attempt % 3 else dice.randrange(len(broken))
        try:
            tokenizer = read(bytes(broken[:cut]), tmp_path)
        except DllamaError:
            continue
        tokenizer.decode(tokenizer.encode(MULTILINGUAL).ids)


def test_damaged_character_maps_are_refused_or_harmless(model: Callable[..., bytes]) -> None:
    charsmap, dice = parse(model("bpe", "nmt-nfkc")).charsmap, random.Random(6)
    check_charsmap(charsmap)
    refused = 0
    for _ in range(60):
        broken = bytearray(charsmap)
        for _ in range(200):
            broken[dice.randrange(4, len(broken))] = dice.randrange(256)
        try:
            check_charsmap(bytes(broken))
        except ValueError:
            refused += 1
    assert refused == 60


def test_the_last_value_of_a_field_counts() -> None:
    message = Message(field(3, 1) + field(3, 2) + field(4, b"a"))
    assert (message.integer(3, 0), message.integer(7, 9), message.data(4)) == (2, 9, b"a")
    assert Message(b"\x18" + b"\xff" * 9 + b"\x01").integer(3, 0) == -1
