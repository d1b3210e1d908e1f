"""Granite 3 without experts: Llama with four multipliers.

Granite team, IBM 2024 (Granite 3.0 language models). With the multipliers e of the embedding, r of
what a block adds to the residual stream, a of scores and the divisor l of logits:

    x = e * embedding;  x += r * block(norm(x));  logits = output(norm(x)) / l

A model file has no r. It has x / r as its residual stream, of which blocks add 1 times their
output. The norm of x / r with epsilon / r^2 is the norm of x, so only two constants change.
"""

from __future__ import annotations

from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("granite",)
ARCHITECTURES = ("GraniteForCausalLM",)
KEYS = llama.KEYS | {
    "attention_multiplier",
    "embedding_multiplier",
    "logits_scaling",
    "residual_multiplier",
}

sources = llama.sources


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    spec = llama.read_config(config, weights, path)
    residual = fields.number(config, "residual_multiplier", path, 1.0)
    return replace(
        spec,
        norm_epsilon=spec.norm_epsilon / residual**2,
        embedding_scale=fields.number(config, "embedding_multiplier", path, 1.0) / residual,
        attention_scale=fields.number(config, "attention_multiplier", path, 1.0),
        logits_scale=1 / fields.number(config, "logits_scaling", path, 1.0),
    )
