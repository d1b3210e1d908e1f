"""The tokenizer files of a model folder, from those of a Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dllama.converter.huggingface import read_json
from dllama.converter.sentencepiece import read_sentencepiece
from tokenizers import Tokenizer as HfTokenizer

from dllama.errors import FormatError, OutputError, UnsupportedError
from dllama.tokenizer import open_fast
from dllama.tokenizerfile import TokenizerData, write_tokenizer

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)


def convert_tokenizer(source: Path, output: Path, vocab_size: int) -> list[str]:
    """Write tokenizer.t and tokenizer.json to `output`, and copy what goes with them.

    Takes tokenizer.json, else tokenizer.model; a folder with neither gives a model that runs
    on ids. Returns warnings. UnsupportedError if the tokenizer has more than vocab_size tokens.
    """
    _copy(source, output)
    path, tokenizer = _open(source)
    if tokenizer is None:
        return [f"{source}: has no tokenizer.json or tokenizer.model, the model runs on ids"]
    vocab = token_bytes(tokenizer)
    if len(vocab) > vocab_size:
        raise UnsupportedError(
            f"{path}: has {len(vocab)} tokens, more than the {vocab_size} of the model"
        )
    write_tokenizer(output / "tokenizer.t", _data(source, tokenizer, vocab, path))
    if path.name != "tokenizer.json":
        _write(output / "tokenizer.json", tokenizer.to_str())
    if len(vocab) < vocab_size:
        return [f"{path}: has {len(vocab)} tokens, the model {vocab_size}"]
    return []


def _open(source: Path) -> tuple[Path, HfTokenizer | None]:
    """The tokenizer of a folder, and the file it came from."""
    fast, slow = source / "tokenizer.json", source / "tokenizer.model"
    if fast.is_file():
        return fast, open_fast(fast)
    if not slow.is_file():
        return slow, None
    add_bos = _optional(source / "tokenizer_config.json").get("add_bos_token")
    return slow, read_sentencepiece(slow, add_bos is not False)


def token_bytes(tokenizer: HfTokenizer) -> list[bytes]:
    """The bytes of every token by id; ids without a token get a name of their own."""
    model = json.loads(tokenizer.to_str())
    added = {entry["id"] for entry in model.get("added_tokens", [])}
    byte_level = '"ByteLevel"' in json.dumps([model.get("pre_tokenizer"), model.get("decoder")])
    names = {index: name for name, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    table = _byte_level_table()
    vocab = []
    for index in range(max(names, default=-1) + 1):
        name = names.get(index, f"<unused{index}>")
        if index in added or index not in names:
            vocab.append(name.encode())
        elif byte_level:
            vocab.append(_byte_level_bytes(name, table))
        else:
            vocab.append(_piece_bytes(name))
    return [token or b"<empty>" for token in vocab]


def _byte_level_bytes(name: str, table: dict[str, int]) -> bytes:
    """A byte-level token; characters outside the table stand for themselves."""
    return b"".join(bytes([table[c]]) if c in table else c.encode() for c in name)


def _piece_bytes(name: str) -> bytes:
    """A SentencePiece token: <0xNN> is a byte, U+2581 a space."""
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        try:
            return bytes([int(name[3:5], 16)])
        except ValueError:
            pass
    return name.replace("\u2581", " ").encode()


def _byte_level_table() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


def _data(source: Path, tokenizer: HfTokenizer, vocab: list[bytes], path: Path) -> TokenizerData:
    """What the .t file says besides the tokens; a token's score is minus its rank."""
    config = _optional(source / "tokenizer_config.json")
    model = _optional(source / "config.json")
    generation = _optional(source / "generation_config.json")
    bos = _id(config.get("bos_token"), tokenizer)
    if bos is None:
        bos = next((i for c in (generation, model) for i in _ids(c.get("bos_token_id"))), None)
    eos = _eos_ids(config, model, generation, tokenizer)
    for name, index in [("bos", bos), *(("eos", index) for index in eos)]:
        if index is not None and not 0 <= index < len(vocab):
            raise FormatError(path, f"{name} id", index, f"0 to {len(vocab) - 1}")
    return TokenizerData(
        vocab=vocab,
        scores=_scores(tokenizer, len(vocab)),
        bos_id=-1 if bos is None else bos,
        eos_ids=eos,
        add_bos=_adds_bos(config, tokenizer, bos),
        chat_template=_chat_template(source, config),
    )


def _eos_ids(
    config: dict[str, Any],
    model: dict[str, Any],
    generation: dict[str, Any],
    tokenizer: HfTokenizer,
) -> tuple[int, ...]:
    """Ids that end a text: those of the generation defaults, the model, or the tokenizer."""
    for given in (generation, model):
        if ids := tuple(_ids(given.get("eos_token_id"))):
            return ids
    index = _id(config.get("eos_token"), tokenizer)
    return () if index is None else (index,)


def _ids(value: object) -> Iterator[int]:
    """The ids of a number or a list of numbers."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, int) and not isinstance(item, bool):
            yield item


def _id(token: object, tokenizer: HfTokenizer) -> int | None:
    """The id of a token given as text or as an object with its content."""
    name = token.get("content") if isinstance(token, dict) else token
    index = tokenizer.token_to_id(name) if isinstance(name, str) else None
    return None if index is None else int(index)


def _adds_bos(config: dict[str, Any], tokenizer: HfTokenizer, bos: int | None) -> bool:
    """Whether a text gets a bos, as the tokenizer itself does it."""
    ids = tokenizer.encode("a", add_special_tokens=True).ids
    return bool(bos is not None and ids and ids[0] == bos) or bool(config.get("add_bos_token"))


def _scores(tokenizer: HfTokenizer, count: int) -> list[float]:
    """Unigram scores, or minus the id: ids of BPE tokens are in the order of the merges."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("type") == "Unigram":
        scores = [float(score) for _, score in model["vocab"]]
        return scores + [0.0] * (count - len(scores))
    return [-float(index) for index in range(count)]


def _chat_template(source: Path, config: dict[str, Any]) -> str | None:
    """The template of the file or of tokenizer_config.json; of several, the default one."""
    file = source / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _copy(source: Path, output: Path) -> None:
    """Copy the files that go along unchanged."""
    for name in COPIED:
        if (source / name).is_file():
            try:
                shutil.copyfile(source / name, output / name)
            except OSError as error:
                raise OutputError(f"{output / name}: cannot write: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror}") from error
