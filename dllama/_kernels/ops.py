"""The words that programs and the executor share: what a task does, and on what.

T is the number of tokens in a pass.
"""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    """What a task's time counts as."""

    INFERENCE = 0
    TRANSFER = 1


class Op(IntEnum):
    """What a task does."""

    EMBED = 0  # dst[t] = row ids[t] of the embedding
    NORM = 1  # dst[t] = RMSNorm of src[t] with a weight vector
    MATMUL = 2  # dst[t] = matrix times src[t], then as Then says
    ROPE = 3  # turns q and k of src in place, stores k and v in the KV cache
    ATTENTION = 4  # dst[t] = attention of the q of src[t] to the KV cache
    ENCODE = 5  # dst[t] = src[t] in the form a matmul reads
    BROADCAST = 6  # dst[t] = src[t] of the root
    ALL_REDUCE = 7  # dst[t] += sum of src[t] over all nodes


class Then(IntEnum):
    """What happens to the product of a matmul."""

    STORE = 0
    ADD = 1  # to what is in dst: the residual stream
    GATED = 2  # SwiGLU of alternating blocks of 32 gate and 32 up rows


class Form(IntEnum):
    """How a buffer holds its rows."""

    FLOAT = 0  # float32
    INPUT = 1  # as a matmul reads them: Q80 blocks for quantised weights, else float32
