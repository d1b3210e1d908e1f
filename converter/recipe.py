"""Which weight type each matrix of a model gets, and how errors in its columns count."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dllama.model.spec import ModelSpec, typed_name
from dllama.model.tensors import with_types
from dllama.model.weight_types import WeightType

# How much squared errors in each column of a matrix count, float32 (columns,), by the name that
# `importance_name` returns.
Importance = Mapping[str, NDArray[np.float32]]

# distributed-llama runs files of one of these types. It expects an embedding in f32 and an output
# matrix of its own, even if these are tied.
INTERCHANGE = ("f32", "q40")


def stored_once(weights: str | None, output_weights: str | None) -> bool:
    """Whether a tied embedding is stored once; not if distributed-llama may have to read the file.

    Args:
        weights: the type of all matrices; None: each keeps its own.
        output_weights: the type of the output matrix, if it is another one.
    """
    return output_weights is not None or weights not in INTERCHANGE


def with_output(spec: ModelSpec, kind: WeightType) -> ModelSpec:
    """The spec with another type of the output matrix, and of an embedding that is tied to it."""
    return with_types(spec, {"embedding" if spec.tied else "output": kind})


def importance_name(spec: ModelSpec, tensor: str) -> str:
    """The name that calibration uses for a tensor: experts share one, and so do tied matrices."""
    return "output" if spec.tied and tensor == "embedding" else typed_name(tensor)
