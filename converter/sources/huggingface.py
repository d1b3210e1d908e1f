"""Hugging Face folders: config.json, and tensors in safetensors or PyTorch files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

from dllama.converter.sources.multimodal import (
    is_multimodal,
    text_config,
    text_tensors,
    warn_of_parts,
)
from dllama.converter.sources.pytorch import PytorchFile
from dllama.converter.sources.quantised import read_scheme
from dllama.converter.sources.safetensors import SafetensorsFile
from dllama.converter.sources.stored import MappedTensor, Stored
from dllama.converter.tokenizers.folder import SourceTokenizer, open_tokenizer
from dllama.errors import DllamaError, FormatError, ModelError, UnsupportedError
from dllama.json_file import read_json

# Tensor files, the preferred one first. For sharded models, the index has the name plus INDEX.
# A file with all tensors comes before an index, as in transformers.
FILES: dict[str, type[SafetensorsFile | PytorchFile]] = {
    "model.safetensors": SafetensorsFile,
    "pytorch_model.bin": PytorchFile,
}
INDEX = ".index.json"
ADAPTER = "adapter_config.json"
# The name of the embedding in models for embeddings, which are saved without a head.
HEADLESS = "embed_tokens.weight"
T = TypeVar("T")


class HuggingFaceFolder:
    """A folder with config.json and tensors in one file, or in several with an index."""

    paired = False
    added = False

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether the path is such a folder."""
        return (path / "config.json").is_file()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.json"
        whole = read_json(self.config_path)
        multimodal = is_multimodal(whole)
        self.config = text_config(whole, self.config_path) if multimodal else whole
        self.files = frozenset(file.name for file in path.iterdir())
        if ADAPTER in self.files:
            refuse_adapter(path / ADAPTER)
        scheme = read_scheme(self.config, self.files, self.config_path)
        self.weights = scheme.weights if scheme else "mixed"
        self.absent: dict[str, DllamaError] = {}
        tensors = self._read_tensors()
        if multimodal:
            warn_of_parts(tensors, path)
            tensors, self.absent = text_tensors(tensors), text_tensors(self.absent)
        if HEADLESS in {*tensors, *self.absent}:
            tensors, self.absent = _with_head(tensors), _with_head(self.absent)
        self.tensors: Mapping[str, Stored] = tensors
        if scheme:
            found = scheme.matrices(tensors, self.absent, self.config_path)
            self.tensors, self.absent = found

    def tokenizer(self) -> SourceTokenizer:
        """Return the tokenizer of the folder."""
        return open_tokenizer(self.path)

    def _read_tensors(self) -> Mapping[str, MappedTensor]:
        """Return all tensors by name, from one file or from all files of an index."""
        for name, kind in FILES.items():
            if name in self.files:
                return kind(self.path / name).tensors
            if name + INDEX in self.files:
                return self._indexed_tensors(self.path / (name + INDEX), kind)
        raise ModelError(f"{self.path}: has no {' or '.join(FILES)}, and no index of such files")

    def _indexed_tensors(
        self, index: Path, kind: type[SafetensorsFile | PytorchFile]
    ) -> dict[str, MappedTensor]:
        """Return the tensors of all files that an index names, also those that it does not name."""
        weight_map = read_weight_map(index)
        names = sorted(set(weight_map.values()) & self.files)
        files = {name: kind(self.path / name).tensors for name in names}
        found: dict[str, MappedTensor] = {}
        for file, tensors in files.items():
            for name, tensor in tensors.items():
                if weight_map.get(name) not in files or weight_map[name] == file:
                    if name in found:
                        raise FormatError(index, name, "in several files", "a place for it")
                    found[name] = tensor
        for name, file in weight_map.items():
            if name not in found:
                self.absent[name] = self._absent(index, name, file)
        return found

    def _absent(self, index: Path, name: str, file: str) -> DllamaError:
        """Return the error for a tensor that an index names and that is not there."""
        if file not in self.files:
            return ModelError(
                f"{index}: names the file {file!r} for {name}, which is not in the folder"
            )
        return FormatError(index, name, f"not in {file}", "a tensor of that file")


def _with_head(tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors of a model that was saved without its head, as one with a head names them."""
    return {
        name if name.startswith("lm_head.") else f"model.{name}": one
        for name, one in tensors.items()
    }


def refuse_adapter(path: Path) -> NoReturn:
    """Raise UnsupportedError for the description of an adapter beside a model."""
    raise UnsupportedError(f"{path}: an adapter (LoRA) is not supported: merge it into the model")


def read_weight_map(index: Path) -> dict[str, str]:
    """Read an index: the name of a file of the same folder for each tensor.

    Raises:
        ModelError: it cannot be read.
        FormatError: it is not an index, or names a file elsewhere.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        raise FormatError(index, "weight_map", "broken", "a map from tensors to files")
    for name, file in weight_map.items():
        if Path(file).name != file:
            raise FormatError(index, name, repr(file), "a file of the folder")
    return weight_map
