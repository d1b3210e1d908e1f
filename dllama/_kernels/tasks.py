"""The words that graphs and kernels share, besides the names of ops (op_table.py)."""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    """What the time of a task counts as."""

    INFERENCE = 0
    TRANSFER = 1


class Then(IntEnum):
    """What happens to the result of a task."""

    STORE = 0
    ADD = 1  # to what dst holds: the residual stream
    GATED = 2  # SwiGLU of alternating blocks of 32 gate and 32 up rows
    GATED_GELU = 3  # the same with the tanh approximation of GELU


class Storage(IntEnum):
    """How a buffer holds its rows."""

    FLOAT = 0  # float32
    Q80 = 1  # blocks of 32, as matmuls of quantised weights read them
    ROUTES = 2  # the experts of each row and their weights
