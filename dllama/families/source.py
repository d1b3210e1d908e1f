"""Where the converter finds a tensor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """name: in the model file. tensor: in the Hugging Face folder.

    tied_to: the tensor to take where `tensor` is absent and the embeddings are tied.
    paired_heads: if not 0, rows are heads of halves (i, i + S/2) to be put as pairs (2i, 2i + 1).
    """

    name: str
    tensor: str
    tied_to: str = ""
    paired_heads: int = 0
