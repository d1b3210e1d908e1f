"""What a model is: its architecture and sizes, as one immutable value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from dllama.model.kinds import Arch, HiddenAct, QKNorm, RopeScaling, RopeType
from dllama.model.layer import Attention, Layer, Linear, Rope, Ssm
from dllama.model.weight_types import WeightType

__all__ = ["Arch", "HiddenAct", "ModelSpec", "QKNorm", "RopeScaling", "RopeType"]

# Ends of the names of matrices that are float32: small ones, on which much depends.
FLOATS = (".router", ".shared_gate", ".beta", ".decay")


def usual_qk_norm(arch: Arch) -> QKNorm:
    """What an architecture normalises of q and k unless a model file says something else."""
    return QKNorm.NONE if arch is Arch.LLAMA else QKNorm.HEAD


def typed_name(tensor: str) -> str:
    """The name that ModelSpec.tensor_types uses for a tensor: experts of a layer share one."""
    at, _, rest = tensor.partition(".experts.")
    expert, _, name = rest.partition(".")
    return f"{at}.experts.{name}" if expert.isdecimal() else tensor


@dataclass(frozen=True)
class ModelSpec:
    """Architecture and sizes of a model; lengths count elements, not bytes.

    Query heads share KV heads in contiguous groups of n_heads / n_kv_heads.

    Args:
        arch: architecture id of the model file.
        dim: width of the residual stream.
        hidden_dim: width of the feed-forward network.
        n_layers: layers.
        n_heads: query heads.
        n_kv_heads: KV heads.
        head_dim: elements of a head; with latents, of queries only.
        full_kv_heads: KV heads in layers without a window; 0 stands for n_kv_heads.
        full_head_dim: elements of a head in layers without a window; 0 stands for head_dim.
        vocab_size: tokens of the vocabulary.
        seq_len: most positions of a sequence.
        weight_type: how matrices are stored, except routers and an embedding of its own, which are
            float32.
        hidden_act: activation of the feed-forward network.
        act_limit: limit of HiddenAct.CLAMPED.
        norm_epsilon: epsilon of norms.
        layer_norms: whether norms are LayerNorm (Ba et al. 2016), not RMSNorm. Those of the
            residual stream have biases.
        rope_theta: base of the RoPE frequencies.
        rope_type: which pairs RoPE rotates, and whether frequencies are scaled.
        rope_scaling: how frequencies are scaled, for RopeType.LLAMA31.
        rope_dim: numbers of a head that RoPE rotates, the first ones; 0 stands for all.
        rope_frequencies: of each pair, in radians per position; empty for
            theta^(-2i / rope_dim), scaled.
        rope_factor: factor of the numbers that RoPE rotates.
        rope_switch: texts of more tokens have other frequencies at all positions; 0 if none have.
        rope_long_frequencies: these frequencies.
        no_rope: layers whose queries and keys are not rotated, ascending.
        window: how many positions a token of a windowed layer sees, its own included; 0 if no layer
            has a window.
        windowed: layers with a sliding window, ascending.
        window_rope_theta: rope_theta of windowed layers, whose frequencies are not scaled then; 0
            if they rotate as the others do.
        n_experts: experts of a layer; 0 for a dense model.
        dense: layers without experts in a model with experts, ascending.
        n_active_experts: experts that a token takes.
        moe_hidden_dim: width of one expert; 0 stands for hidden_dim.
        shared_hidden_dim: width of the expert that all tokens take, besides their own; 0 if there
            is none.
        shared_gate: whether its result is multiplied by the sigmoid of a product with its input.
        dense_beside: whether layers with experts also have a feed-forward network, beside them
            (Layer.beside). Then each expert has a factor of its own, too.
        qkv_bias: whether q, k and v have biases.
        o_bias: whether the output projection of attention has a bias.
        ffn_bias: whether the matrices of the feed-forward network have biases, or those of the
            experts and the router.
        ffn_gated: whether the feed-forward network has a gate; otherwise the activation is that of
            up.
        value_norm: whether the values of each head are divided by their root mean square.
        keys_as_values: whether layers without a window have no projection of values, which are
            those of keys, before their norm and RoPE.
        kv_shared_layers: so many layers, the last ones, have no keys and values of their own. They
            take those of the last layer before them that has a window if they have one.
        kv_shared_hidden_dim: width of the feed-forward network in these layers; 0 stands for
            hidden_dim.
        sinks: whether each query head has a score for no position at all (Xiao et al. 2023).
        attention_gate: whether the result of attention is multiplied by the sigmoid of a
            projection as wide as q (Qiu et al. 2025).
        linear: layers with linear attention, ascending.
        linear_key_heads: of these layers: heads of queries and keys.
        linear_value_heads: heads of values.
        linear_key_dim: numbers of a query or a key of a head.
        linear_value_dim: numbers of a value of a head.
        linear_taps: positions that the convolution before them sees.
        ssm: whether linear attention is Mamba-2 beside attention in all layers, not a gated delta
            network in place of it. Its other fields are those of layer.Ssm.
        qk_norm: what is normalised of q and k.
        topk_normalised: whether the weights of a token's experts are scaled to add up to 1;
            otherwise they are the probabilities of the router.
        router_sigmoid: whether the router's probabilities are the sigmoid of each score, not the
            softmax over all.
        router_correction: whether numbers are added to them for the choice of experts.
        expert_groups: if not 0, experts are in so many groups of equal size, and a token takes
            those of some groups only.
        expert_groups_taken: how many groups that is.
        expert_group_best: the score of a group is the sum of those of so many of its best experts.
        expert_scale: factor of the weights of a token's experts.
        pre_norms: whether the inputs of attention and of the feed-forward network or experts are
            normalised.
        post_norms: whether their outputs are normalised before they are added to the residual
            stream.
        parallel_residual: whether the feed-forward network reads the same norm as attention, before
            its output is added (Wang and Komatsuzaki 2021, GPT-J).
        layer_input_dim: numbers of another embedding of the token that each layer has; 0 if there
            is none (dllama.graph.layer_inputs).
        layer_scales: whether the residual stream is multiplied by a number after each layer.
        embedding_scale: factor of the embedding.
        attention_scale: factor of q k^T; 0 stands for 1 / sqrt(head_dim).
        attention_cap: if not 0, a score s becomes cap * tanh(s / cap).
        logits_scale: factor of the logits.
        logits_cap: if not 0, a logit l becomes cap * tanh(l / cap).
        kv_latent_dim: numbers of the latent that keys and values of all heads are made of
            (dllama.graph.latents); 0: they are projections of the input. With latents, n_kv_heads
            is 1, and the last rope_dim numbers of a query are rotated.
        q_latent_dim: numbers of the latent of queries; 0: they are projections of the input.
        value_dim: elements of a head of values; 0 stands for head_dim.
        tied: whether the output matrix is the embedding, which the file then stores once.
        tensor_types: (name, type) of the matrices whose type is another one, in the order of the
            file (dllama.model.tensors.with_types). The experts of a layer share the names
            `layers.N.experts.gate`, `down` and `up`.
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
    act_limit: float = 0.0
    norm_epsilon: float = 1e-5
    layer_norms: bool = False
    rope_theta: float = 10000.0
    rope_type: RopeType = RopeType.LLAMA
    rope_scaling: RopeScaling | None = None
    rope_dim: int = 0
    rope_frequencies: tuple[float, ...] = ()
    rope_factor: float = 1.0
    rope_switch: int = 0
    rope_long_frequencies: tuple[float, ...] = ()
    no_rope: tuple[int, ...] = ()
    window: int = 0
    windowed: tuple[int, ...] = ()
    window_rope_theta: float = 0.0
    n_experts: int = 0
    dense: tuple[int, ...] = ()
    n_active_experts: int = 0
    moe_hidden_dim: int = 0
    shared_hidden_dim: int = 0
    shared_gate: bool = False
    dense_beside: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    ffn_bias: bool = False
    ffn_gated: bool = True
    full_kv_heads: int = 0
    full_head_dim: int = 0
    value_norm: bool = False
    keys_as_values: bool = False
    kv_shared_layers: int = 0
    kv_shared_hidden_dim: int = 0
    sinks: bool = False
    attention_gate: bool = False
    linear: tuple[int, ...] = ()
    linear_key_heads: int = 0
    linear_value_heads: int = 0
    linear_key_dim: int = 0
    linear_value_dim: int = 0
    linear_taps: int = 0
    ssm: bool = False
    ssm_norm: bool = False
    ssm_norm_first: bool = False
    ssm_conv_bias: bool = False
    ssm_bias: bool = False
    ssm_o_bias: bool = False
    ssm_least_step: float = 0.0
    ssm_most_step: float = 0.0
    qk_norm: QKNorm = QKNorm.NONE
    topk_normalised: bool = True
    router_sigmoid: bool = False
    router_correction: bool = False
    expert_groups: int = 0
    expert_groups_taken: int = 0
    expert_group_best: int = 0
    expert_scale: float = 1.0
    pre_norms: bool = True
    post_norms: bool = False
    parallel_residual: bool = False
    layer_input_dim: int = 0
    layer_scales: bool = False
    embedding_scale: float = 1.0
    attention_scale: float = 0.0
    attention_cap: float = 0.0
    logits_scale: float = 1.0
    logits_cap: float = 0.0
    kv_latent_dim: int = 0
    q_latent_dim: int = 0
    value_dim: int = 0
    tied: bool = False
    tensor_types: tuple[tuple[str, WeightType], ...] = ()

    def type_of(self, tensor: str) -> WeightType:
        """How a matrix of the model file is stored."""
        name = typed_name(tensor)
        if self.tied and name == "output":
            name = "embedding"
        floats = (name == "embedding" and not self.tied) or name.endswith(FLOATS)
        return self._types.get(name, WeightType.F32 if floats else self.weight_type)

    @cached_property
    def o_block(self) -> int:
        """Largest unit of any layer's o: all layers are cut at multiples of it."""
        layers = [layer for layer in range(self.n_layers) if self.layer(layer).attends]
        return max((self.type_of(f"layers.{layer}.o").unit for layer in layers), default=1)

    @cached_property
    def linear_block(self) -> int:
        """The same for the output projections of linear attention."""
        units = (self.type_of(f"layers.{layer}.linear_o").unit for layer in self.linear)
        return max(units, default=1)

    @cached_property
    def _types(self) -> dict[str, WeightType]:
        return dict(self.tensor_types)

    @property
    def latent_dims(self) -> tuple[int, int]:
        """With latents: elements of a key and of a value in the KV cache."""
        return self.kv_latent_dim + self.rope_dim, self.kv_latent_dim

    @property
    def plain_dim(self) -> int:
        """Elements of a query that RoPE does not rotate, with latents."""
        return self.head_dim - self.rope_dim

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward network, or of one expert."""
        return (self.n_experts and self.moe_hidden_dim) or self.hidden_dim

    @cached_property
    def widths(self) -> tuple[tuple[int, ...], ...]:
        """All Layer.widths that there are. Those of layers with experts come first."""
        layers = sorted(map(self.layer, range(self.n_layers)), key=lambda one: not one.experts)
        dense = (layer.dense for layer in layers if layer.dense)
        return tuple(dict.fromkeys((*(layer.widths for layer in layers), *dense)))

    def layer(self, index: int) -> Layer:
        """The blocks of a layer."""
        return self._each_layer[index]

    @cached_property
    def _each_layer(self) -> tuple[Layer, ...]:
        windowed, dense, linear = map(frozenset, (self.windowed, self.dense, self.linear))
        no_rope = frozenset(self.no_rope)
        kinds = [
            (
                layer in windowed,
                layer not in no_rope,
                self.n_experts > 0 and layer not in dense,
                layer in linear,
                layer >= self.first_kv_shared,
            )
            for layer in range(self.n_layers)
        ]
        layers = {kind: self._layer_of(*kind) for kind in set(kinds)}
        return tuple(layers[kind] for kind in kinds)

    @property
    def first_kv_shared(self) -> int:
        """The first layer without keys and values of its own."""
        return self.n_layers - self.kv_shared_layers

    def kv_layer(self, index: int) -> int:
        """The layer whose keys and values a layer reads; -1 if there is none."""
        if index < self.first_kv_shared:
            return index
        return self._last_kv.get(self.layer(index).attention.window, -1)

    @cached_property
    def _last_kv(self) -> dict[int, int]:
        """By window, the last layer with keys and values of its own."""
        own = range(self.first_kv_shared)
        return {self.layer(layer).attention.window: layer for layer in own}

    @property
    def linear_sizes(self) -> Linear:
        """The sizes of linear attention."""
        return Linear(
            self.linear_key_heads,
            self.linear_value_heads,
            self.linear_key_dim,
            self.linear_value_dim,
            self.linear_taps,
            self._ssm if self.ssm else None,
        )

    @property
    def _ssm(self) -> Ssm:
        return Ssm(
            self.ssm_norm,
            self.ssm_norm_first,
            self.ssm_conv_bias,
            self.ssm_bias,
            self.ssm_o_bias,
            self.ssm_least_step,
            self.ssm_most_step,
        )

    def _layer_of(
        self, windowed: bool, rotated: bool, experts: bool, linear: bool, shared: bool
    ) -> Layer:
        size = self.head_size(windowed)
        attention = Attention(
            rope=self._rope(windowed) if rotated else None,
            window=self.window if windowed else 0,
            scale=self.attention_scale or 1.0 / math.sqrt(size),
            cap=self.attention_cap,
            norm=self.qk_norm,
            biases=self.qkv_bias,
            o_bias=self.o_bias,
            sinks=self.sinks,
            gate=self.attention_gate,
            kv_heads=self.n_kv_heads if windowed else self.full_kv_heads or self.n_kv_heads,
            size=size,
            values=self.value_dim or size,
            kept=self.latent_dims if self.kv_latent_dim else (size, size),
            value_norm=self.value_norm,
            keys_as_values=self.keys_as_values and not windowed,
            shared=shared,
        )
        dense = (shared and self.kv_shared_hidden_dim) or self.hidden_dim
        return Layer(
            attention,
            self.linear_sizes if linear else None,
            experts,
            self.ffn_dim if experts else dense,
            self.shared_hidden_dim if experts else 0,
            dense if experts and self.dense_beside else 0,
            self.ffn_bias,
            self.ffn_gated,
            self.pre_norms,
            self.post_norms,
            self.layer_norms,
            self.parallel_residual,
        )

    def head_size(self, windowed: bool) -> int:
        """Elements of a head in layers with a window, or without."""
        return self.head_dim if windowed else self.full_head_dim or self.head_dim

    def _rope(self, windowed: bool) -> Rope:
        halves = self.rope_type is RopeType.FALCON
        if windowed and self.window_rope_theta:
            plain = self._plain_frequencies(self.window_rope_theta, self.head_dim)
            return Rope(plain, halves, 1.0)
        return Rope(self.frequencies, halves, self.rope_factor, self.rope_long_frequencies)

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Frequencies of RoPE in layers without a window, in radians per position."""
        if self.rope_frequencies:
            return self.rope_frequencies
        scaling = self.rope_scaling if self.rope_type is RopeType.LLAMA31 else None
        plain = self._plain_frequencies(self.rope_theta, self.head_size(False))
        return tuple(map(scaling.scaled, plain)) if scaling else plain

    def _plain_frequencies(self, theta: float, size: int) -> tuple[float, ...]:
        """theta^(-2i / d) for pair i of d numbers of heads of a size (Su et al. 2021, RoFormer,
        section 3.2.2)."""
        size = self.rope_dim or size
        return tuple(math.pow(theta, -2.0 * i / size) for i in range(size // 2))
