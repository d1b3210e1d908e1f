"""Kinds of parts that a model may have, as its file stores them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum


class Arch(IntEnum):
    """Architecture id, as stored in the model file."""

    LLAMA = 0xABCD00
    QWEN3 = 0xABCD01
    QWEN3_MOE = 0xABCD02


class HiddenAct(IntEnum):
    """Activation of the feed-forward network."""

    GELU = 0
    SILU = 1
    CLAMPED = 2  # gpt-oss's SwiGLU, with an offset and ModelSpec.act_limit


class RopeType(IntEnum):
    """Which pairs of numbers RoPE rotates, and how its frequencies are scaled."""

    LLAMA = 0
    FALCON = 1
    LLAMA31 = 2


class QKNorm(IntEnum):
    """What is normalised of queries and keys before RoPE."""

    NONE = 0
    HEAD = 1  # each head, with the same weights for all
    WIDTH = 2  # all heads together
    APART = 3  # each head, with weights of its own


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1 frequency scaling (Llama 3 paper and its reference code)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_seq_len: int

    def scaled(self, frequency: float) -> float:
        """Divide low frequencies by the factor, keep high ones, and blend those between."""
        turns = self.original_seq_len * frequency / math.tau
        if turns > self.high_freq_factor:
            return frequency
        if turns < self.low_freq_factor:
            return frequency / self.factor
        blend = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return (1.0 - blend) * frequency / self.factor + blend * frequency
