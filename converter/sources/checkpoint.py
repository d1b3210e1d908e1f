"""What the converter reads: checkpoints of several kinds behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dllama.converter.sources.gguf import GgufFile
from dllama.converter.sources.huggingface import HuggingFaceFolder
from dllama.converter.sources.meta import MetaFolder
from dllama.converter.sources.stored import Stored
from dllama.converter.tokenizers.folder import SourceTokenizer
from dllama.errors import ModelError


class Checkpoint(Protocol):
    """A model to be converted, told in the words of Hugging Face.

    path: the folder or file. config: as of a config.json, and config_path what messages about it
    name. tensors: by the names of Hugging Face. paired: whether rows of q and k are in the order
    in which RoPE turns adjacent pairs. weights: the type to convert to where none is asked for.
    """

    path: Path
    config_path: Path
    config: dict[str, Any]
    paired: bool
    weights: str

    @property
    def tensors(self) -> Mapping[str, Stored]: ...

    def tokenizer(self) -> SourceTokenizer:
        """The tokenizer; FormatError, UnsupportedError or ModelError name its file."""
        ...


KINDS = (HuggingFaceFolder, MetaFolder, GgufFile)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at a path, of whichever kind it is; ModelError where it is of none."""
    for kind in KINDS:
        if kind.recognises(path):
            return kind(path)
    if not path.exists():
        raise ModelError(f"{path}: no such folder or file")
    if path.is_file():
        raise ModelError(f"{path}: is no GGUF file, expected one or a folder")
    raise ModelError(f"{path}: holds no config.json (Hugging Face) and no params.json (Meta)")
