"""GGUF files that are cut off, or whose header is wrong."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest

from dllama.converter import convert
from dllama.converter.gguf_model import GgufModel
from dllama.converter.sources.gguf import GgufFile
from dllama.errors import DllamaError, ModelError

ggufmodel = pytest.importorskip("ggufmodel")


def header(version=3, tensors=0, pairs=0, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + rest


def text(value):
    return struct.pack("<Q", len(value)) + value


HUGE = (1 << 64) - 1


@pytest.fixture
def path(tmp_path):
    """Where a test writes its file."""
    return tmp_path / "model.gguf"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF", "cut off"),
        (header(1), "version 1"),
        (header(50331648), "is a big-endian GGUF file"),
        (b"FUGG" + header()[4:], "is a big-endian GGUF file"),
        (header(tensors=HUGE), "length at byte 8"),
        (header(pairs=HUGE), "length at byte 16"),
        (header(pairs=1, rest=struct.pack("<Q", HUGE)), "length at byte 24"),
        (header(pairs=1, rest=text(b"\xff") + struct.pack("<I", 4)), "not UTF-8"),
        (header(pairs=1, rest=text(b"a") + struct.pack("<I", 99)), "type of a is 99"),
        (header(pairs=1, rest=text(b"a") + struct.pack("<IIQ", 9, 0, HUGE)), "length at byte"),
        (header(pairs=1, rest=text(b"a") + struct.pack("<IIQ", 9, 8, HUGE)), "length at byte"),
        (header(pairs=1, rest=text(b"a") + struct.pack("<IIQ", 9, 9, 1)), "array of type 9"),
        (header(pairs=2, rest=(text(b"a") + struct.pack("<II", 4, 1)) * 2), "given twice"),
        (header(pairs=1, rest=text(b"general.alignment") + struct.pack("<II", 4, 0)), "alignment"),
        (header(tensors=1, rest=text(b"a") + struct.pack("<I", 9)), "dimensions of a is 9"),
        (header(tensors=1, rest=text(b"a") + struct.pack("<IQQIQ", 2, HUGE, 2, 0, 0)), "shape"),
        (header(tensors=1, rest=text(b"a") + struct.pack("<IQIQ", 1, 4, 0, 1 << 62)), "cut off"),
        (header(tensors=1, rest=text(b"a") + struct.pack("<IQIQ", 1, 4, 0, 7)), "offset of a is 7"),
        (header(tensors=2, rest=text(b"a") + struct.pack("<IQIQ", 1, 16, 0, 0) + text(b"b")
                + struct.pack("<IQIQ", 1, 1, 0, 32) + bytes(200)), "begin of b is .* within a"),
        (header(tensors=1, rest=text(b"a") + struct.pack("<IQIQ", 1, 32, 2, 0)), "shape of a"),
        (header(tensors=1, rest=text(b"a") + struct.pack("<IQQIQ", 2, 8, 2, 2, 0)), "shape of a"),
        (header(tensors=2, rest=(text(b"a") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 2), "twice"),
        (header(), "architecture None"),
    ],
)  # fmt: skip
def test_broken_files_are_named(path, content, message):
    path.write_bytes(content + bytes(8 if message == "architecture None" else 0))
    with pytest.raises(DllamaError, match=rf"model\.gguf.*{message}"):
        GgufFile(path)


def test_files_that_are_cut_off(path, fixtures):
    ggufmodel.write_folder(path, fixtures / "llama-gqa", "Q4_0")
    whole = path.read_bytes()
    for size in [*range(4, 3000, 97), len(whole) - 100]:
        path.write_bytes(whole[:size])
        with pytest.raises(DllamaError, match=r"model\.gguf"):
            GgufFile(path)


def test_any_byte_of_the_header_may_be_wrong(path, fixtures):
    """The result is one of dllama's errors or a model, and it comes quickly."""
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
                "tokenizer.ggml.tokens": ["a", "b", "ab"], "tokenizer.ggml.merges": ["a b"],
                "tokenizer.ggml.token_type": [1, 1, 1]}  # fmt: skip
    ggufmodel.write_folder(path, fixtures / "llama31-tied", "Q4_0", **metadata)
    whole = path.read_bytes()
    for at in range(4, 2500):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1, 8, 255)[at % 3]]) + whole[at + 1 :])
        with suppress(DllamaError), GgufModel(path) as model:
            model.tokenizer()


def test_other_files(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"no such thing")
    with pytest.raises(ModelError, match=r"a\.gguf: not a GGUF file"):
        convert(tmp_path / "a.gguf", tmp_path / "out", progress=False)
