"""Models without weights: what a config.json says."""

from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.converter.convert import read_spec
from dllama.converter.recipe import WEIGHTS, stored_once, with_recipe
from dllama.converter.sources.multimodal import is_multimodal, text_config
from dllama.converter.sources.quantised import READ, mxfp4
from dllama.errors import ConfigError
from dllama.json_file import read_json
from dllama.model.file import tensor_table
from dllama.model.spec import ModelSpec
from dllama.model.stored_model import StoredModel
from dllama.model.tensors import typed, with_types
from dllama.model.weight_types import WeightType

TIED = "tie_word_embeddings"
TENSORS = ("model.safetensors",)  # what a folder with this config.json would have
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


class UnwrittenModel(StoredModel):
    """A model whose tensors are zeros that take no memory."""

    def __init__(self, path: Path, spec: ModelSpec) -> None:
        self.files = (path,)
        self.spec = spec
        self.tensors = tensor_table(spec, 0)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """Zeros: uint8 (nbytes,)."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
        return np.frombuffer(mmap.mmap(-1, self.info(name).nbytes, flags=flags), np.uint8)

    def release(self, name: str) -> None:
        """Nothing was read."""

    def close(self) -> None:
        """Nothing is open."""


def unwritten(path: Path, weights: str | None) -> UnwrittenModel:
    """What a config.json would become.

    Args:
        path: of the config.json.
        weights: type of the matrices, as for `convert`.

    Raises:
        ConfigError: there is no such type.
        ModelError, FormatError, UnsupportedError: the file is wrong.
    """
    return UnwrittenModel(path, _spec(path, weights))


def _spec(path: Path, weights: str | None) -> ModelSpec:
    """The spec of a config.json once it is converted to a type of weights."""
    if weights is not None and weights not in WEIGHTS:
        raise ConfigError(f"weights is {weights!r}, expected one of {', '.join(WEIGHTS)}")
    config = read_json(path)
    whole = text_config(config, path) if is_multimodal(config) else config
    _, spec = read_spec(whole, WeightType.F32, path, TENSORS)
    usual = str(whole.get("model_type", "")).startswith("gemma")  # what transformers assumes
    own = any((whole.get(key) or {}).get("quant_method") == mxfp4.METHOD for key in READ)
    wanted = weights or ("q80" if own else "mixed")
    tied = bool(whole.get(TIED, config.get(TIED, usual))) and stored_once(wanted, None)
    spec = with_recipe(replace(spec, tied=tied), wanted)
    if own and weights is None:
        names = [name for name in typed(spec) if ".experts." in name]
        spec = with_types(spec, dict.fromkeys(names, WeightType.MXFP4))
    return spec
