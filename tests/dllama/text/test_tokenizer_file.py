"""Tokenizer files: reading returns what was written, and broken files are named."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from dllama.errors import FormatError, ModelError, OutputError, UnsupportedError
from dllama.text.tokenizer_file import TokenizerData, read_tokenizer, write_tokenizer

DATA = TokenizerData(
    vocab=[b"a", b"\xc3", b" the", b"<s>", b"</s>"],
    scores=[-1.0, -2.0, 0.5, 0.0, 0.0],
    bos_id=3,
    eos_ids=(4, 2),
    add_bos=True,
    chat_template="{{ messages }} \u00e9",
)


def build(pairs: dict[int, int], rest: bytes = b"", magic=0x567124, size=None) -> bytes:
    body = b"".join(struct.pack("<ii", key, value) for key, value in pairs.items())
    return struct.pack("<Ii", magic, 8 + len(body) if size is None else size) + body + rest


def tokens(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<fI", 1.0, len(text)) + text for text in texts)


MINIMAL = {0: 1, 1: 2, 2: 1, 3: 0}


@pytest.mark.parametrize(
    "data",
    [
        DATA,
        replace(DATA, chat_template=None),
        replace(DATA, bos_id=-1, eos_ids=(), add_bos=False),
        replace(DATA, prefix_space=False),
    ],
)
def test_reading_returns_what_was_written(tmp_path, data):
    write_tokenizer(tmp_path / "x.t", data)
    assert read_tokenizer(tmp_path / "x.t") == data


def test_keys_of_older_files_are_read(tmp_path):
    """EOS and chat EOS as ids in the header, and a chat stop text that is skipped."""
    pairs = {**MINIMAL, 4: 1, 6: 0, 5: 1, 8: 4, 7: 2}
    (tmp_path / "x.t").write_bytes(build(pairs, b"STOPhi" + tokens(b"a", b"b")))
    data = read_tokenizer(tmp_path / "x.t")
    assert (data.vocab, data.eos_ids, data.chat_template) == ([b"a", b"b"], (1, 0), "hi")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"", "header"),
        (build(MINIMAL, tokens(b"a", b"b"), magic=1), "magic"),
        (build(MINIMAL, size=4), "header size"),
        (build(MINIMAL, size=13), "header size"),
        (build(MINIMAL, size=1 << 30), "header size"),
        (build(MINIMAL, size=48), "cut off"),
        (build({1: 2, 2: 1}, tokens(b"a", b"b")), "version"),
        (build({0: 1, 2: 1}, tokens(b"a", b"b")), "vocab_size"),
        (build({**MINIMAL, 0: 2}, tokens(b"a", b"b")), "version"),
        (build({**MINIMAL, 1: 0}, tokens(b"a", b"b")), "vocab_size"),
        (build({**MINIMAL, 1: -1}, tokens(b"a", b"b")), "vocab_size"),
        (build({**MINIMAL, 1: 1 << 24}, tokens(b"a", b"b")), "vocab_size"),
        (build({**MINIMAL, 2: 0}, tokens(b"a", b"b")), "max_token_length"),
        (build({**MINIMAL, 3: 2}, tokens(b"a", b"b")), "bos_id"),
        (build({**MINIMAL, 3: -2}, tokens(b"a", b"b")), "bos_id"),
        (build({**MINIMAL, 4: 2}, tokens(b"a", b"b")), "eos id"),
        (build({**MINIMAL, 7: -1}, tokens(b"a", b"b")), "chat_template"),
        (build({**MINIMAL, 7: 1 << 30}, tokens(b"a", b"b")), "chat_template"),
        (build({**MINIMAL, 7: 1}, b"\xff" + tokens(b"a", b"b")), "chat template"),
        (build({**MINIMAL, 9: 5000}, tokens(b"a", b"b")), "n_eos_tokens"),
        (build({**MINIMAL, 9: 1}, struct.pack("<i", 9) + tokens(b"a", b"b")), "eos id"),
        (build({**MINIMAL, 10: 2}, tokens(b"a", b"b")), "add_bos"),
        (build({**MINIMAL, 1000: 2}, tokens(b"a", b"b")), "prefix_space"),
        (build(MINIMAL, tokens(b"a")), "token 1"),
        (build(MINIMAL, tokens(b"a", b"b") + b"x"), "file size"),
        (build(MINIMAL, tokens(b"a") + struct.pack("<fI", 1.0, 1 << 31)), "token 1"),
        (build(MINIMAL, tokens(b"a") + struct.pack("<fI", float("nan"), 1) + b"b"), "score"),
    ],
)
def test_every_field_is_checked(tmp_path, content, field):
    path = tmp_path / "bad.t"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read_tokenizer(path)
    assert field in caught.value.field
    assert str(path) in str(caught.value)


def test_unknown_keys_and_old_files_are_refused(tmp_path):
    (tmp_path / "x.t").write_bytes(build({**MINIMAL, 77: 1}, tokens(b"a", b"b")))
    with pytest.raises(UnsupportedError, match="key 77"):
        read_tokenizer(tmp_path / "x.t")
    (tmp_path / "x.t").write_bytes(build(MINIMAL, magic=0x567123))
    with pytest.raises(UnsupportedError, match="old tokenizer"):
        read_tokenizer(tmp_path / "x.t")


def test_files_that_cannot_be_read_or_written_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"none\.t"):
        read_tokenizer(tmp_path / "none.t")
    with pytest.raises(OutputError, match=r"x\.t"):
        write_tokenizer(tmp_path / "none" / "x.t", DATA)
