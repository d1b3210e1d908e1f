"""What the layers of a model are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dllama.model.kinds import QKNorm


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding of a layer.

    Args:
        frequencies: of each pair, in radians per position. Numbers of a head without a pair, which
            are the last ones, are not rotated.
        halves: pair i of n is (i, i + n); otherwise it is (2i, 2i + 1).
        factor: of what is rotated.
        long_frequencies: those of texts that are longer than ModelSpec.rope_switch; empty for the
            same.
    """

    frequencies: tuple[float, ...]
    halves: bool
    factor: float
    long_frequencies: tuple[float, ...] = ()


@dataclass(frozen=True)
class Attention:
    """How a layer attends.

    Args:
        rope: how queries and keys are rotated; None if they are not.
        window: how many positions a token sees, its own included; 0 for all up to its own.
        scale: factor of q k^T.
        cap: if not 0, a score s becomes cap * tanh(s / cap).
        norm: what is normalised of q and k.
        biases: whether q, k and v have biases.
        o_bias: whether the output projection has a bias.
        sinks: whether each head has a score for no position at all.
        gate: whether each number of the result is multiplied by the sigmoid of another projection.
        kv_heads: KV heads.
        size: elements of a head of queries.
        values: elements of a head that the output projection reads.
        kept: elements of a key and of a value in the KV cache.
        value_norm: whether the values of a head are divided by their root mean square.
        keys_as_values: whether values are the projections of keys, before norm and RoPE.
        shared: whether keys and values are those of an earlier layer (ModelSpec.kv_layer).
    """

    rope: Rope | None
    window: int
    scale: float
    cap: float
    norm: QKNorm
    biases: bool
    o_bias: bool
    sinks: bool
    gate: bool
    kv_heads: int
    size: int
    values: int
    kept: tuple[int, int]
    value_norm: bool
    keys_as_values: bool
    shared: bool

    @property
    def projections(self) -> tuple[str, ...]:
        """The matrices that make queries, keys and values, unless they are made of latents."""
        names = ("q",) if self.shared else ("q", "k") if self.keys_as_values else ("q", "k", "v")
        return (*names, "q_gate") if self.gate else names


@dataclass(frozen=True)
class Ssm:
    """What a model's Mamba-2 has (Dao and Gu 2024).

    Args:
        norm: whether the result is normalised, over all value heads that share a key head.
        norm_first: whether that is before it is multiplied by silu(z).
        conv_bias: whether the convolution has a bias.
        biases: whether the projections have biases.
        o_bias: whether the output projection has one.
        least_step: least time step.
        most_step: greatest time step; 0 if there is no limit.
    """

    norm: bool
    norm_first: bool
    conv_bias: bool
    biases: bool
    o_bias: bool
    least_step: float
    most_step: float


@dataclass(frozen=True)
class Linear:
    """Linear attention: a gated delta network (Yang et al. 2024), or Mamba-2 beside attention.

    The paper of Mamba-2 calls values x, keys B, queries C, and key heads groups.

    Args:
        key_heads: heads of queries and of keys.
        value_heads: heads of values, a multiple of key_heads. Each has a state.
        key_dim: numbers of a query or a key of a head.
        value_dim: numbers of a value of a head.
        taps: positions that the convolution sees, its own included.
        ssm: what Mamba-2 has; None for a gated delta network.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int
    ssm: Ssm | None = None

    @property
    def keys(self) -> int:
        """Width of all keys together."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Width of all values together."""
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """Width of what the convolution reads: queries, keys and values."""
        return 2 * self.keys + self.values


@dataclass(frozen=True)
class Layer:
    """The blocks of a layer: attention, then a feed-forward network or experts.

    Args:
        attention: how it attends.
        linear: its linear attention, in place of attention or, for Mamba-2, beside it; None if it
            has none.
        experts: whether the second block is a mixture of experts.
        width: units of the feed-forward network, or of each expert.
        shared: units of the shared expert; 0 if there is none.
        beside: units of a feed-forward network beside the experts, whose result is added to
            theirs; 0 if there is none. Both, their sum and the router then have norms of their own.
        biases: whether the matrices of the feed-forward network have biases, or those of the
            experts and the router.
        gated: whether the feed-forward network has a gate.
        norms_before: whether the input of each block is normalised.
        norms_after: whether the output of each block is normalised before it is added to the
            residual stream.
        layer_norms: whether norms are LayerNorm, not RMSNorm.
        parallel: whether both blocks read the same norm of the residual stream.
    """

    attention: Attention
    linear: Linear | None
    experts: bool
    width: int
    shared: int
    beside: int
    biases: bool
    gated: bool
    norms_before: bool
    norms_after: bool
    layer_norms: bool
    parallel: bool

    @property
    def attends(self) -> bool:
        """Whether it has attention."""
        return self.linear is None or self.linear.ssm is not None

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of networks whose results are added to each other, column by column."""
        return (self.width, self.shared) if self.shared else (self.width,)

    @property
    def dense(self) -> tuple[int, ...]:
        """The width of the feed-forward network, if it has one, in the form of `widths`."""
        return (self.beside,) if self.beside else () if self.experts else (self.width,)
