"""Constants that graphs and kernels share, besides the names of ops (op_table.py)."""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    """What the time of a task is reported as."""

    INFERENCE = 0
    TRANSFER = 1


class Then(IntEnum):
    """What happens to the result of a task."""

    STORE = 0
    ADD = 1  # added to dst, for example the residual stream
    GATED = 2  # SwiGLU, for matrices of alternating blocks of 32 rows of gate and 32 of up
    GATED_GELU = 3  # the same with the tanh approximation of GELU
    GATED_CLAMPED = 4  # gpt-oss's, only from separate gate and up; Task.scale is the limit
    SILU = 5  # without a gate, only by the op activate
    GELU = 6  # the same with the tanh approximation of GELU


class Storage(IntEnum):
    """How a buffer stores its rows."""

    FLOAT = 0  # float32
    Q80 = 1  # blocks of 32, the input of matmuls with quantised weights
    ROUTES = 2  # the experts of each row, and their weights
