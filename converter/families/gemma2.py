"""Gemma 2: four norms in a layer, soft caps, and a sliding window in every other layer.

Gemma team 2024 (Gemma 2: improving open language models at a practical size, section 2). Norms are
stored less 1. The embedding is multiplied by the square root of its width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.converter.families.rope import unpaired
from dllama.converter.families.source import Source, dense_sources
from dllama.errors import FormatError
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("gemma2",)
ARCHITECTURES = ("Gemma2ForCausalLM",)
KEYS = llama.KEYS | {
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "hidden_activation",
    "query_pre_attn_scalar",
    "sliding_window_size",
    "use_bidirectional_attention",
}
NAMES = {
    "attention_post_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_post_norm": "post_feedforward_layernorm",
}
# Values of fields that a config.json may leave out.
DEFAULTS: Config = {
    "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192,
    "num_attention_heads": 8, "num_key_value_heads": 4, "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6, "sliding_window": 4096, "vocab_size": 256000,
}  # fmt: skip
ATTENTION_CAP, LOGITS_CAP = 50.0, 30.0


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    given = fields.completed(config, DEFAULTS)
    layers = fields.size(given, "num_hidden_layers", path)
    again = given.get("sliding_window_size")
    if again not in (None, given["sliding_window"]):
        raise FormatError(path, "sliding_window_size", again, f"{given['sliding_window']} as well")
    return replace(
        common(given, weights, path),
        attention_cap=cap(config, "attn_logit_softcapping", path, ATTENTION_CAP),
        logits_cap=cap(config, "final_logit_softcapping", path, LOGITS_CAP),
        **fields.context(given, path, range(0, layers, 2)),
    )


def common(config: Config, weights: WeightType, path: object, theta: float = 10000.0) -> ModelSpec:
    """What Gemma 2 and 3 have in common: all but caps, norms of heads and windows.

    Args:
        config: a config.json, complete.
        weights: type of the matrices.
        path: the file, for messages.
        theta: of RoPE, if the config has none.
    """
    fields.refuse_set(config, ("use_bidirectional_attention",), path)
    given = {**config, "sliding_window": None, "layer_types": None}
    given["hidden_act"] = config["hidden_activation"]
    scalar = fields.number(config, "query_pre_attn_scalar", path)
    spec = unpaired(llama.read_config(given, weights, path, theta))
    return replace(
        spec,
        post_norms=True,
        embedding_scale=math.sqrt(spec.dim),
        attention_scale=scalar**-0.5,
    )


def cap(config: Config, field: str, path: object, default: float) -> float:
    """A soft cap; null is none, for which this is 0."""
    value = config.get(field, default)
    return 0.0 if not value else fields.number({field: value}, field, path)


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    for source in dense_sources(spec, NAMES):
        yield replace(source, plus=1.0) if source.name.endswith("norm") else source
