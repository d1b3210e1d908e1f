"""Checkpoints of several formats behind one interface."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from dllama.converter.sources.gguf import GgufFile
from dllama.converter.sources.huggingface import HuggingFaceFolder
from dllama.converter.sources.meta import MetaFolder
from dllama.converter.sources.stored import MappedFile, Stored
from dllama.converter.tokenizers.folder import SourceTokenizer
from dllama.errors import DllamaError, ModelError


class Checkpoint(Protocol):
    """A model to convert, described in Hugging Face's terms.

    Attributes:
        path: the folder or file.
        config_path: file to name in error messages about `config`.
        config: the contents of a config.json.
        paired: whether the rows of q and k are ordered for RoPE on adjacent pairs.
        added: whether the numbers of the tensors include what families add to them (Source.plus)
            or multiply them by (Source.factor).
        weights: type of the matrices if the user requests none; None: each keeps its own.
        tensors: by Hugging Face's names.
        absent: what to raise for a tensor that the checkpoint lists but does not have.
        files: names of the files beside the config.
    """

    path: Path
    config_path: Path
    config: dict[str, Any]
    paired: bool
    added: bool

    @property
    def weights(self) -> str | None: ...
    @property
    def tensors(self) -> Mapping[str, Stored]: ...
    @property
    def absent(self) -> Mapping[str, DllamaError]: ...
    @property
    def files(self) -> Collection[str]: ...

    def tokenizer(self) -> SourceTokenizer:
        """Return the tokenizer; FormatError, UnsupportedError or ModelError names its file."""
        ...


KINDS = (HuggingFaceFolder, MetaFolder, GgufFile)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint of any format; ModelError if no format matches."""
    for kind in KINDS:
        if kind.recognises(path):
            return kind(path)
    if not path.exists():
        raise ModelError(f"{path}: no such folder or file")
    if path.is_file():
        MappedFile(path)  # may say what the file is
        raise ModelError(f"{path}: not a GGUF file, expected a GGUF file or a folder")
    raise ModelError(f"{path}: has no config.json (Hugging Face) and no params.json (Meta)")
