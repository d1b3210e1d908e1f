"""The weight types that the tensors of a checkpoint already have."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from dllama.converter.sources.stored import Stored
from dllama.errors import UnsupportedError
from dllama.model.spec import FLOATS, ModelSpec, typed_name
from dllama.model.tensors import typed, with_types
from dllama.model.weight_types import WeightType


def own_type(stored: Stored) -> WeightType | None:
    """The weight type whose bytes a tensor has; None if it is stored in another way."""
    return None if stored.lossy else WeightType.__members__.get(stored.dtype)


def with_own_types(spec: ModelSpec, tensors: Iterable[tuple[str, Stored, WeightType]]) -> ModelSpec:
    """The spec of a model whose matrices keep the types that they are stored in.

    `weight_type` becomes the one that most numbers of the layers have.

    Args:
        spec: the model.
        tensors: of each tensor of the model file: its name, where it is, and its type.

    Raises:
        UnsupportedError: experts of a layer have different types.
    """
    matrices = set(typed(spec))
    types: dict[str, WeightType] = {}
    counts: Counter[WeightType] = Counter()
    for tensor, stored, kind in tensors:
        name = typed_name(tensor)
        if name not in matrices:
            continue
        if types.setdefault(name, kind) is not kind:
            raise UnsupportedError(
                f"{stored.path}: {stored.name} is {kind.name}, other experts of the layer are "
                f"{types[name].name}"
            )
        if name.startswith("layers.") and not name.endswith(FLOATS):
            counts[kind] += math.prod(stored.shape)
    commonest = max(counts, key=counts.__getitem__)
    return with_types(replace(spec, weight_type=commonest, tensor_types=()), types)
