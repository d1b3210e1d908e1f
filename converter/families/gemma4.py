"""Gemma 4, text: heads of two sizes, shared keys and values, per-layer inputs, experts.

Gemma team 2026 (Gemma 4). Layers with a sliding window have smaller heads than the others, which
may take keys as values. The last layers may read the keys and values of earlier ones. Each layer
may have an embedding of its own, and experts beside its feed-forward network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dllama.checks import is_integer
from dllama.converter.families import config as fields
from dllama.converter.families import gemma2, llama
from dllama.converter.families.config import SLIDING, Config
from dllama.converter.families.rope import read_rope, unpaired
from dllama.converter.families.source import EMBEDDING, NAMES, Place, Source
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import ModelSpec, QKNorm
from dllama.model.tensors import tensors
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("gemma4_text",)
ARCHITECTURES = ("Gemma4ForCausalLM",)
PER_LAYER = "per_layer_config"
KEYS = llama.KEYS | {
    PER_LAYER, "attention_k_eq_v", "enable_moe_block", "final_logit_softcapping",
    "global_head_dim", "hidden_activation", "hidden_size_per_layer_input",
    "moe_intermediate_size", "num_experts", "num_global_key_value_heads", "num_kv_shared_layers",
    "top_k_experts", "use_bidirectional_attention", "use_double_wide_mlp",
    "vocab_size_per_layer_input",
}  # fmt: skip
# Values of fields that a config.json may leave out.
DEFAULTS: Config = {
    "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
    "intermediate_size": 9216, "max_position_embeddings": 131072, "num_attention_heads": 8,
    "num_hidden_layers": 30, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
    "sliding_window": 512, "vocab_size": 262144,
}  # fmt: skip
PATTERN = 6
FULL_HEAD_DIM, LAYER_INPUT_DIM = 512, 256
FULL = "full_attention"
ROPES: dict[str, dict[str, Any]] = {
    SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}
# Where other families have RoPE.
OTHER_ROPES = ("partial_rotary_factor", "rope_scaling", "rope_theta")
PROPORTIONAL = ("factor", "partial_rotary_factor", "rope_theta", "rope_type")

WHOLE = {
    "embedding": EMBEDDING,
    "layer_embedding": "model.embed_tokens_per_layer.weight",
    "layer_inputs": "model.per_layer_model_projection.weight",
    "layer_inputs_norm": "model.per_layer_projection_norm.weight",
    "final_norm": "model.norm.weight",
}
# Names of tensors in a layer; those that end in a dot have no .weight behind it.
TENSORS = {
    **NAMES,
    **gemma2.NAMES,
    "experts_norm": "pre_feedforward_layernorm_2",
    "dense_post_norm": "post_feedforward_layernorm_1",
    "experts_post_norm": "post_feedforward_layernorm_2",
    "layer_input_gate": "per_layer_input_gate",
    "layer_input_up": "per_layer_projection",
    "layer_input_post_norm": "post_per_layer_input_norm",
    "scale": "layer_scalar.",
    "router": "router.proj",
    "router_norm": "router.scale.",
    "expert_scales": "router.per_expert_scale.",
}
# Where gate, down and up of an expert are in tensors of all experts: which of how many parts.
PARTS = {"gate": ("gate_up_proj", 0, 2), "down": ("down_proj", 0, 1), "up": ("gate_up_proj", 1, 2)}


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    given = fields.completed(config, DEFAULTS)
    fields.refuse_set(given, ("attention_bias", "mlp_bias", *OTHER_ROPES), path)
    if given.get("use_bidirectional_attention") not in (None, "vision"):
        found = given["use_bidirectional_attention"]
        raise UnsupportedError(f"{path}: use_bidirectional_attention {found!r} is not supported")
    windowed = _windowed(given, path)
    plain = {**given, "hidden_act": given["hidden_activation"]}
    plain |= dict.fromkeys(("layer_types", "rope_parameters", "sliding_window"))
    spec = replace(
        unpaired(llama.read_config(plain, weights, path)),
        qk_norm=QKNorm.HEAD,
        value_norm=True,
        keys_as_values=fields.flag(given, "attention_k_eq_v", path, False),
        attention_scale=1.0,
        post_norms=True,
        layer_scales=True,
        embedding_scale=math.sqrt(fields.size(given, "hidden_size", path)),
        logits_cap=gemma2.cap(given, "final_logit_softcapping", path, 0.0),
        layer_input_dim=_layer_input_dim(given, path),
        **_experts(given, path),
    )
    spec = _with_heads(spec, windowed, given, path)
    return _with_shared(_with_ropes(spec, given, path), given, path)


def _windowed(config: Config, path: object) -> tuple[int, ...]:
    """The layers with a window; the last one has none, whatever the config says."""
    count = fields.size(config, "num_hidden_layers", path)
    kinds = fields.layer_types(config, path)
    if kinds is None:
        kinds = [FULL if (layer + 1) % PATTERN == 0 else SLIDING for layer in range(count)]
    return tuple(layer for layer in range(count - 1) if kinds[layer] == SLIDING)


def _layer_input_dim(config: Config, path: object) -> int:
    """Numbers of a per-layer input; 0 if there are none."""
    field = "hidden_size_per_layer_input"
    if config.get(field) == 0:
        return 0
    size = fields.size(config, field, path, LAYER_INPUT_DIM)
    vocab = fields.size(config, "vocab_size_per_layer_input", path, config["vocab_size"])
    if vocab != config["vocab_size"]:
        found, only = f"vocab_size_per_layer_input {vocab}", f"vocab_size, {config['vocab_size']}"
        raise UnsupportedError(f"{path}: {found} is not supported, only {only}")
    return size


def _experts(config: Config, path: object) -> dict[str, Any]:
    """The fields of a ModelSpec about experts."""
    if not fields.flag(config, "enable_moe_block", path, False):
        return {}
    count, taken = (fields.size(config, name, path) for name in ("num_experts", "top_k_experts"))
    if taken > count:
        raise FormatError(path, "top_k_experts", taken, f"at most {count}, num_experts")
    return {
        "n_experts": count,
        "n_active_experts": taken,
        "moe_hidden_dim": fields.size(config, "moe_intermediate_size", path),
        "dense_beside": True,
    }


def _with_heads(
    spec: ModelSpec, windowed: tuple[int, ...], config: Config, path: object
) -> ModelSpec:
    """The spec with its windows, and with the heads of layers with a window and of the others."""
    size, kv_heads = _full_heads(spec, windowed, config, path)
    if not windowed:
        return replace(spec, head_dim=size, n_kv_heads=kv_heads)
    return replace(
        spec,
        window=fields.size(config, "sliding_window", path),
        windowed=windowed,
        full_head_dim=0 if size == spec.head_dim else size,
        full_kv_heads=0 if kv_heads == spec.n_kv_heads else kv_heads,
    )


def _full_heads(
    spec: ModelSpec, windowed: tuple[int, ...], config: Config, path: object
) -> tuple[int, int]:
    """Elements of a head, and KV heads, in layers without a window.

    transformers 5 writes them for each layer, older files for all.
    """
    usual = spec.head_dim, spec.n_kv_heads
    size: int | None = FULL_HEAD_DIM
    if "global_head_dim" in config:
        size = config["global_head_dim"] and fields.size(config, "global_head_dim", path)
    kv_heads = None
    if spec.keys_as_values and config.get("num_global_key_value_heads") is not None:
        kv_heads = fields.size(config, "num_global_key_value_heads", path)
    older = size or usual[0], kv_heads or usual[1]
    layers = config.get(PER_LAYER)
    if layers is None:
        return older
    if not isinstance(layers, dict):
        raise FormatError(path, PER_LAYER, repr(layers)[:80], "an object")
    known = [str(layer) for layer in range(spec.n_layers)]
    for layer in layers:
        if layer not in known:
            raise FormatError(path, PER_LAYER, repr(layer), f"layers up to {spec.n_layers - 1}")
    full = {
        _heads_of(layers.get(layer, {}), usual, f"{PER_LAYER}.{layer}", path)
        for layer in known
        if int(layer) not in windowed
    }
    for layer in map(str, windowed):
        found = _heads_of(layers.get(layer, {}), usual, f"{PER_LAYER}.{layer}", path)
        if found != usual:
            what = f"{PER_LAYER} of layer {layer}, which has a window"
            raise UnsupportedError(f"{path}: {what}, is not supported")
    if len(full) != 1:
        what = f"{PER_LAYER} differs between layers without a window"
        raise UnsupportedError(f"{path}: {what}, which is not supported")
    (found,) = full
    given = {"global_head_dim": size, "num_global_key_value_heads": kv_heads}
    for (field, value), own in zip(given.items(), found, strict=True):
        if config.get(field) is not None and value not in (None, own):
            raise FormatError(path, field, value, f"{own} as in {PER_LAYER}")
    return found


def _heads_of(layer: object, usual: tuple[int, int], name: str, path: object) -> tuple[int, int]:
    """Elements of a head, and KV heads, of a layer."""
    known = ("head_dim", "num_key_value_heads")
    if not isinstance(layer, dict):
        raise FormatError(path, name, repr(layer), "an object")
    for field, value in layer.items():
        if field not in known:
            raise UnsupportedError(f"{path}: {name} has {field} {value!r}, which is not supported")
        if not is_integer(value, 1):
            raise FormatError(path, f"{name}.{field}", repr(value), "a positive integer")
    first, second = (layer.get(*pair) for pair in zip(known, usual, strict=True))
    return first, second


def _with_ropes(spec: ModelSpec, config: Config, path: object) -> ModelSpec:
    """The spec with RoPE of layers with a window, and of the others."""
    ropes = config.get("rope_parameters")
    ropes = ROPES if ropes is None else ropes
    kinds = (FULL, SLIDING) if spec.windowed else (FULL,)
    for kind in kinds:
        if not isinstance(ropes, dict) or not isinstance(ropes.get(kind), dict):
            found = repr(ropes)[:80]
            raise FormatError(path, "rope_parameters", found, f"an object with {kind}")
    if others := set(ropes) - set(ROPES):
        raise UnsupportedError(f"{path}: rope_parameters.{min(others)} is not supported")
    local = 0.0
    if spec.windowed:
        local = _plain_theta(ropes[SLIDING], SLIDING, path)
    full, size = ropes[FULL], spec.head_size(False)
    if full.get("rope_type") != "proportional":
        theta = _plain_theta(full, FULL, path)
        return replace(spec, rope_theta=theta, window_rope_theta=local)
    for field, value in full.items():
        if field not in PROPORTIONAL and value:
            what = f"rope_parameters.{field} {value!r}"
            raise UnsupportedError(
                f"{path}: {what} is not supported for the rope type proportional"
            )
    theta = fields.number(full, "rope_theta", path)
    return replace(
        spec,
        rope_theta=theta,
        rope_frequencies=_proportional(full, theta, size, path),
        window_rope_theta=local,
    )


def _plain_theta(rope: dict[str, Any], kind: str, path: object) -> float:
    """The base of frequencies that are not scaled."""
    if rope.get("rope_theta") is None:
        raise FormatError(path, f"rope_parameters.{kind}.rope_theta", "missing", "a number")
    found = read_rope({"rope_parameters": rope}, path, 2)
    if set(found) != {"rope_theta"}:
        raise UnsupportedError(f"{path}: scaled RoPE in layers of {kind} is not supported")
    theta: float = found["rope_theta"]
    return theta


def _proportional(rope: dict[str, Any], theta: float, size: int, path: object) -> tuple[float, ...]:
    """Frequencies of pairs over the whole head, of which only the first ones are rotated."""
    part = fields.number(rope, "partial_rotary_factor", path, 1.0)
    factor = fields.number(rope, "factor", path, 1.0)
    if part > 1:
        raise FormatError(path, "partial_rotary_factor", part, "at most 1")
    rotated = int(part * size // 2)
    return tuple(
        math.pow(theta, -2.0 * pair / size) / factor if pair < rotated else 0.0
        for pair in range(size // 2)
    )


def _with_shared(spec: ModelSpec, config: Config, path: object) -> ModelSpec:
    """The spec with the layers that read the keys and values of earlier ones."""
    count = config.get("num_kv_shared_layers") or 0
    if not is_integer(count, 0, spec.n_layers - 1):
        expected = f"0 to {spec.n_layers - 1}"
        raise FormatError(path, "num_kv_shared_layers", repr(count), expected)
    wide = fields.flag(config, "use_double_wide_mlp", path, False) and count
    return replace(
        spec,
        kv_shared_layers=count,
        kv_shared_hidden_dim=2 * spec.hidden_dim if wide else 0,
    )


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    for tensor in tensors(replace(spec, tied=False)):
        at, _, name = tensor.name.rpartition(".")
        if tensor.name in WHOLE:
            yield Source(tensor.name, WHOLE[name])
        elif tensor.name == "output":
            yield Source(name, "lm_head.weight", tied_to=EMBEDDING)
        elif ".experts." in at:
            yield _expert_source(at, name, spec.n_experts)
        else:
            where = f"model.{at}.{TENSORS[name]}"
            where = where[:-1] if where.endswith(".") else f"{where}.weight"
            times = spec.dim**-0.5 if name == "router_norm" else 1.0
            yield Source(tensor.name, where, times=times)


def _expert_source(at: str, name: str, count: int) -> Source:
    """Where gate, down or up of an expert is: in a tensor of all, or in GGUF files apart."""
    layer, _, expert = at.partition(".experts.")
    tensor, first, parts = PARTS[name]
    fused = f"model.{layer}.experts.{tensor}"
    place = Place(fused, int(expert) * parts + first, count * parts)
    apart = Place(f"model.{at}.{name}_proj.weight")
    return Source(f"{at}.{name}", fused, place, others=(apart,))
