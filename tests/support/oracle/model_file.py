"""Tensors of a .m file for the oracle: quantised ones stay quantised."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dllama.model.file import ModelFile, TensorInfo
from dllama.model.spec import ModelSpec

from .llama import Weight
from .quants import TYPES


def read_model(path: Path) -> tuple[ModelSpec, dict[str, Weight]]:
    """Spec and tensors of a .m file: float32, float16 or Blocks, as stored."""
    with ModelFile.open(path) as model:
        tensors = {
            name: _weight(np.array(model.raw(name)), info) for name, info in model.tensors.items()
        }
        if model.spec.tied:
            tensors["output"] = tensors["embedding"]
        return model.spec, tensors


def _weight(raw: np.ndarray, info: TensorInfo) -> Weight:
    stored = TYPES[info.weight_type].unpack(raw, info.shape[0])
    return stored if len(info.shape) == 2 else stored.reshape(info.shape)
