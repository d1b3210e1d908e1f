"""Llama and models of the same architecture: Llama 1 to 3.3, TinyLlama, Falcon 3, Mistral.

Touvron et al. 2023 (LLaMA, Llama 2), Grattafiori et al. 2024 (Llama 3), Jiang et al. 2023
(Mistral 7B).
"""

from __future__ import annotations

from dllama.converter.families import config as fields
from dllama.converter.families import keys
from dllama.converter.families.config import Config
from dllama.converter.families.rope import read_rope
from dllama.converter.families.source import dense_sources
from dllama.model.spec import Arch, ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("llama", "mistral", "ministral")
ARCHITECTURES = (
    "LlamaForCausalLM",
    "LLaMAForCausalLM",
    "MistralForCausalLM",
    "MinistralForCausalLM",
)
KEYS = keys.LLAMA

sources = dense_sources


def read_config(
    config: Config,
    weights: WeightType,
    path: object,
    theta: float = 10000.0,
    partial: float | None = None,
) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field.

    Args:
        config: a config.json.
        weights: type of the matrices.
        path: the file, for messages.
        theta: of RoPE, if the config has none.
        partial: part of a head that RoPE rotates, if the config does not say; None for all.
    """
    layers = fields.size(config, "num_hidden_layers", path)
    windowed = range(layers) if config.get("model_type") == "ministral" else None
    dim = fields.size(config, "hidden_size", path)
    heads = fields.size(config, "num_attention_heads", path)
    size = fields.size(config, "head_dim", path, dim // heads)
    biases = fields.flag(config, "attention_bias", path, False)
    return ModelSpec(
        arch=Arch.LLAMA,
        dim=dim,
        hidden_dim=fields.size(config, "intermediate_size", path),
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=fields.size(config, "num_key_value_heads", path, heads),
        head_dim=size,
        vocab_size=fields.size(config, "vocab_size", path),
        weight_type=weights,
        hidden_act=fields.hidden_act(config, path),
        norm_epsilon=fields.number(config, "rms_norm_eps", path, 1e-6),
        qkv_bias=biases,
        o_bias=biases,
        ffn_bias=fields.flag(config, "mlp_bias", path, False),
        **read_rope(config, path, size, theta, partial),
        **fields.context(config, path, windowed),
    )
