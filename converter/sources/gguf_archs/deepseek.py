"""deepseek2: DeepSeek-V2 and V3, whose keys and values are latents.

Files have what the up-projections of keys and values are to the latent: heads below one another,
those of keys transposed. A head of keys is the latent and what RoPE rotates, as the cache has it.
V3 has sigmoids as scores, V2 a softmax. mscale counts as mscale_all_dim, which is all that files
say.
"""

from __future__ import annotations

from dllama.checks import is_integer, shown
from dllama.converter.sources.gguf_archs.arch import TENSORS, Arch, Config, Field, Given
from dllama.converter.sources.gguf_archs.glm4 import ROUTED, ROUTED_CONSTANTS, SHARED
from dllama.errors import FormatError, UnsupportedError

SIGMOID = 2  # of expert_gating_func


def _finish(config: Config, given: Given) -> Config:
    rope, total = (_size(given, name) for name in ("rope.dimension_count", KEYS))
    latent = config["kv_lora_rank"]
    for name, expected in {
        "attention.key_length": latent + rope,
        "attention.value_length": latent,
        "attention.head_count_kv": 1,
    }.items():
        if given.get(name) != expected:
            raise UnsupportedError(
                f"{given.path}: {given.key(name)} is {shown(given.get(name))}, only {expected} is "
                "supported"
            )
    if total <= rope:
        raise FormatError(given.path, given.key(KEYS), total, f"more than {rope}")
    if scale := config.pop("mscale_all_dim", 0):
        whole = round(10 * scale, 6)
        scales = {"mscale": whole, "mscale_all_dim": whole}
        config["rope_scaling"] = {**(config["rope_scaling"] or {}), **scales}
    sigmoid = given.get("expert_gating_func", 0) == SIGMOID
    groups = {} if sigmoid or config["n_group"] == 1 else {"topk_method": "group_limited_greedy"}
    return {
        "model_type": "deepseek_v3" if sigmoid else "deepseek_v2",
        "head_dim": rope,
        "num_key_value_heads": config["num_attention_heads"],
        "qk_nope_head_dim": total - rope,
        "qk_rope_head_dim": rope,
        **groups,
    }


def _size(given: Given, name: str) -> int:
    value = given.get(name)
    if not is_integer(value, 1):
        found = "missing" if value is None else shown(value)
        raise FormatError(given.path, given.key(name), found, "a positive integer")
    return value


KEYS = "attention.key_length_mla"
DEEPSEEK2 = Arch(
    name="deepseek2",
    model_type="deepseek_v3",
    keys={
        **ROUTED,
        "attention.q_lora_rank": Field("q_lora_rank", 0, none=True),
        "attention.kv_lora_rank": Field("kv_lora_rank", required=True),
        "attention.key_length_mla": Field("qk_head_dim", required=True),
        "attention.value_length_mla": Field("v_head_dim", required=True),
        "rope.scaling.yarn_log_multiplier": Field("mscale_all_dim", 0, whole=False, none=True),
    },
    tensors=TENSORS
    | SHARED
    | {
        "attn_q_a": "self_attn.q_a_proj",
        "attn_q_a_norm": "self_attn.q_a_layernorm",
        "attn_q_b": "self_attn.q_b_proj",
        "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
        "attn_kv_a_norm": "self_attn.kv_a_layernorm",
        "attn_k_b": "self_attn.k_b_proj",
        "attn_v_b": "self_attn.v_b_proj",
    },
    biases=("exp_probs_b",),
    stacked=("attn_k_b.weight", "attn_v_b.weight"),
    constants={"q_lora_rank": None, **ROUTED_CONSTANTS},
    experts=True,
    own_heads=True,
    paired=True,
    predictors=True,
    neutral={"expert_gating_func": (0, 1, SIGMOID)},
    finish=_finish,
)

ARCHS = (DEEPSEEK2,)
