"""Writes the tokenizer files of a model folder from those of a checkpoint."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer

from dllama.converter.tokenizers import tekken
from dllama.converter.tokenizers.added import add_tokens, add_unknown_tokens
from dllama.converter.tokenizers.sentencepiece import SPACE, Style, read_sentencepiece
from dllama.errors import OutputError, UnsupportedError
from dllama.json_file import read_json_if_any
from dllama.options.files import POOLING_FILE
from dllama.text.spelling import byte_level_bytes, is_byte_level, literal_ids, piece_bytes
from dllama.text.tokenizer import begins_with, open_fast
from dllama.text.tokenizer_config import (
    TEMPLATE_FILE,
    TOOL_TEMPLATE_FILE,
    TokenizerConfig,
    read_tokenizer_config,
)
from dllama.text.tokenizer_file import TokenizerData, write_tokenizer

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    TEMPLATE_FILE,
    TOOL_TEMPLATE_FILE,
    POOLING_FILE,
)
# Classes of tokenizer_config.json.
LLAMA = ("LlamaTokenizer", "LlamaTokenizerFast")


@dataclass(frozen=True)
class SourceTokenizer:
    """The tokenizer of a checkpoint.

    Attributes:
        path: where it comes from, for error messages.
        tokenizer: None if there is none.
        config: settings from files next to it.
        folder: folder with files to copy unchanged (COPIED), or None.
        changed: whether the tokenizer is not what the folder's tokenizer.json says.
    """

    path: Path
    tokenizer: HfTokenizer | None
    config: TokenizerConfig
    folder: Path | None = None
    changed: bool = False


def open_tokenizer(folder: Path) -> SourceTokenizer:
    """Open the tokenizer of a Hugging Face folder.

    It is tokenizer.json, else tokenizer.model, else Mistral's tekken.json.
    """
    fast, slow = folder / "tokenizer.json", folder / "tokenizer.model"
    ends: tuple[str | None, str | None] = (None, None)
    changed = False
    if fast.is_file():
        path, tokenizer = fast, open_fast(fast)
        changed = add_unknown_tokens(folder, tokenizer)
    elif slow.is_file():
        path, tokenizer = slow, read_sentencepiece(slow, _style(folder))
        add_tokens(folder, tokenizer)
    elif (folder / tekken.FILE).is_file():
        path, tokenizer = folder / tekken.FILE, tekken.read_tekken(folder / tekken.FILE)
        ends = (tekken.BOS, tekken.EOS)
    else:
        return SourceTokenizer(folder, None, TokenizerConfig(None, (), None, None), folder)
    _check_kind(path, tokenizer)
    config = read_tokenizer_config(folder, tokenizer.token_to_id, len(token_bytes(tokenizer)), ends)
    return SourceTokenizer(path, tokenizer, config, folder, changed)


def convert_tokenizer(source: SourceTokenizer, output: Path, vocab_size: int) -> list[str]:
    """Write tokenizer.t and tokenizer.json to `output`, and copy the files that belong to them.

    Args:
        source: without a tokenizer, the model will accept only ids.
        output: the model folder.
        vocab_size: of the model.

    Returns:
        Warnings.

    Raises:
        UnsupportedError: the tokenizer has more tokens than the model.
        OutputError: a file cannot be written.
    """
    if source.folder:
        _copy(source.folder, output)
    if source.tokenizer is None:
        return [f"{source.path}: has no tokenizer, the model accepts only ids"]
    vocab = token_bytes(source.tokenizer)
    if len(vocab) > vocab_size:
        raise UnsupportedError(
            f"{source.path}: has {len(vocab)} tokens, more than the {vocab_size} of the model"
        )
    write_tokenizer(output / "tokenizer.t", _data(source.config, source.tokenizer, vocab))
    if source.changed or not (output / "tokenizer.json").is_file():
        _write(output / "tokenizer.json", source.tokenizer.to_str())
    if len(vocab) < vocab_size:
        return [f"{source.path}: has {len(vocab)} tokens, the model {vocab_size}"]
    return []


def _check_kind(path: Path, tokenizer: HfTokenizer) -> None:
    """Raise UnsupportedError for a tokenizer that is not used by models of these families."""
    kind = type(tokenizer.model).__name__
    if kind not in ("BPE", "Unigram"):
        raise UnsupportedError(f"{path}: is a {kind} tokenizer, only BPE and Unigram are supported")


def token_bytes(tokenizer: HfTokenizer) -> list[bytes]:
    """Return the bytes of every token; an unused id gets a unique name."""
    byte_level, literal = is_byte_level(tokenizer), literal_ids(tokenizer)
    names = {index: name for name, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    vocab = []
    for index in range(max(names, default=-1) + 1):
        name = names.get(index, f"<unused{index}>")
        if index not in names or index in literal:
            vocab.append(name.encode())
        elif byte_level:
            vocab.append(byte_level_bytes(name))
        else:
            vocab.append(piece_bytes(name))
    return [token or b"<empty>" for token in vocab]


def _data(config: TokenizerConfig, tokenizer: HfTokenizer, vocab: list[bytes]) -> TokenizerData:
    """Return the contents of the .t file."""
    return TokenizerData(
        vocab=vocab,
        scores=token_scores(tokenizer, len(vocab)),
        bos_id=-1 if config.bos_id is None else config.bos_id,
        eos_ids=config.eos_ids,
        add_bos=config.add_bos is True or begins_with(tokenizer, config.bos_id),
        chat_template=config.chat_template,
        prefix_space=_puts_space(tokenizer),
    )


def _puts_space(tokenizer: HfTokenizer) -> bool:
    """Whether a text gets a space in front; byte-level ones count as if it did."""
    found = tokenizer.encode("a", add_special_tokens=False).tokens[:1]
    return is_byte_level(tokenizer) or not found or found[0].startswith(SPACE)


def token_scores(tokenizer: HfTokenizer, count: int) -> list[float]:
    """Return a score for each token; pairs with higher scores merge first.

    These are Unigram's scores, or minus the rank of the merge. Tokens that no merge produces come
    last, in the order of their ids.
    """
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] == "Unigram":
        scores = [float(score) for _, score in model["vocab"]]
        return scores + [0.0] * (count - len(scores))
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    scores = [-float(len(merges) + index) for index in range(count)]
    for rank, merge in reversed(list(enumerate(merges))):
        if (index := model["vocab"].get("".join(merge))) is not None:
            scores[index] = -float(rank)
    return scores


def _style(source: Path) -> Style:
    """How the tokenizer.model of a folder is used: as its tokenizer_config.json says.

    A LlamaTokenizer adds BOS unless that says no, and a space after special tokens only if that
    says so.
    """
    config = read_json_if_any(source / "tokenizer_config.json")
    llama = config.get("tokenizer_class") in LLAMA
    return Style(
        add_bos=config.get("add_bos_token") is not False,
        llama=llama,
        prefix_space=config.get("add_prefix_space") is not False,
        legacy=config.get("legacy") is True or not llama,
    )


def _copy(source: Path, output: Path) -> None:
    """Copy the files that stay unchanged."""
    for name in COPIED:
        if (source / name).is_file():
            try:
                if (output / name).parent != output:
                    (output / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / name, output / name)
            except OSError as error:
                raise OutputError(f"{output / name}: cannot write: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror}") from error
