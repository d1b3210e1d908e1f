"""Grok-1: experts with GELU, four norms per layer, multipliers, a soft cap on attention scores.

Constants and the order of operations are those of run.py and model.py in xAI's release of Grok-1
(2024):

- The embedding and the logits have multipliers.
- Attention and experts have a norm before and a norm after them.
- A score is q k^T times a multiplier, then 30 tanh(score / 30).
- The weights of experts are the router's probabilities, not scaled to add up to 1. Except for
  epsilon, the norm after the experts would remove a common factor anyway.
- GELU is the tanh approximation, the default of JAX.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import mixtral
from dllama.converter.families.config import Config
from dllama.converter.families.source import Place, Source
from dllama.errors import UnsupportedError
from dllama.model.spec import HiddenAct, ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("grok-1", "Grok1ModelForCausalLM")
ARCHITECTURES = ("Grok1ForCausalLM", "Grok1ModelForCausalLM")
KEYS = mixtral.KEYS | {
    "attn_output_multiplier",
    "auto_map",
    "embedding_multiplier_scale",
    "final_logit_softcapping",
    "max_attn_value",
    "output_multiplier_scale",
    "residual_moe",
}
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh")

EMBEDDING_SCALE = 78.38367176906169
ATTENTION_SCALE = 0.08838834764831845
ATTENTION_CAP = 30.0
LOGITS_SCALE = 0.5773502691896257
THETA = 10000.0

# Names of the tensors of a layer in both layouts of checkpoints, in the order of the model file.
LAYER = {
    "q": ("attn.q_proj.weight", "multi_head_attention.query.weight"),
    "k": ("attn.k_proj.weight", "multi_head_attention.key.weight"),
    "v": ("attn.v_proj.weight", "multi_head_attention.value.weight"),
    "o": ("attn.o_proj.weight", "multi_head_attention.linear.weight"),
    "router": ("moe_block.gate.weight", "router.weight"),
    "experts": ("moe_block.experts.", "moe."),
    "attention_norm": ("pre_attn_norm.scale", "rms_norm.weight"),
    "ffn_norm": ("pre_moe_norm.scale", "rms_norm_2.weight"),
    "attention_post_norm": ("post_attn_norm.scale", "rms_norm_1.weight"),
    "ffn_post_norm": ("post_moe_norm.scale", "rms_norm_3.weight"),
}
EXPERT = {"gate": "linear", "down": "linear_1", "up": "linear_v"}


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    fields.refuse_set(config, ("residual_moe", "final_logit_softcapping"), path)
    if config.get("hidden_act") not in (None, *ACTIVATIONS):
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedError(
            f"{path}: hidden_act {config['hidden_act']!r} is not supported, only {known}"
        )
    given = {**config, "hidden_act": None}
    return replace(
        mixtral.read_config(given, weights, path, THETA),
        hidden_act=HiddenAct.GELU,
        topk_normalised=False,
        post_norms=True,
        embedding_scale=fields.number(config, "embedding_multiplier_scale", path, EMBEDDING_SCALE),
        attention_scale=fields.number(config, "attn_output_multiplier", path, ATTENTION_SCALE),
        attention_cap=fields.number(config, "max_attn_value", path, ATTENTION_CAP),
        logits_scale=fields.number(config, "output_multiplier_scale", path, LOGITS_SCALE),
    )


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file.

    Rows of q and k are reordered so that RoPE rotates adjacent pairs.
    """
    embedding, other = "model.embed_tokens.weight", "transformer.in_out_embed.weight"
    yield Source("embedding", embedding, others=(Place(other),))
    for layer in range(spec.n_layers):
        for name, (theirs, others) in LAYER.items():
            first = f"model.layers.{layer}.{theirs}"
            second = f"transformer.decoder_layer.{layer}.{others}"
            heads = {"q": spec.n_heads, "k": spec.n_kv_heads}.get(name, 0)
            at = f"layers.{layer}.{name}"
            if name == "experts":
                yield from _expert_sources(at, spec.n_experts, first, second)
            else:
                yield Source(at, first, paired_heads=heads, others=(Place(second),))
    yield Source("final_norm", "model.norm.scale", others=(Place("transformer.rms_norm.weight"),))
    yield Source("output", "lm_head.weight", tied_to=embedding, others=(Place(other),))


def _expert_sources(at: str, count: int, first: str, second: str) -> Iterator[Source]:
    """Gate, down and up of the experts of a layer."""
    for expert in range(count):
        for ours, theirs in EXPERT.items():
            tensor = f"{expert}.{theirs}.weight"
            yield Source(f"{at}.{expert}.{ours}", first + tensor, others=(Place(second + tensor),))
