"""Tensors of a .m file for the oracle: quantised ones stay quantised."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dllama.model.file import ModelFile, TensorInfo
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

from .llama import Weight
from .quants import unpack_q40, unpack_q80


def read_model(path: Path) -> tuple[ModelSpec, dict[str, Weight]]:
    """Spec and tensors of a .m file: float32, float16 or Blocks, as stored."""
    with ModelFile.open(path) as model:
        tensors = {
            name: _weight(np.array(model.raw(name)), info) for name, info in model.tensors.items()
        }
        return model.spec, tensors


def _weight(raw: np.ndarray, info: TensorInfo) -> Weight:
    if info.weight_type is WeightType.Q40:
        return unpack_q40(raw, info.shape[0])
    if info.weight_type is WeightType.Q80:
        return unpack_q80(raw, info.shape[0])
    stored = "<f2" if info.weight_type is WeightType.F16 else "<f4"
    return raw.reshape(-1).view(stored).reshape(info.shape)
