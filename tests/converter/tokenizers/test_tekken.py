"""tekken.json, against a plain byte pair encoder."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from dllama.converter.tokenizers.folder import convert_tokenizer, open_tokenizer
from dllama.errors import FormatError
from dllama.text.tokenizer import Tokenizer

DATA = Path(__file__).parents[2] / "data"
TEXT = re.sub(
    r"<.?s>|<unk>|\[.?INST\]", "", (DATA / "multilingual.txt").read_text(encoding="utf-8")
)
PATTERN = r" ?[A-Za-z]+|[0-9]| +|[^A-Za-z0-9 ]+"
SPECIAL = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]"}
COUNT, SIZE = 10, 600


@cache
def ranks() -> dict[bytes, int]:
    """All bytes, and the best pairs of a text, merged one after the other."""
    tokens = {bytes([byte]): byte for byte in range(256)}
    words = Counter(tuple(bytes([b]) for b in word.encode()) for word in re.findall(PATTERN, TEXT))
    while len(tokens) < SIZE + 20:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        new = b"".join(max(pairs, key=lambda pair: (pairs[pair], pair)))
        tokens.setdefault(new, len(tokens))
        words = Counter({merged(word, new): count for word, count in words.items()})
    return tokens


def merged(word: tuple[bytes, ...], new: bytes) -> tuple[bytes, ...]:
    """A word with all pairs that form a token merged, the leftmost first."""
    out: list[bytes] = []
    for piece in word:
        if out and out[-1] + piece == new:
            out[-1] = new
        else:
            out.append(piece)
    return tuple(out)


def expected(text: str) -> list[int]:
    """Merge the pair of the lowest rank until there is none, as tiktoken does."""
    known = {token: rank for token, rank in ranks().items() if rank < SIZE - COUNT}
    ids = []
    for word in re.findall(PATTERN, text):
        pieces = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [known.get(a + b, SIZE) for a, b in itertools.pairwise(pieces)]
            if not pairs or min(pairs) == SIZE:
                break
            at = pairs.index(min(pairs))
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        ids += [known[piece] + COUNT for piece in pieces]
    return ids


def content(**changes: object) -> dict[str, object]:
    """The contents of a tekken.json."""
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for token, rank in ranks().items()
    ]
    config = {
        "pattern": PATTERN, "num_vocab_tokens": len(vocab), "default_vocab_size": SIZE,
        "default_num_special_tokens": COUNT, "version": "v7",
    }  # fmt: skip
    special = [{"rank": r, "token_str": name, "is_control": True} for r, name in SPECIAL.items()]
    return {"config": config, "vocab": vocab, "special_tokens": special, **changes}


@pytest.fixture
def source(tmp_path):
    """A folder with a tekken.json only."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "tekken.json").write_text(json.dumps(content()))
    return folder


def test_same_ids_as_a_plain_encoder(source, tmp_path):
    (tmp_path / "out").mkdir()
    assert convert_tokenizer(open_tokenizer(source), tmp_path / "out", SIZE) == []
    tokenizer = Tokenizer.open(tmp_path / "out")
    assert tokenizer.vocab_size == SIZE
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))
    assert tokenizer.encode(TEXT) == [1, *expected(TEXT)]
    assert tokenizer.decode(expected(TEXT)) == TEXT
    assert tokenizer.encode("[INST]a[/INST]", add_bos=False) == [3, *expected("a"), 4]
    assert tokenizer.is_special(9)


@pytest.mark.parametrize("count", [COUNT, 30])
def test_special_tokens_that_a_file_does_not_list(source, count):
    """Files of version v3 do not have them: the names are known."""
    made = content()
    del made["special_tokens"]
    made["config"]["default_num_special_tokens"] = count
    (source / "tekken.json").write_text(json.dumps(made))
    found = open_tokenizer(source)
    names = [found.tokenizer.id_to_token(index) for index in range(count)]
    assert names[:5] + names[9:10] == [*SPECIAL.values(), "[TOOL_CALLS]"]
    assert names[19:21] == (["[TOOL_CONTENT]", "<SPECIAL_20>"] if count > COUNT else [])
    assert (found.config.bos_id, found.config.eos_ids) == (1, (2,))
    ids = found.tokenizer.encode("[INST]a[/INST]", add_special_tokens=False).ids
    assert ids == [3, ranks()[b"a"] + count, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {}}, "config is {}, expected an object with a pattern"),
        ({"config": {"pattern": "x"}}, r"config\.default_vocab_size is None"),
        ({"vocab": []}, "vocab is 0 tokens, expected 590"),
        ({"vocab": [{"rank": 1, "token_bytes": "AA=="}]}, r"vocab\[0\] is broken"),
        ({"vocab": [{"rank": 0, "token_bytes": "?"}]}, r"vocab\[0\] is broken"),
        ({"vocab": 3}, "vocab is 3, expected a list"),
        ({"special_tokens": 3}, "special_tokens is 3"),
        ({"special_tokens": [{"rank": 10, "token_str": "<s>"}]}, "rank below 10"),
        ({"special_tokens": []}, "without <s>"),
        ({"config": {**content()["config"], "pattern": "("}}, "tokenizer is broken"),
    ],
)
def test_broken_files_are_named(source, changes, message):
    (source / "tekken.json").write_text(json.dumps(content(**changes)))
    with pytest.raises(FormatError, match=rf"tekken\.json: .*{message}"):
        open_tokenizer(source)
