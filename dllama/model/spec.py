"""What a model is: its architecture and sizes, as one immutable value."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from dllama.model.weight_types import WeightType


class Arch(IntEnum):
    """Architecture id, as stored in the model file."""

    LLAMA = 0xABCD00
    QWEN3 = 0xABCD01
    QWEN3_MOE = 0xABCD02


class HiddenAct(IntEnum):
    """Activation of the feed-forward network."""

    GELU = 0
    SILU = 1


class RopeType(IntEnum):
    """Which pairs RoPE turns, and how its frequencies are scaled."""

    LLAMA = 0
    FALCON = 1
    LLAMA31 = 2


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1 frequency scaling (Llama 3 paper and its reference code)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_seq_len: int


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding of a layer.

    Args:
        theta: base of the frequencies.
        halves: pair i of a head of size S is (i, i + S / 2), else (2i, 2i + 1).
        scaling: of the frequencies, or None.
    """

    theta: float
    halves: bool
    scaling: RopeScaling | None


@dataclass(frozen=True)
class Attention:
    """How a layer attends.

    Args:
        rope: how queries and keys are turned.
        scale: what q k^T is multiplied by.
        cap: if not 0, a score s becomes cap * tanh(s / cap).
        head_norms: whether the heads of q and k are normed.
        biases: whether q, k and v have biases.
    """

    rope: Rope
    scale: float
    cap: float
    head_norms: bool
    biases: bool


@dataclass(frozen=True)
class Layer:
    """What a layer is made of: attention, then a feed-forward network or experts.

    Args:
        attention: how it attends.
        experts: whether its second block is a mixture of experts.
        norms_after: whether what a block gives is normed before it is added to the residual stream.
    """

    attention: Attention
    experts: bool
    norms_after: bool


@dataclass(frozen=True)
class ModelSpec:
    """Architecture and sizes of a model; lengths count elements, not bytes.

    dim: width of the residual stream. hidden_dim: width of the feed-forward
    network (moe_hidden_dim: of one expert, 0 for as wide). Query heads share KV heads in
    contiguous groups of n_heads / n_kv_heads.

    qkv_bias: q, k and v have biases. topk_normalised: the weights of a token's experts add up to
    1; otherwise they are the router's probabilities as they are. post_norms: what attention and
    experts give is normed before it is added to the residual stream. embedding_scale and
    logits_scale multiply the embedding and the logits. attention_scale multiplies q k^T, 0 stands
    for 1 / sqrt(head_dim). attention_cap: c tanh(score / c) takes the place of a score, if not 0.

    weight_type: how matrices are stored; embedding and routers are float32. tensor_types: those
    that are stored otherwise, by name in the order of the file (dllama.model.tensors.with_types);
    the experts of a layer share the names `layers.N.experts.gate`, `down` and `up`.
    """

    arch: Arch
    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    seq_len: int
    weight_type: WeightType
    hidden_act: HiddenAct = HiddenAct.SILU
    norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0
    rope_type: RopeType = RopeType.LLAMA
    rope_scaling: RopeScaling | None = None
    n_experts: int = 0
    n_active_experts: int = 0
    moe_hidden_dim: int = 0
    qkv_bias: bool = False
    topk_normalised: bool = True
    post_norms: bool = False
    embedding_scale: float = 1.0
    attention_scale: float = 0.0
    attention_cap: float = 0.0
    logits_scale: float = 1.0
    tensor_types: tuple[tuple[str, WeightType], ...] = ()

    def type_of(self, tensor: str) -> WeightType:
        """How a matrix of the model file is stored."""
        name = re.sub(r"\.experts\.\d+\.", ".experts.", tensor)
        floats = name == "embedding" or name.endswith(".router")
        return self._types.get(name, WeightType.F32 if floats else self.weight_type)

    @cached_property
    def o_block(self) -> int:
        """Numbers of the longest block of an output projection: nodes cut all of them there."""
        return max(self.type_of(f"layers.{layer}.o").block_size for layer in range(self.n_layers))

    @cached_property
    def _types(self) -> dict[str, WeightType]:
        return dict(self.tensor_types)

    @property
    def q_dim(self) -> int:
        """Width of all query heads together."""
        return self.n_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all key (or value) heads together."""
        return self.n_kv_heads * self.head_dim

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward network, or of one expert."""
        return (self.n_experts and self.moe_hidden_dim) or self.hidden_dim

    def layer(self, index: int) -> Layer:
        """What a layer is made of; those of one model are alike."""
        return self._layer

    @cached_property
    def _layer(self) -> Layer:
        scaling = self.rope_scaling if self.rope_type is RopeType.LLAMA31 else None
        attention = Attention(
            rope=Rope(self.rope_theta, self.rope_type is RopeType.FALCON, scaling),
            scale=self.attention_scale or 1.0 / math.sqrt(self.head_dim),
            cap=self.attention_cap,
            head_norms=self.arch in (Arch.QWEN3, Arch.QWEN3_MOE),
            biases=self.qkv_bias,
        )
        return Layer(attention, self.n_experts > 0, self.post_norms)
