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

from dllama.converter.families import config as fields
from dllama.converter.families import gemma2, llama
from dllama.converter.families.config import Config
from dllama.converter.families.gemma4_layers import with_heads, with_shared
from dllama.converter.families.gemma4_rope import with_ropes
from dllama.converter.families.rope import unpaired
from dllama.converter.families.source import EMBEDDING, NAMES, Place, Source
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import ModelSpec, QKNorm
from dllama.model.tensors import tensors
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("gemma4_text",)
ARCHITECTURES = ("Gemma4ForCausalLM",)
KEYS = llama.KEYS | {
    "attention_k_eq_v", "enable_moe_block", "final_logit_softcapping", "global_head_dim",
    "hidden_activation", "hidden_size_per_layer_input", "moe_intermediate_size", "num_experts",
    "num_global_key_value_heads", "num_kv_shared_layers", "per_layer_config", "top_k_experts",
    "use_bidirectional_attention", "use_double_wide_mlp", "vocab_size_per_layer_input",
}  # fmt: skip
# Values of fields that a config.json may leave out.
DEFAULTS: Config = {
    "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
    "intermediate_size": 9216, "max_position_embeddings": 131072, "num_attention_heads": 8,
    "num_hidden_layers": 30, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
    "sliding_window": 512, "vocab_size": 262144,
}  # fmt: skip
LAYER_INPUT_DIM = 256
# Fields of other families: biases, and where those have RoPE.
OTHERS = ("attention_bias", "mlp_bias", "partial_rotary_factor", "rope_scaling", "rope_theta")
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
    fields.refuse_set(given, OTHERS, path)
    if given.get("use_bidirectional_attention") not in (None, "vision"):
        found = given["use_bidirectional_attention"]
        raise UnsupportedError(f"{path}: use_bidirectional_attention {found!r} is not supported")
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
    spec = with_ropes(with_heads(spec, given, path), given, path)
    return with_shared(spec, given, path)


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
