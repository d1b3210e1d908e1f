"""Falcon-H1: Mamba-2 beside attention in every layer, and multipliers.

TII 2025 (arXiv 2507.22448), Dao and Gu 2024 (arXiv 2405.21060). With the multipliers s of Mamba-2,
a of attention and m of the feed-forward network, and n and p norms of x:

    x = e * embedding;  x += s_out * mamba(s_in * n(x)) + a_out * attention(a_in * n(x))
    x += m_1 * down(silu(m_0 * gate(p(x))) * up(p(x)));  logits = l * output(norm(x))

Keys are multiplied by another one, and so are the five parts that the projection of Mamba-2 has:
z, values, keys, queries and time steps.

Model files have e, l and the factor of scores. The converter multiplies tensors by all others:
vectors where it can, which are float32. So a_in is in scores and o, m_0 in the norm and down, and
what values, keys and queries of Mamba-2 are multiplied by in the convolution that follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama, mamba
from dllama.converter.families.config import Config
from dllama.converter.families.rope import unpaired
from dllama.converter.families.source import EMBEDDING, NAMES, Factor, Place, Source
from dllama.errors import UnsupportedError
from dllama.model.layer import Linear
from dllama.model.spec import ModelSpec
from dllama.model.tensors import tensors
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("falcon_h1",)
ARCHITECTURES = ("FalconH1ForCausalLM",)
# Fields that nothing in a forward pass reads.
UNREAD = {
    "mamba_chunk_size", "mlp_expansion_factor", "num_logits_to_keep", "time_step_floor",
    "time_step_max", "time_step_min", "time_step_rank",
}  # fmt: skip
KEYS = llama.KEYS | UNREAD | {
    "attention_in_multiplier", "attention_out_multiplier", "embedding_multiplier",
    "key_multiplier", "layers_block_type", "lm_head_multiplier", "mamba_conv_bias",
    "mamba_d_conv", "mamba_d_head", "mamba_d_ssm", "mamba_d_state", "mamba_expand",
    "mamba_n_groups", "mamba_n_heads", "mamba_norm_before_gate", "mamba_proj_bias",
    "mamba_rms_norm", "mamba_use_mlp", "mlp_multipliers", "projectors_bias",
    "ssm_in_multiplier", "ssm_multipliers", "ssm_out_multiplier", "time_step_limit",
}  # fmt: skip
# Values of fields that a config.json may leave out.
DEFAULTS: Config = {
    "hidden_act": "silu", "mamba_d_conv": 4, "mamba_d_state": 256, "mamba_expand": 2,
    "mamba_n_groups": 1, "mamba_n_heads": 128, "max_position_embeddings": 8192,
    "num_attention_heads": 32, "rms_norm_eps": 1e-5, "vocab_size": 128000,
}  # fmt: skip
# Values of those that may be null, which is something else.
ABSENT: Config = {"mamba_d_head": "auto", "mamba_d_ssm": 1024, "num_key_value_heads": 8}
KINDS = ("layers_block_type", "layer_types")
HYBRID = "hybrid"
FEED_FORWARD = {"gate": "feed_forward.gate_proj", "up": "feed_forward.up_proj",
                "down": "feed_forward.down_proj", "ffn_norm": "pre_ff_layernorm"}  # fmt: skip


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    given = fields.completed({**ABSENT, **config}, DEFAULTS)
    fields.refuse_set(given, ("sliding_window", "use_sliding_window"), path)
    for field in KINDS:
        if any(kind != HYBRID for kind in given.get(field) or ()):
            raise UnsupportedError(f"{path}: {field} {given[field]!r} is not supported")
    if not fields.flag(given, "mamba_use_mlp", path, True):
        raise UnsupportedError(f"{path}: mamba_use_mlp false is not supported")
    if (found := given["hidden_act"]) not in ("silu", "swish"):
        raise UnsupportedError(f"{path}: hidden_act {found!r} is not supported, only silu")
    spec = llama.read_config({**given, "layer_types": None}, weights, path)
    norm = fields.flag(given, "mamba_rms_norm", path, False)
    first = fields.flag(given, "mamba_norm_before_gate", path, True)
    least, most = mamba.time_steps(given, path)
    return replace(
        unpaired(spec),
        embedding_scale=fields.number(given, "embedding_multiplier", path, 1.0),
        logits_scale=fields.number(given, "lm_head_multiplier", path, 1.0),
        attention_scale=_score_scale(given, spec.head_dim, path),
        linear=tuple(range(spec.n_layers)),
        **mamba.sizes(given, path),
        ssm=True,
        ssm_norm=norm,
        ssm_norm_first=norm and first,
        ssm_conv_bias=fields.flag(given, "mamba_conv_bias", path, True),
        ssm_bias=fields.flag(given, "mamba_proj_bias", path, False),
        ssm_o_bias=fields.flag(given, "projectors_bias", path, False),
        ssm_least_step=least,
        ssm_most_step=most,
    )


def factors(config: Config, path: object) -> dict[str, Factor]:
    """What tensors are multiplied by, by the last word of their names.

    FormatError names path and field.
    """
    sizes = mamba.sizes(fields.completed({**ABSENT, **config}, DEFAULTS), path)
    query, out, ssm, ssm_out = (
        fields.number(config, f"{name}_multiplier", path, 1.0)
        for name in ("attention_in", "attention_out", "ssm_in", "ssm_out")
    )
    gate, down = fields.numbers(config, "mlp_multipliers", 2, path)
    z, values, keys, queries, steps = fields.numbers(config, "ssm_multipliers", 5, path)
    taps = sizes["linear_taps"]
    wide = sizes["linear_value_heads"] * sizes["linear_value_dim"] * taps
    narrow = sizes["linear_key_heads"] * sizes["linear_key_dim"] * taps
    return {
        **{f"{name}_bias": 1 / query for name in "qkv"},
        "o": query * out, "o_bias": out,
        "ffn_norm": gate, "gate_bias": gate, "up_bias": gate,
        "down": down / gate, "down_bias": down,
        "linear_z": ssm * z, "linear_z_bias": z, "decay": ssm * steps, "decay_bias": steps,
        **{f"linear_{name}_bias": 1 / ssm for name in "vkq"},
        "conv": ((ssm * values, wide), (ssm * keys, narrow), (ssm * queries, narrow)),
        "linear_o": ssm_out, "linear_o_bias": ssm_out,
    }  # fmt: skip


def _score_scale(config: Config, size: int, path: object) -> float:
    """The factor of scores; 0 if it is the usual one of heads of a size."""
    query = fields.number(config, "attention_in_multiplier", path, 1.0)
    factor = query * query * fields.number(config, "key_multiplier", path, 1.0)
    return 0.0 if factor == 1 else factor / math.sqrt(size)


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    whole = {"embedding": EMBEDDING, "final_norm": "model.final_layernorm.weight"}
    for tensor in tensors(replace(spec, tied=False)):
        at, _, name = tensor.name.rpartition(".")
        if at:
            place = _place(spec.linear_sizes, f"model.{at}", name)
            yield Source(tensor.name, place.tensor, place)
        elif name == "output":
            yield Source(name, "lm_head.weight", tied_to=EMBEDDING)
        else:
            yield Source(name, whole[name])


def _place(sizes: Linear, at: str, name: str) -> Place:
    """Where a tensor of a layer is."""
    found = mamba.place(sizes, f"{at}.mamba", name)
    part, bias, _ = name.partition("_bias")
    ending = "bias" if bias else "weight"
    return found or Place(f"{at}.{({**NAMES, **FEED_FORWARD})[part]}.{ending}")
