"""Hugging Face folders: config.json, and tensors in safetensors or PyTorch files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dllama.converter.sources.pytorch import PytorchFile
from dllama.converter.sources.safetensors import SafetensorsFile
from dllama.converter.sources.stored import MappedTensor
from dllama.converter.tokenizers.folder import SourceTokenizer, open_tokenizer
from dllama.errors import FormatError, ModelError
from dllama.json_file import read_json

# Tensor files, the preferred one first. For sharded models, the index has the name plus INDEX.
FILES: dict[str, type[SafetensorsFile | PytorchFile]] = {
    "model.safetensors": SafetensorsFile,
    "pytorch_model.bin": PytorchFile,
}
INDEX = ".index.json"


class _TensorFile(Protocol):
    path: Path
    tensors: dict[str, MappedTensor]


class HuggingFaceFolder:
    """A folder with config.json and tensors in one file, or in several with an index."""

    paired = False
    weights = "q40"

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether the path is such a folder."""
        return (path / "config.json").is_file()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.json"
        self.config = read_json(self.config_path)
        self.tensors: Mapping[str, MappedTensor] = self._read_tensors()

    def tokenizer(self) -> SourceTokenizer:
        """Return the tokenizer of the folder."""
        return open_tokenizer(self.path)

    def _read_tensors(self) -> Mapping[str, MappedTensor]:
        """Return all tensors by name, from one file or from all files of the index."""
        for name, kind in FILES.items():
            if (self.path / (name + INDEX)).is_file():
                return self._indexed_tensors(self.path / (name + INDEX), kind)
            if (self.path / name).is_file():
                return kind(self.path / name).tensors
        raise ModelError(f"{self.path}: has no {' or '.join(FILES)}, and no index of such files")

    def _indexed_tensors(
        self, index: Path, kind: type[SafetensorsFile | PytorchFile]
    ) -> dict[str, MappedTensor]:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(file, str) for file in weight_map.values()
        ):
            raise FormatError(index, "weight_map", "broken", "a map from tensors to files")
        files = {name: kind(self._shard(index, name)) for name in sorted(set(weight_map.values()))}
        return {name: self._indexed(index, name, files[file]) for name, file in weight_map.items()}

    def _shard(self, index: Path, name: str) -> Path:
        path = self.path / name
        if Path(name).name != name or not path.is_file():
            raise ModelError(f"{index}: names the file {name!r}, which is not in the folder")
        return path

    def _indexed(self, index: Path, name: str, file: _TensorFile) -> MappedTensor:
        if name not in file.tensors:
            raise FormatError(index, name, f"not in {file.path.name}", "a tensor of that file")
        return file.tensors[name]
