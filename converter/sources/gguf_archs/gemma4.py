"""gemma4: the text of Gemma 4.

Sizes of heads are those of layers without a window, and have keys of their own for the others. Keys
that may differ between layers have lists. Layers without a tensor of values take keys as values.
"""

from __future__ import annotations

from typing import Any

from dllama.checks import shown
from dllama.converter.sources.gguf_archs.arch import TENSORS, Arch, Config, Factors, Field, Given
from dllama.converter.sources.gguf_archs.gemma import CAP, NAMES
from dllama.errors import FormatError, UnsupportedError

FREQUENCIES = "rope_freqs.weight"
SLIDING, FULL = "sliding_attention", "full_attention"
FULL_HEAD_DIM, LOCAL = "global_head_dim", "rope_local_base_freq"
KV_HEADS, WIDTH, SHARED = "num_key_value_heads", "intermediate_size", "num_kv_shared_layers"
# Other keys that must say the size of a head, of layers without a window and with one.
HEAD_SIZES = {
    FULL_HEAD_DIM: ("attention.value_length", "rope.dimension_count"),
    "head_dim": ("attention.value_length_swa", "rope.dimension_count_swa"),
}
# A factor of a frequency that stands for none: such pairs are not rotated.
NONE = 1e29


def _finish(config: Config, given: Given) -> Config:
    """Heads, widths and experts, which config.json has under other names."""
    kinds = config["layer_types"]
    if kinds[-1] != FULL:
        key = given.key("attention.sliding_window_pattern")
        raise UnsupportedError(f"{given.path}: {key}: a last layer with a window is not supported")
    for field, keys in HEAD_SIZES.items():
        for name in keys:
            if given.get(name, config[field]) != config[field]:
                what, only = f"{given.key(name)} is {shown(given.get(name))}", config[field]
                raise UnsupportedError(f"{given.path}: {what}, only {only} is supported")
    heads = _each(KV_HEADS, "attention.head_count_kv", config, given)
    usual = {kind: {count for count, one in zip(heads, kinds, strict=True) if one == kind}
             for kind in (SLIDING, FULL)}  # fmt: skip
    if max(map(len, usual.values())) > 1:
        raise _refused("attention.head_count_kv", "differs between layers of a kind", given)
    full = {"head_dim": config.pop(FULL_HEAD_DIM), KV_HEADS: min(usual[FULL])}
    layers = range(len(kinds))
    own = [layer for layer in layers if layer < len(kinds) - config.get(SHARED, 0)]
    return {
        KV_HEADS: min(usual[SLIDING] or usual[FULL]),
        "per_layer_config": {str(layer): full for layer in layers if kinds[layer] == FULL},
        "attention_k_eq_v": any(
            kinds[layer] == FULL and f"blk.{layer}.attn_v.weight" not in given.tensors
            for layer in own
        ),
        "enable_moe_block": bool(config.get("num_experts")),
        **_widths(config, len(own), given),
    }


def _widths(config: Config, own: int, given: Given) -> Config:
    """The width of feed-forward networks, which may be double in the last layers."""
    widths = _each(WIDTH, "feed_forward_length", config, given)
    first, last = {*widths[:own]}, {*widths[own:]}
    if len(first) == 1 and last <= {2 * widths[0]}:
        return {WIDTH: widths[0], "use_double_wide_mlp": bool(last)}
    if len(first | last) == 1:
        return {WIDTH: widths[0]}
    raise _refused("feed_forward_length", "differs between layers", given)


def _each(field: str, key: str, config: Config, given: Given) -> list[Any]:
    """A number for each layer."""
    value, layers = config.get(field), config["num_hidden_layers"]
    value = config["num_attention_heads"] if value is None else value
    found = value if isinstance(value, list) else [value] * layers
    if len(found) != layers:
        raise FormatError(given.path, given.key(key), f"{len(found)} numbers", f"{layers}")
    return found


def _refused(key: str, what: str, given: Given) -> UnsupportedError:
    return UnsupportedError(f"{given.path}: {given.key(key)} {what}, which is not supported")


def _rope(config: Config, given: Given, factors: Factors) -> Config:
    """RoPE of both kinds of layers. In those without a window, factors say which pairs rotate."""
    if FREQUENCIES not in factors:
        raise FormatError(given.path, FREQUENCIES, "missing", "factors of frequencies")
    size = next(iter(config["per_layer_config"].values()))["head_dim"]
    found = factors[FREQUENCIES]
    if len(found) != size // 2:
        raise FormatError(given.path, FREQUENCIES, f"{len(found)} factors", f"{size // 2}")
    rotated = int((found == 1).sum())
    if (found[:rotated] != 1).any() or not (found[rotated:] > NONE).all():
        raise UnsupportedError(f"{given.path}: the factors in {FREQUENCIES} are not Gemma 4's")
    # Half a pair more, so that rounding cannot take one.
    part = min(1.0, (2 * rotated + 1) / size)
    theta = config.pop("rope_theta")
    full = {"rope_type": "proportional", "partial_rotary_factor": part, "rope_theta": theta}
    local = {"rope_type": "default", "rope_theta": config.pop(LOCAL)}
    return {"rope_parameters": {FULL: full, SLIDING: local}}


GEMMA4 = Arch(
    name="gemma4",
    model_type="gemma4_text",
    keys={
        CAP: Field(CAP, 0, whole=False, none=True),
        "attention.head_count_kv": Field(KV_HEADS, each=True),
        "attention.key_length": Field(FULL_HEAD_DIM, required=True),
        "attention.key_length_swa": Field("head_dim", required=True),
        "attention.shared_kv_layers": Field(SHARED, 0),
        "embedding_length_per_layer_input": Field("hidden_size_per_layer_input", 0, required=True),
        "expert_count": Field("num_experts", 0, none=True),
        "expert_used_count": Field("top_k_experts", 0, none=True),
        "expert_feed_forward_length": Field("moe_intermediate_size", 0, none=True),
        "feed_forward_length": Field(WIDTH, required=True, each=True),
        "rope.freq_base_swa": Field(LOCAL, 0, whole=False, required=True),
    },
    read=(*HEAD_SIZES[FULL_HEAD_DIM], *HEAD_SIZES["head_dim"]),
    tensors=TENSORS
    | NAMES
    | {
        "ffn_gate_inp": "router.proj",
        "ffn_gate_inp.scale.": "router.scale",
        "ffn_gate_up_exps.weight": "experts.gate_up_proj",
        "ffn_down_exps.weight": "experts.down_proj",
        "ffn_down_exps.scale.": "router.per_expert_scale",
        "ffn_gate_exps": "experts.{}.gate_proj",
        "ffn_up_exps": "experts.{}.up_proj",
        "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
        "post_ffw_norm_1": "post_feedforward_layernorm_1",
        "post_ffw_norm_2": "post_feedforward_layernorm_2",
        "layer_output_scale.weight": "layer_scalar",
        "per_layer_token_embd": "model.embed_tokens_per_layer",
        "per_layer_model_proj": "model.per_layer_model_projection",
        "per_layer_proj_norm": "model.per_layer_projection_norm",
        "inp_gate": "per_layer_input_gate",
        "proj": "per_layer_projection",
        "post_norm": "post_per_layer_input_norm",
    },
    stacked=("ffn_gate_up_exps.weight", "ffn_down_exps.weight"),
    windows=True,
    pattern=6,
    own_heads=True,
    factors=(FREQUENCIES,),
    rope=_rope,
    finish=_finish,
)

ARCHS = (GEMMA4,)
