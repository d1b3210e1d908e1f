"""Llama and models of the same architecture: Llama 1 to 3.3, TinyLlama, Mistral.

Touvron et al. 2023 (LLaMA, Llama 2), Grattafiori et al. 2024 (Llama 3), Jiang et al. 2023
(Mistral 7B).
"""

from __future__ import annotations

from collections.abc import Iterator

from dllama.converter.families import config as fields
from dllama.converter.families import keys
from dllama.converter.families.config import Config
from dllama.converter.families.rope import read_rope
from dllama.converter.families.source import Source
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

LAYER = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "down": "mlp.down_proj",
    "up": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def read_config(
    config: Config, weights: WeightType, path: object, theta: float = 10000.0
) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field.

    Args:
        config: a config.json.
        weights: type of the matrices.
        path: the file, for messages.
        theta: of RoPE, if the config has none.
    """
    fields.refuse_set(config, ("attention_bias", "mlp_bias"), path)
    layers = fields.size(config, "num_hidden_layers", path)
    windowed = range(layers) if config.get("model_type") == "ministral" else None
    dim = fields.size(config, "hidden_size", path)
    heads = fields.size(config, "num_attention_heads", path)
    theta, rope_type, scaling = read_rope(config, path, theta)
    return ModelSpec(
        arch=Arch.LLAMA,
        dim=dim,
        hidden_dim=fields.size(config, "intermediate_size", path),
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=fields.size(config, "num_key_value_heads", path, heads),
        head_dim=fields.size(config, "head_dim", path, dim // heads),
        vocab_size=fields.size(config, "vocab_size", path),
        weight_type=weights,
        hidden_act=fields.hidden_act(config, path),
        norm_epsilon=fields.number(config, "rms_norm_eps", path, 1e-6),
        rope_theta=theta,
        rope_type=rope_type,
        rope_scaling=scaling,
        **fields.context(config, path, windowed),
    )


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file.

    Rows of q and k are reordered so that RoPE rotates adjacent pairs.
    """
    yield Source("embedding", "model.embed_tokens.weight")
    for layer in range(spec.n_layers):
        for ours, theirs in LAYER.items():
            heads = {"q": spec.n_heads, "k": spec.n_kv_heads}.get(ours, 0)
            name = f"model.layers.{layer}.{theirs}.weight"
            yield Source(f"layers.{layer}.{ours}", name, paired_heads=heads)
    yield Source("final_norm", "model.norm.weight")
    yield Source("output", "lm_head.weight", tied_to="model.embed_tokens.weight")
