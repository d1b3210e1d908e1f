"""Which weight type each matrix of a model gets, and how errors in its columns count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dllama.model.spec import FLOATS, ModelSpec, typed_name
from dllama.model.tensors import typed, width_of, with_types
from dllama.model.weight_types import WeightType

Q40, Q80, Q50, Q51 = WeightType.Q40, WeightType.Q80, WeightType.Q50, WeightType.Q51
Q4K, Q5K, Q6K = WeightType.Q4K, WeightType.Q5K, WeightType.Q6K

MIXED = "mixed"
_WRITABLE = [kind for kind in WeightType if kind.writable]
_SMALLEST_FIRST = sorted(_WRITABLE, key=lambda kind: kind.block_bytes / kind.block_size)
# What tensors can be converted to, and what all matrices of a model can be converted to.
TYPES = tuple(kind.name.lower() for kind in _SMALLEST_FIRST)
WEIGHTS = (MIXED, *TYPES)
# Those of them that calibration changes.
CALIBRATED = (MIXED, *(kind.name.lower() for kind in _SMALLEST_FIRST if kind.searched))

# How much squared errors in each column of a matrix count, float32 (columns,), by the name that
# ModelSpec.tensor_types uses.
Importance = Mapping[str, NDArray[np.float32]]
# What a column counts at least, as a part of the mean.
UNUSED = np.float32(1e-3)

# distributed-llama runs files of one of these types. It expects an embedding in f32 and an output
# matrix of its own, even if these are tied.
INTERCHANGE = ("f32", "q40")
# Types whose files have an embedding in f32, unless it is tied.
FLOAT_EMBEDDING = ("f32", "f16", "q40", "q80")

# The mixed recipe, by the last word of a tensor's name. Errors of v and down change a model most:
# v has few rows, and what down reads has a few large numbers (docs/accuracy.md). kv_a
# makes keys and values of all heads.
BY_NAME = {"v": Q6K, "v_b": Q6K, "kv_a": Q6K, "down": Q5K}
COMMON = Q4K
# In the last layer, where nothing evens errors out.
IN_LAST = {Q4K: Q5K, Q5K: Q6K, Q6K: Q6K}
# What reads per-layer inputs, or has rows of them. These may be shorter than any block.
PER_LAYER = ("layer_embedding", ".layer_input_up")
# What stands for a type whose blocks are longer than rows are multiples of.
SHORT = {Q4K: Q50, Q5K: Q51, Q6K: Q80}


def stored_once(weights: str | None, output_weights: str | None) -> bool:
    """Whether a tied embedding is stored once; not if distributed-llama may have to read the file.

    Args:
        weights: the type of all matrices; None: each keeps its own.
        output_weights: the type of the output matrix, if it is another one.
    """
    return output_weights is not None or weights not in INTERCHANGE


def with_recipe(spec: ModelSpec, weights: str) -> ModelSpec:
    """The spec with a type for every matrix.

    Args:
        spec: a model.
        weights: one of WEIGHTS.
    """
    common = COMMON if weights == MIXED else WeightType[weights.upper()]
    spec = replace(spec, weight_type=fitting(common, spec.dim), tensor_types=())
    types: dict[str, WeightType] = {}
    for name in typed(spec):
        if name.endswith(FLOATS) or (name == "embedding" and _float_embedding(spec, weights)):
            continue
        width = width_of(spec, name)
        kind = fitting(_mixed(spec, name) if weights == MIXED else common, width)
        small = name.endswith(PER_LAYER) and width % kind.block_size
        types[name] = WeightType.F16 if small else kind
    return with_types(spec, types)


def _float_embedding(spec: ModelSpec, weights: str) -> bool:
    return weights in FLOAT_EMBEDDING and not spec.tied


def _mixed(spec: ModelSpec, name: str) -> WeightType:
    """What the mixed recipe gives a matrix."""
    if name in ("embedding", "output"):
        return Q51 if spec.dim % Q6K.block_size else Q6K
    last = name.rpartition(".")[2]
    if last == "k" and spec.layer(int(name.split(".")[1])).attention.keys_as_values:
        last = "v"
    kind = BY_NAME.get(last, COMMON)
    return IN_LAST[kind] if name.startswith(f"layers.{spec.n_layers - 1}.") else kind


def fitting(kind: WeightType, columns: int) -> WeightType:
    """The type, or the one that stands for it in rows that are not whole blocks of it."""
    return SHORT.get(kind, kind) if columns % kind.block_size else kind


def with_output(spec: ModelSpec, kind: WeightType) -> ModelSpec:
    """The spec with another type of the output matrix, and of an embedding that is tied to it."""
    return with_types(spec, {"embedding" if spec.tied else "output": fitting(kind, spec.dim)})


def columns_of(importance: Importance, spec: ModelSpec, tensor: str) -> NDArray[np.float32] | None:
    """How much errors in the columns of a tensor count; None if all count alike.

    Experts of a layer share this, and a tied embedding counts as the output matrix. Columns that
    calibration has not seen used count a little, since another text may use them.
    """
    output = spec.tied and tensor == "embedding"
    found = importance.get("output" if output else typed_name(tensor))
    return None if found is None else found + UNUSED * found.mean()
