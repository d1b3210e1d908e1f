"""Tokenizer files of a model folder, written from those of a Hugging Face folder."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

import dllama
from dllama.converter.tokenizers.folder import (
    convert_tokenizer,
    open_tokenizer,
    token_bytes,
    token_scores,
)
from dllama.errors import FormatError, OutputError, UnsupportedError
from dllama.text.tokenizer import Tokenizer
from dllama.text.tokenizer_file import read_tokenizer

DEMO = Path(dllama.__file__).parent / "demo"
DATA = Path(__file__).parents[2] / "data"
MULTILINGUAL = (DATA / "multilingual.txt").read_bytes().decode()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A Hugging Face folder with a byte-level tokenizer of 2048 tokens."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(DEMO / name, folder)
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


def put(folder: Path, name: str, **values: Any) -> None:
    """Write a JSON file."""
    (folder / name).write_text(json.dumps(values))


def test_writes_what_the_model_folder_needs(source: Path, output: Path) -> None:
    assert convert_tokenizer(open_tokenizer(source), output, 2048) == []
    copied = ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in output.iterdir()) == sorted([*copied, "tokenizer.t"])
    for name in copied:
        assert (output / name).read_bytes() == (source / name).read_bytes()
    data = read_tokenizer(output / "tokenizer.t")
    assert (len(data.vocab), data.bos_id, data.eos_ids, data.add_bos) == (2048, 2043, (2044,), True)
    template = json.loads((source / "tokenizer_config.json").read_text())["chat_template"]
    assert data.chat_template == template


def test_tokens_are_raw_bytes(source: Path, output: Path) -> None:
    convert_tokenizer(open_tokenizer(source), output, 2048)
    data = read_tokenizer(output / "tokenizer.t")
    assert sorted(token for token in data.vocab if len(token) == 1) == [
        bytes([byte]) for byte in range(256)
    ]
    assert data.vocab[2043:] == [
        b"<|begin_of_text|>", b"<|end_of_text|>", b"<|start_header_id|>", b"<|end_header_id|>",
        b"<|eot_id|>",
    ]  # fmt: skip
    reference = HfTokenizer.from_file(str(source / "tokenizer.json"))
    ids = reference.encode(MULTILINGUAL, add_special_tokens=False).ids
    assert b"".join(data.vocab[index] for index in ids) == MULTILINGUAL.encode()


def test_scores_rank_tokens_as_their_merges(source: Path) -> None:
    tokenizer = HfTokenizer.from_file(str(source / "tokenizer.json"))
    scores = token_scores(tokenizer, 2048)
    model = json.loads(tokenizer.to_str())["model"]
    merged = [scores[model["vocab"]["".join(merge)]] for merge in model["merges"]]
    assert merged == [-float(rank) for rank in range(len(merged))]
    assert min(merged) > max(scores[: min(model["vocab"]["".join(m)] for m in model["merges"])])


def piece_tokenizer() -> HfTokenizer:
    """A tokenizer like Llama 2's: fallback bytes, spaces as U+2581."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
    ids = {name: index for index, name in enumerate(names)}
    model = models.BPE(ids, [("▁", "a")], unk_token="<unk>", byte_fallback=True)
    tokenizer = HfTokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def test_sentencepiece_tokens_are_raw_bytes_too() -> None:
    tokenizer = piece_tokenizer()
    tokenizer.add_tokens([AddedToken("▁▁", normalized=False)])
    tokenizer.add_special_tokens(["<｜end▁of｜>"])
    vocab = token_bytes(tokenizer)
    assert vocab[3:259] == [bytes([byte]) for byte in range(256)]
    assert vocab[:3] == [b"<unk>", b"<s>", b"</s>"]
    assert vocab[259:262] == [b" ", b"a", b" a"]
    assert vocab[262:] == [b"  ", "<｜end▁of｜>".encode()]


@pytest.mark.parametrize("space", [True, False])
def test_the_t_file_alone_puts_a_space_before_a_text_as_the_original(
    space: bool, source: Path, output: Path
) -> None:
    original = piece_tokenizer()
    if space:
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        original.normalizer = normalizers.Sequence(steps)
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        original.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    original.save(str(source / "tokenizer.json"))
    put(source, "tokenizer_config.json", bos_token="<s>")
    put(source, "generation_config.json", eos_token_id=2)
    convert_tokenizer(open_tokenizer(source), output, 262)
    (output / "tokenizer.json").unlink()
    alone = Tokenizer.open(output / "tokenizer.t")
    for text in ("a", " a", "a a", "b"):
        ids = original.encode(text, add_special_tokens=False).ids
        assert alone.encode(text) == ids, text
        assert alone.decode(ids) == text


def test_ids_without_a_token_get_a_name(source: Path, output: Path) -> None:
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"]["é"] = 2050
    put(source, "tokenizer.json", **tokenizer)
    convert_tokenizer(open_tokenizer(source), output, 2051)
    assert read_tokenizer(output / "tokenizer.t").vocab[2048:] == [
        b"<unused2048>", b"<unused2049>", b"\xe9",
    ]  # fmt: skip
    assert Tokenizer.open(output).vocab_size == 2051


def test_a_folder_without_tokenizer_is_a_warning(output: Path, tmp_path: Path) -> None:
    (warning,) = convert_tokenizer(open_tokenizer(tmp_path), output, 100)
    assert "accepts only ids" in warning
    assert not list(output.iterdir())


def test_a_smaller_tokenizer_is_a_warning(source: Path, output: Path) -> None:
    (warning,) = convert_tokenizer(open_tokenizer(source), output, 2100)
    assert "has 2048 tokens, the model 2100" in warning
    assert len(read_tokenizer(output / "tokenizer.t").vocab) == 2048


def test_a_larger_tokenizer_is_an_error(source: Path, output: Path) -> None:
    with pytest.raises(UnsupportedError, match="2048 tokens, more than the 2000 of the model"):
        convert_tokenizer(open_tokenizer(source), output, 2000)


@pytest.mark.parametrize(
    ("generation", "model", "config", "expected"),
    [
        ([2047, 2044], 2044, "<|eot_id|>", (2047, 2044)),
        (2047, [2044], "<|end_of_text|>", (2047,)),
        (None, [2044, 2047], "<|eot_id|>", (2044, 2047)),
        (None, None, "<|eot_id|>", (2047,)),
        (None, None, {"content": "<|end_of_text|>", "special": True}, (2044,)),
        (None, None, "no such token", ()),
        (None, None, None, ()),
    ],
)
def test_eos_ids(
    generation: object,
    model: object,
    config: object,
    expected: tuple[int, ...],
    source: Path,
    output: Path,
) -> None:
    put(source, "generation_config.json", eos_token_id=generation)
    put(source, "config.json", eos_token_id=model, bos_token_id=2043)
    put(source, "tokenizer_config.json", eos_token=config)
    convert_tokenizer(open_tokenizer(source), output, 2048)
    assert Tokenizer.open(output).eos_ids == expected
    assert Tokenizer.open(output).bos_id == 2043


def test_bos_may_be_absent(source: Path, output: Path) -> None:
    tokenizer = HfTokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.post_processor = None
    tokenizer.save(str(source / "tokenizer.json"))
    put(source, "generation_config.json")
    put(source, "tokenizer_config.json", bos_token=None)
    convert_tokenizer(open_tokenizer(source), output, 2048)
    opened = Tokenizer.open(output)
    assert (opened.bos_id, opened.add_bos) == (None, False)
    assert opened.encode("a", add_bos=True) == opened.encode("a") == tokenizer.encode("a").ids


@pytest.mark.parametrize(
    "template",
    ["T", [{"name": "rag", "template": "R"}, {"name": "default", "template": "T"}]],
)
def test_chat_templates(template: object, source: Path, output: Path) -> None:
    put(source, "tokenizer_config.json", chat_template=template)
    convert_tokenizer(open_tokenizer(source), output, 2048)
    assert read_tokenizer(output / "tokenizer.t").chat_template == "T"
    (source / "chat_template.jinja").write_text("é J")
    convert_tokenizer(open_tokenizer(source), output, 2048)
    assert read_tokenizer(output / "tokenizer.t").chat_template == "é J"
    assert (output / "chat_template.jinja").read_text(encoding="utf-8") == "é J"
    tools = "additional_chat_templates/tool_use.jinja"
    (source / tools).parent.mkdir()
    (source / tools).write_text("T")
    convert_tokenizer(open_tokenizer(source), output, 2048)
    assert (output / tools).read_text() == "T"
    both = Tokenizer.open(output).chat_template
    assert both != "é J"
    assert read_tokenizer(output / "tokenizer.t").chat_template == both


def test_a_wrong_id_names_the_file(source: Path, output: Path) -> None:
    put(source, "generation_config.json", eos_token_id=5000)
    with pytest.raises(FormatError, match=r"generation_config\.json: eos_token_id is 5000"):
        convert_tokenizer(open_tokenizer(source), output, 2048)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (models.WordLevel({"a": 0}, "a"), "WordLevel"),
        (models.WordPiece({"a": 0}, unk_token="a"), "WordPiece"),
    ],
)
def test_other_kinds_are_refused(model: Any, name: str, source: Path, output: Path) -> None:
    tokenizer = HfTokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(source / "tokenizer.json"))
    with pytest.raises(UnsupportedError, match=f"is a {name} tokenizer"):
        convert_tokenizer(open_tokenizer(source), output, 2048)


def test_an_output_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        convert_tokenizer(open_tokenizer(source), tmp_path / "missing", 2048)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("add_bos", [None, True, False])
def test_sentencepiece_models(
    model_type: str, add_bos: bool | None, source: Path, output: Path
) -> None:
    spm = pytest.importorskip("sentencepiece")
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter((DATA / "heldout.txt").read_text(encoding="utf-8").splitlines()),
        model_writer=out, vocab_size=600, model_type=model_type, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1,
        minloglevel=2,
    )  # fmt: skip
    for path in source.iterdir():
        path.unlink()
    (source / "tokenizer.model").write_bytes(out.getvalue())
    named = {} if add_bos is None else {"add_bos_token": add_bos}
    put(source, "tokenizer_config.json", bos_token="<s>", eos_token="</s>", **named)
    convert_tokenizer(open_tokenizer(source), output, 600)
    reference = spm.SentencePieceProcessor(model_proto=out.getvalue())
    text = MULTILINGUAL.replace("<s>", "").replace("</s>", "").replace("<unk>", "")
    bos = [] if add_bos is False else [1]
    opened = Tokenizer.open(output)
    assert (opened.vocab_size, opened.bos_id, opened.eos_ids) == (600, 1, (2,))
    assert opened.encode(text) == bos + reference.encode(text)
    data = read_tokenizer(output / "tokenizer.t")
    assert data.add_bos is (add_bos is not False)
    if model_type == "bpe":  # the .t file alone is enough
        shutil.copy(output / "tokenizer.t", output / "alone.t")
        assert Tokenizer.open(output / "alone.t").encode(text) == opened.encode(text)
