"""StarCoder2: LayerNorm, biases everywhere, and a feed-forward network without a gate.

Lozhkov et al. 2024 (StarCoder 2 and The Stack v2). A sliding window, if there is one, is in all
layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.converter.families.rope import unpaired
from dllama.converter.families.source import Source, dense_sources
from dllama.errors import UnsupportedError
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("starcoder2",)
ARCHITECTURES = ("Starcoder2ForCausalLM",)
KEYS = llama.KEYS | {"mlp_type", "norm_epsilon", "norm_type", "use_bias"}

NAMES = {"up": "mlp.c_fc", "down": "mlp.c_proj"}
# Fields of published configs that say what is so anyway.
ONLY = {"mlp_type": "default", "norm_type": "layer_norm"}
DEFAULTS = {"hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "num_key_value_heads": 2}


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    fields.refuse_set(config, ("attention_bias", "mlp_bias"), path)
    for field, only in ONLY.items():
        if config.get(field) not in (None, only):
            raise UnsupportedError(f"{path}: {field} {config[field]!r} is not supported")
    given = fields.completed({**config, "rms_norm_eps": None}, DEFAULTS)
    biases = fields.flag(config, "use_bias", path, True)
    return replace(
        unpaired(llama.read_config(given, weights, path)),
        norm_epsilon=fields.number(given, "norm_epsilon", path),
        layer_norms=True,
        qkv_bias=biases,
        o_bias=biases,
        ffn_bias=biases,
        ffn_gated=False,
    )


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return dense_sources(spec, NAMES)
