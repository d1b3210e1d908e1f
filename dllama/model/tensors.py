"""The tensors of a model file: names, shapes and weight types, in the order of the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby

from dllama.model.layer import Attention, Layer, Linear
from dllama.model.spec import ModelSpec, QKNorm
from dllama.model.weight_types import WeightType

# Norms of a layer with a feed-forward network beside experts: of the input of experts, of the
# result of the network, and of that of experts.
BESIDE_NORMS = ("experts_norm", "dense_post_norm", "experts_post_norm")
# Matrices of gated delta networks, and of Mamba-2.
DELTA = ["linear_q", "linear_k", "linear_v", "linear_z", "beta", "decay", "linear_o"]
SSM = [name for name in DELTA if name != "beta"]


@dataclass(frozen=True)
class Tensor:
    """A matrix (rows, columns) or a vector (n,) of a model file."""

    name: str
    shape: tuple[int, ...]
    weight_type: WeightType

    @cached_property
    def nbytes(self) -> int:
        """Bytes in a file."""
        return self.weight_type.nbytes(math.prod(self.shape))


def tensors(spec: ModelSpec) -> Iterator[Tensor]:
    """All tensors in the order of the file."""
    for name, shape in _shapes(spec):
        yield Tensor(name, shape, spec.type_of(name) if len(shape) == 2 else WeightType.F32)


@lru_cache(maxsize=2)
def all_tensors(spec: ModelSpec) -> tuple[Tensor, ...]:
    """The same at once, which is kept: several parts of a start and of a conversion ask for it."""
    return tuple(tensors(spec))


def _shapes(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "embedding", (spec.vocab_size, spec.dim)
    if spec.layer_input_dim:
        numbers = spec.n_layers * spec.layer_input_dim
        yield "layer_embedding", (spec.vocab_size, numbers)
        yield "layer_inputs", (numbers, spec.dim)
        yield "layer_inputs_norm", (spec.layer_input_dim,)
    for layer in range(spec.n_layers):
        at, features = f"layers.{layer}.", spec.layer(layer)
        if features.attends:
            yield from _attention(spec, at, features)
        if features.linear:
            yield from _linear(features.linear, spec.dim, at)
        yield from _feed_forward(spec, at, features)
        if features.attention.norm is not QKNorm.NONE and features.attends:
            kind = features.attention
            shared = kind.norm is QKNorm.HEAD
            yield at + "q_norm", (kind.size if shared else spec.n_heads * kind.size,)
            if not kind.shared:
                yield at + "k_norm", (kind.size if shared else kind.kv_heads * kind.size,)
        if spec.q_latent_dim:
            yield at + "q_a_norm", (spec.q_latent_dim,)
        if spec.kv_latent_dim:
            yield at + "kv_a_norm", (spec.kv_latent_dim,)
        for norm in _block_norms(spec, features):
            yield from _norm(spec, at + norm)
        if spec.layer_scales:
            yield at + "scale", (1,)
    yield from _norm(spec, "final_norm")
    if not spec.tied:
        yield "output", (spec.vocab_size, spec.dim)


def _block_norms(spec: ModelSpec, layer: Layer) -> Iterator[str]:
    """The norms before and after the blocks of a layer."""
    if layer.norms_before:
        yield from ("attention_norm",) if layer.parallel else ("attention_norm", "ffn_norm")
    if layer.norms_after:
        yield from ("attention_post_norm", "ffn_post_norm")
    if layer.beside:
        yield from BESIDE_NORMS
    if spec.layer_input_dim:
        yield "layer_input_post_norm"


def _norm(spec: ModelSpec, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a norm of the residual stream's width."""
    yield name, (spec.dim,)
    if spec.layer_norms:
        yield name + "_bias", (spec.dim,)


def _projections(
    spec: ModelSpec, at: str, kind: Attention
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The matrices that make queries, keys and values, or those that make latents and are applied
    to latents."""
    latent, queries = spec.kv_latent_dim, spec.n_heads * kind.size
    if not latent:
        for name in kind.projections:
            yield at + name, (_rows(spec, kind, name), spec.dim)
        return
    if spec.q_latent_dim:
        yield at + "q_a", (spec.q_latent_dim, spec.dim)
        yield at + "q_b", (queries, spec.q_latent_dim)
    else:
        yield at + "q", (queries, spec.dim)
    yield at + "kv_a", (latent + spec.rope_dim, spec.dim)
    yield at + "k_b", (spec.n_heads * latent, spec.plain_dim)
    yield at + "v_b", (spec.n_heads * kind.values, latent)


def _rows(spec: ModelSpec, kind: Attention, name: str) -> int:
    """Rows of a projection."""
    return (kind.kv_heads if name in ("k", "v") else spec.n_heads) * kind.size


def _attention(spec: ModelSpec, at: str, layer: Layer) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of attention, without norms of heads."""
    kind = layer.attention
    yield from _projections(spec, at, kind)
    yield at + "o", (spec.dim, spec.n_heads * kind.values)
    if kind.biases:
        for name in kind.projections:
            yield f"{at}{name}_bias", (_rows(spec, kind, name),)
    if layer.attention.o_bias:
        yield at + "o_bias", (spec.dim,)
    if layer.attention.sinks:
        yield at + "sinks", (spec.n_heads,)


def _linear(linear: Linear, dim: int, at: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of linear attention."""
    ssm = linear.ssm
    projections = {"linear_q": linear.keys, "linear_k": linear.keys, "linear_v": linear.values,
                   "linear_z": linear.values, "beta": linear.value_heads,
                   "decay": linear.value_heads}  # fmt: skip
    for name, rows in projections.items():
        if name != "beta" or not ssm:
            yield at + name, (rows, dim)
        if ssm and ssm.biases and name != "beta":
            yield f"{at}{name}_bias", (rows,)
    yield at + "linear_o", (dim, linear.values)
    if ssm and ssm.o_bias:
        yield at + "linear_o_bias", (dim,)
    yield at + "conv", (linear.channels * linear.taps,)
    if ssm and ssm.conv_bias:
        yield at + "conv_bias", (linear.channels,)
    yield at + "a_log", (linear.value_heads,)
    yield at + "dt_bias", (linear.value_heads,)
    if ssm:
        yield at + "skip", (linear.value_heads,)
    if not ssm or ssm.norm:
        yield at + "linear_norm", (linear.values if ssm else linear.value_dim,)


def _feed_forward(spec: ModelSpec, at: str, layer: Layer) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The feed-forward tensors of a layer: the router and experts, or gate, down, up."""
    networks = {at: layer.width}
    beside = {at: layer.beside} if layer.beside else {}
    if layer.experts:
        yield at + "router", (spec.n_experts, spec.dim)
        if layer.biases:
            yield at + "router_bias", (spec.n_experts,)
        if spec.router_correction:
            yield at + "router_correction", (spec.n_experts,)
        if layer.beside:
            yield at + "router_norm", (spec.dim,)
            yield at + "expert_scales", (spec.n_experts,)
        networks = beside | dict.fromkeys(expert_prefixes(spec, at), layer.width)
    if layer.shared:
        networks[at + "shared."] = layer.shared
        if spec.shared_gate:
            yield at + "shared_gate", (1, spec.dim)
    for prefix, width in networks.items():
        shapes = {"gate": (width, spec.dim), "down": (spec.dim, width), "up": (width, spec.dim)}
        if not layer.gated:
            del shapes["gate"]
        for name, shape in shapes.items():
            yield prefix + name, shape
        if layer.biases:
            for name, (rows, _) in shapes.items():
                yield f"{prefix}{name}_bias", (rows,)
    if spec.layer_input_dim:
        yield at + "layer_input_gate", (spec.layer_input_dim, spec.dim)
        yield at + "layer_input_up", (spec.dim, spec.layer_input_dim)


def expert_prefixes(spec: ModelSpec, at: str) -> list[str]:
    """Prefixes of the tensors of each expert of the layer with this prefix."""
    return [f"{at}experts.{expert}." for expert in range(spec.n_experts)]


def typed(spec: ModelSpec) -> list[str]:
    """Names that ModelSpec.tensor_types uses: every matrix, but the experts of a layer as one."""
    names = ["embedding"]
    if spec.layer_input_dim:
        names += ["layer_embedding", "layer_inputs"]
    for layer in range(spec.n_layers):
        at, features, within = f"layers.{layer}.", spec.layer(layer), [""]
        if features.attends:
            kinds = _projections(spec, at, features.attention)
            names += [*(name for name, _ in kinds), at + "o"]
        if features.linear:
            names += [at + name for name in (SSM if features.linear.ssm else DELTA)]
        if features.experts:
            names.append(at + "router")
            within = ["", "experts."] if features.beside else ["experts."]
        if features.shared:
            names += [at + "shared_gate"] if spec.shared_gate else []
            within.append("shared.")
        networks = ("gate", "down", "up") if features.gated else ("down", "up")
        names += [at + one + name for one in within for name in networks]
        if spec.layer_input_dim:
            names += [at + "layer_input_gate", at + "layer_input_up"]
    return names if spec.tied else [*names, "output"]


def width_of(spec: ModelSpec, name: str) -> int:
    """Columns of the matrix that `typed` calls by this name."""
    if name.endswith(".shared.down"):
        return spec.shared_hidden_dim
    last = name.rpartition(".")[2]
    if last not in _WIDTHS:  # most
        return spec.dim
    layer = spec.layer(int(name.split(".")[1])) if name.startswith("layers.") else spec.layer(0)
    if last == "down" and layer.beside and not name.endswith(".experts.down"):
        return layer.beside
    return _WIDTHS[last](spec, layer)


# Columns of the matrices that do not read the residual stream, by the last word of their names.
_WIDTHS: dict[str, Callable[[ModelSpec, Layer], int]] = {
    "down": lambda spec, layer: layer.width,
    "layer_embedding": lambda spec, layer: spec.n_layers * spec.layer_input_dim,
    "layer_input_up": lambda spec, layer: spec.layer_input_dim,
    "o": lambda spec, layer: spec.n_heads * layer.attention.values,
    "linear_o": lambda spec, layer: spec.linear_sizes.values,
    "q_b": lambda spec, layer: spec.q_latent_dim,
    "k_b": lambda spec, layer: spec.plain_dim,
    "v_b": lambda spec, layer: spec.kv_latent_dim,
}


def with_types(spec: ModelSpec, types: Mapping[str, WeightType]) -> ModelSpec:
    """The spec with other types for some tensors.

    Args:
        spec: a model.
        types: new types, by the names that `typed` returns. The others stay as they are.
    """
    plain = replace(spec, tensor_types=())
    chosen = {name: types.get(name, spec.type_of(name)) for name in typed(spec)}
    return replace(
        spec,
        tensor_types=tuple(
            (name, kind) for name, kind in chosen.items() if kind is not plain.type_of(name)
        ),
    )


def type_runs(spec: ModelSpec) -> list[tuple[int, WeightType]]:
    """The types of the names in `typed`, run-length encoded: (count, type)."""
    kinds = (spec.type_of(name) for name in typed(spec))
    return [(len([*run]), kind) for kind, run in groupby(kinds)]
