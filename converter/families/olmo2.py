"""OLMo 2: norms behind attention and the feed-forward network, none before them.

OLMo team 2024 (2 OLMo 2 Furious, section 3). All heads of q together, and of k, are normalised
before RoPE.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.converter.families.rope import unpaired
from dllama.converter.families.source import Source, dense_sources
from dllama.model.spec import ModelSpec, QKNorm
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("olmo2",)
ARCHITECTURES = ("Olmo2ForCausalLM",)
KEYS = llama.KEYS

NAMES = {
    "attention_post_norm": "post_attention_layernorm",
    "ffn_post_norm": "post_feedforward_layernorm",
}
DEFAULTS = {"rms_norm_eps": 1e-5}


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    fields.refuse_set(config, ("mlp_bias",), path)
    spec = llama.read_config(fields.completed(config, DEFAULTS), weights, path)
    return replace(unpaired(spec), pre_norms=False, post_norms=True, qk_norm=QKNorm.WIDTH)


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return dense_sources(spec, NAMES)
