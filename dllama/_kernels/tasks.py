"""The words that graphs and the executor share: what a task does, and on what.

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
    NORM = 1  # dst[t] = RMSNorm of src[t] with a weight vector, or is added to dst[t]
    MATMUL = 2  # dst[t] = matrix times src[t], then as Then says
    ROPE = (
        3  # norms (where there is a weight) and turns q and k of src, stores k and v in the cache
    )
    ATTENTION = 4  # dst[t] = attention of the q of src[t] to the KV cache
    ENCODE = 5  # dst[t] = src[t] in the form a matmul reads
    BROADCAST = 6  # dst[t] = src[t] of the root
    ALL_REDUCE = 7  # dst[t] = sum of src[t] over all nodes, or is added to dst[t]
    SCALE = 8  # dst[t] = src[t] times a number
    ROUTE = 9  # dst = the experts of each token and their weights, from the router's scores src[t]
    DISPATCH = (
        10  # dst = src[t] in the form a matmul reads, once for each expert, sorted by experts
    )
    EXPERTS_GATED = 11  # rows of dst = gate and up of their experts times rows of src
    EXPERTS_SUM = 12  # dst[t] = weighted sum over the token's experts of down times rows of src


class Then(IntEnum):
    """What happens to the product of a matmul."""

    STORE = 0
    ADD = 1  # to what is in dst: the residual stream
    GATED = 2  # SwiGLU of alternating blocks of 32 gate and 32 up rows
    GATED_GELU = 3  # the same with the tanh approximation of GELU


class Form(IntEnum):
    """How a buffer holds its rows."""

    FLOAT = 0  # float32
    INPUT = 1  # as a matmul reads them: Q80 blocks for quantised weights, else float32
    ROUTES = 2  # experts and weights of the tokens
