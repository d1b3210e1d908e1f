"""qwen35, qwen35moe and qwen3next: gated delta networks.

Value heads of Qwen3.5 stand in the order in which key heads alternate. The scores of experts are a
softmax, and the weights of a token's experts add up to 1; no key says so.
"""

from __future__ import annotations

from dataclasses import replace

from dllama.checks import is_flag, is_integer, shown
from dllama.converter.sources.gguf_archs.arch import (
    TENSORS,
    Arch,
    Config,
    Field,
    Given,
)
from dllama.converter.sources.gguf_archs.qwen2 import MIXTURE, ROWS, SHARED, widths
from dllama.converter.sources.gguf_heads import (
    Rows,
    columns_of_heads,
    decay_log,
    of_heads,
    untiled,
)
from dllama.converter.sources.stored import Stored
from dllama.errors import FormatError

RECURRENT, INTERVAL = "attention.recurrent_layers", "full_attention_interval"
INNER = "linear_inner_size"


def finish(config: Config, given: Given) -> Config:
    """The sizes of value heads, and which layers have linear attention."""
    inner, heads = config.pop(INNER), config["linear_num_value_heads"]
    if inner % heads or heads % config["linear_num_key_heads"]:
        found = f"{inner}, {heads} heads, {config['linear_num_key_heads']} groups"
        raise FormatError(given.path, given.key("ssm.inner_size"), found, "multiples")
    return {
        "linear_value_head_dim": inner // heads,
        "layer_types": _layer_types(config["num_hidden_layers"], given),
    }


def _layer_types(layers: int, given: Given) -> list[str]:
    flags, interval = given.get(RECURRENT), given.get(INTERVAL, 4)
    if flags is None:
        if not is_integer(interval, 1):
            raise FormatError(given.path, given.key(INTERVAL), shown(interval), "an integer")
        flags = [(layer + 1) % interval != 0 for layer in range(layers)]
    if not isinstance(flags, list) or len(flags) < layers or not all(map(is_flag, flags)):
        expected = f"{layers} times true or false"
        raise FormatError(given.path, given.key(RECURRENT), shown(flags), expected)
    return ["linear_attention" if flag else "full_attention" for flag in flags[:layers]]


def _change(name: str, tensor: Stored, config: Config) -> Stored:
    """A tensor with its value heads in Hugging Face's order."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    heads, size = untiled(keys, values), config["linear_value_head_dim"]
    before = 2 * keys * config["linear_key_head_dim"]
    rows = {
        "attn_qkv.weight": (size, before), "ssm_conv1d.weight": (size, before),
        "attn_gate.weight": (size, 0), "ssm_beta.weight": (1, 0), "ssm_alpha.weight": (1, 0),
        "ssm_dt.bias": (1, 0), "ssm_a": (1, 0),
    }  # fmt: skip
    part = name.split(".", 2)[-1]
    if part == "ssm_out.weight":
        return columns_of_heads(tensor, heads)
    if part in rows and heads != sorted(heads):
        places = of_heads(heads, *rows[part])
        if len(places) != tensor.shape[0]:
            raise FormatError(tensor.path, f"shape of {name}", tensor.shape, f"{len(places)} rows")
        tensor = Rows(tensor, places)
    return _a_log(name, tensor, config)


def _a_log(name: str, tensor: Stored, config: Config) -> Stored:
    """A tensor, with A_log as Hugging Face has it."""
    return decay_log(tensor) if name.endswith(".ssm_a") else tensor


SIZES = {
    "ssm.conv_kernel": Field("linear_conv_kernel_dim", required=True),
    "ssm.state_size": Field("linear_key_head_dim", required=True),
    "ssm.group_count": Field("linear_num_key_heads", required=True),
    "ssm.time_step_rank": Field("linear_num_value_heads", required=True),
    "ssm.inner_size": Field(INNER, required=True),
}
NAMES = TENSORS | {
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_a.": "linear_attn.A_log",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
BETA_DECAY = {"ssm_beta": "linear_attn.in_proj_b", "ssm_alpha": "linear_attn.in_proj_a"}
# A model whose layers all have experts has no width of a feed-forward network.
WIDTH = {"feed_forward_length": Field("intermediate_size")}
QWEN35 = Arch(
    name="qwen35",
    model_type="qwen3_5_text",
    keys=SIZES,
    read=(RECURRENT, INTERVAL, "rope.dimension_sections"),  # sections are for images
    tensors=NAMES | BETA_DECAY,
    biases=("ssm_dt",),
    change=_change,
    partial=True,
    predictors=True,
    finish=finish,
)
QWEN35_MOE = replace(
    QWEN35,
    name="qwen35moe",
    model_type="qwen3_5_moe_text",
    keys=SIZES | MIXTURE | WIDTH,
    tensors=NAMES | BETA_DECAY | SHARED,
    rows=ROWS,
    experts=True,
    finish=lambda config, given: finish(config, given) | widths(config, given),
)
# Value heads stand in Hugging Face's order here. Older files have in_proj_qkvz as it is (ssm_in).
QWEN3_NEXT = replace(
    QWEN35_MOE,
    name="qwen3next",
    model_type="qwen3_next",
    read=(RECURRENT, INTERVAL),
    tensors=NAMES
    | SHARED
    | {"ssm_in": "linear_attn.in_proj_qkvz", "ssm_ba": "linear_attn.in_proj_ba"},
    older=("ssm_in",),
    change=_a_log,
)

ARCHS = (QWEN35, QWEN35_MOE, QWEN3_NEXT)
