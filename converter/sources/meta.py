"""Meta's checkpoints: params.json and consolidated.NN.pth, one file per model-parallel shard.

The format follows llama/model.py of github.com/meta-llama/llama and its successors: layers are cut
for model parallelism, so a tensor is the concatenation of its shards along rows or columns.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.checks import is_number
from dllama.converter.sources.pytorch import PytorchFile
from dllama.converter.sources.stored import MappedTensor, Stored, undivided
from dllama.converter.tokenizers.folder import SourceTokenizer
from dllama.converter.tokenizers.sentencepiece import read_sentencepiece
from dllama.converter.tokenizers.tiktoken import is_tiktoken, read_tiktoken
from dllama.errors import DllamaError, FormatError, ModelError, UnsupportedError
from dllama.json_file import read_json
from dllama.text.tokenizer_config import TokenizerConfig

ROWS, COLUMNS, SAME = 0, 1, None
# Hugging Face's names, and along which axis the shards of a tensor are joined.
NAMES = {
    "attention.wq": ("self_attn.q_proj", ROWS),
    "attention.wk": ("self_attn.k_proj", ROWS),
    "attention.wv": ("self_attn.v_proj", ROWS),
    "attention.wo": ("self_attn.o_proj", COLUMNS),
    "feed_forward.w1": ("mlp.gate_proj", ROWS),
    "feed_forward.w2": ("mlp.down_proj", COLUMNS),
    "feed_forward.w3": ("mlp.up_proj", ROWS),
    "attention_norm": ("input_layernorm", SAME),
    "ffn_norm": ("post_attention_layernorm", SAME),
    "norm": ("model.norm", SAME),
    "output": ("lm_head", ROWS),
}
EMBEDDING = "tok_embeddings.weight"
IGNORED = ("rope.freqs",)
# Keys of params.json that are read, and those that describe a run.
KEYS = frozenset({
    "dim", "ffn_dim_multiplier", "head_dim", "hidden_dim", "high_freq_factor", "low_freq_factor",
    "multiple_of", "n_heads", "n_kv_heads", "n_layers", "norm_eps", "rope_scaling_factor",
    "rope_theta", "sliding_window", "use_scaled_rope", "vocab_size",
})  # fmt: skip
HARMLESS = ("max_batch_size", "max_seq_len", "model_parallel_size")


@dataclass(frozen=True)
class JoinedTensor:
    """A tensor whose shards have equal shapes and are concatenated along an axis."""

    shards: tuple[MappedTensor, ...]
    axis: int
    lossy: str = ""

    @property
    def path(self) -> Path:
        """The file of the first shard."""
        return self.shards[0].path

    @property
    def name(self) -> str:
        """The name in the files."""
        return self.shards[0].name

    @property
    def dtype(self) -> str:
        """The type of all shards."""
        return self.shards[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return tuple(
            size * len(self.shards) if axis == self.axis else size
            for axis, size in enumerate(self.shards[0].shape)
        )

    @property
    def nbytes(self) -> int:
        """Bytes in the files."""
        return sum(shard.nbytes for shard in self.shards)

    def part(self, index: int, count: int, span: int = 1) -> JoinedTensor:
        """Return the tensor itself; these checkpoints have no stacked tensors."""
        return undivided(self, count)

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count: (count, columns)."""
        if self.axis == COLUMNS:
            return np.concatenate([shard.rows(first, count) for shard in self.shards], axis=1)
        size = self.shards[0].shape[0]
        pieces = []
        for index, shard in enumerate(self.shards):
            begin = max(first - index * size, 0)
            end = min(first + count - index * size, size)
            if begin < end:
                pieces.append(shard.rows(begin, end - begin))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def release(self) -> None:
        """Release the memory of the shards' pages."""
        for shard in self.shards:
            shard.release()


class MetaFolder:
    """A folder with params.json and consolidated.00.pth, consolidated.01.pth, ..."""

    paired = True
    added = False
    weights = "mixed"

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether the path is such a folder."""
        return (path / "params.json").is_file()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "params.json"
        self._params = read_json(self.config_path)
        self._check_keys()
        self.files: Collection[str] = ()
        self.absent: dict[str, DllamaError] = {}
        shards = [PytorchFile(file).tensors for file in self._files()]
        self.tensors: Mapping[str, Stored] = dict(self._joined(shards))
        self.config = self._read_config()

    def tokenizer(self) -> SourceTokenizer:
        """Read tokenizer.model from the folder or its parent."""
        places = [folder / "tokenizer.model" for folder in (self.path, self.path.parent)]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            return SourceTokenizer(self.path, None, TokenizerConfig(None, (), None, None))
        if is_tiktoken(path):
            return read_tiktoken(path, old=not self._params.get("use_scaled_rope"))
        return SourceTokenizer(path, read_sentencepiece(path), TokenizerConfig(1, (2,), None, None))

    def _check_keys(self) -> None:
        """Refuse a key that is set and that nothing reads: it may change the model."""
        for key, value in self._params.items():
            harmless = key in HARMLESS or not value or (key == "causal" and value is True)
            if key not in KEYS and not harmless:
                raise UnsupportedError(f"{self.config_path}: {key} {value!r} is not supported")

    def _files(self) -> list[Path]:
        """Return the files in the order of their numbers."""
        files = sorted(self.path.glob("consolidated.*.pth"))
        expected = [f"consolidated.{number:02d}.pth" for number in range(len(files))]
        if not files or [file.name for file in files] != expected:
            found = ", ".join(file.name for file in files) or "no consolidated.00.pth"
            raise ModelError(f"{self.path}: has {found}, expected all from consolidated.00.pth")
        return files

    def _joined(self, shards: list[dict[str, MappedTensor]]) -> Iterator[tuple[str, Stored]]:
        """The tensors by Hugging Face's names."""
        for name in dict.fromkeys(name for shard in shards for name in shard):
            if name in IGNORED:
                continue
            first = next(shard[name] for shard in shards if name in shard)
            theirs, axis = self._name(name, first)
            yield theirs, self._join(name, [shard.get(name) for shard in shards], axis)

    def _name(self, name: str, first: MappedTensor) -> tuple[str, int | None]:
        """Return Hugging Face's name of a tensor, and the axis along which its shards are joined.

        Llama 3 splits the embedding by rows, earlier models by columns.
        """
        if name == EMBEDDING:
            whole = first.shape[-1] == self._params.get("dim")
            return "model.embed_tokens.weight", ROWS if whole else COLUMNS
        match = re.fullmatch(r"(?:layers\.(\d+)\.)?([\w.]+)\.weight", name)
        if match is None or match[2] not in NAMES:
            raise UnsupportedError(f"{first.path}: the tensor {name} is not supported")
        theirs, axis = NAMES[match[2]]
        prefix = "" if match[1] is None else f"model.layers.{match[1]}."
        return f"{prefix}{theirs}.weight", axis

    def _join(self, name: str, shards: list[MappedTensor | None], axis: int | None) -> Stored:
        """Join the shards of a tensor."""
        found = [shard for shard in shards if shard is not None]
        kinds = {(shard.dtype, shard.shape) for shard in found}
        if len(found) != len(shards) or len(kinds) != 1:
            raise FormatError(
                self.path, name, "not the same in all files", f"{len(shards)} equal shards"
            )
        if axis is SAME or len(found) == 1:
            return found[0]
        if len(found[0].shape) != 2:
            raise FormatError(found[0].path, f"shape of {name}", found[0].shape, "a matrix")
        return JoinedTensor(tuple(found), axis)

    def _read_config(self) -> dict[str, Any]:
        """Build a config.json."""
        params = self._params
        output = self.tensors.get("lm_head.weight")
        return {
            "model_type": "llama",
            "hidden_size": params.get("dim"),
            "intermediate_size": self._hidden_dim(),
            "num_hidden_layers": params.get("n_layers"),
            "num_attention_heads": params.get("n_heads"),
            "num_key_value_heads": params.get("n_kv_heads"),
            "head_dim": params.get("head_dim"),
            "rms_norm_eps": params.get("norm_eps"),
            "rope_theta": params.get("rope_theta"),
            "rope_scaling": self._rope_scaling(),
            "max_position_embeddings": self._seq_len(),
            "sliding_window": params.get("sliding_window"),
            "vocab_size": output.shape[0] if output else None,  # params.json may say -1
            "tie_word_embeddings": False,
        }

    def _hidden_dim(self) -> int | None:
        """Return two thirds of 4 * dim, times a factor, rounded up (FeedForward in model.py)."""
        hidden = self._params.get("hidden_dim")
        if hidden is not None:
            return int(self._positive("hidden_dim"))
        width = int(2 * 4 * self._positive("dim") / 3)
        if self._params.get("ffn_dim_multiplier") is not None:
            width = int(self._positive("ffn_dim_multiplier") * width)
        multiple = int(self._positive("multiple_of"))
        return -(-width // multiple) * multiple

    def _positive(self, key: str) -> float:
        """Return a positive number of params.json."""
        value = self._params.get(key)
        if not is_number(value, 1e-3, 1e9):
            raise FormatError(self.config_path, key, repr(value), "a positive number")
        return value

    def _rope_scaling(self) -> dict[str, Any] | None:
        """Return Llama 3.1's scaling, with the factor that Hugging Face's version of the model has.

        params.json does not contain the factor. It is 32 for the small models of Llama 3.2, else 8.
        """
        if not self._params.get("use_scaled_rope"):
            return None
        small = self._positive("dim") < 4096
        return {
            "rope_type": "llama3",
            "factor": self._params.get("rope_scaling_factor") or (32.0 if small else 8.0),
            "low_freq_factor": self._params.get("low_freq_factor") or 1.0,
            "high_freq_factor": self._params.get("high_freq_factor") or 4.0,
            "original_max_position_embeddings": 8192,
        }

    def _seq_len(self) -> int:
        """Guess the context from other fields, because params.json does not contain it."""
        if self._params.get("use_scaled_rope"):
            return 131072  # Llama 3.1
        theta = self._params.get("rope_theta") or 0
        if theta >= 1e6:
            return 16384  # Code Llama
        if theta >= 5e5:
            return 8192  # Llama 3
        return 4096 if self._params.get("norm_eps") == 1e-5 else 2048  # Llama 2, Llama
