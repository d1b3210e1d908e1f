"""What people and clients want to know of a model, besides its name."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from dllama.model.spec import ModelSpec
from dllama.model.tensors import tensors


class Facts(NamedTuple):
    """Sizes and kinds of a model.

    Attributes:
        family: name of the architecture.
        format: of its file: "gguf" or "m".
        weights: the type of most weights.
        parameters: how many numbers its tensors have.
        nbytes: bytes of its tensors.
        width: elements of an embedding.
        layers: how many there are.
    """

    family: str = ""
    format: str = ""
    weights: str = ""
    parameters: int = 0
    nbytes: int = 0
    width: int = 0
    layers: int = 0

    @classmethod
    def of(cls, spec: ModelSpec, path: Path) -> Facts:
        """Return the facts of a model in a file."""
        counts: Counter[str] = Counter()
        nbytes = 0
        for tensor in tensors(spec):
            counts[tensor.weight_type.name] += math.prod(tensor.shape)
            nbytes += tensor.nbytes
        return cls(
            family=spec.arch.name.lower().replace("_", ""),
            format="gguf" if path.suffix == ".gguf" else "m",
            weights=max(counts, key=lambda name: counts[name]),
            parameters=sum(counts.values()),
            nbytes=nbytes,
            width=spec.dim,
            layers=spec.n_layers,
        )
