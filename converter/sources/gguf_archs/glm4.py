"""glm4 and glm4moe. RoPE of GLM-4 is on adjacent pairs also in Hugging Face's order of rows."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import (
    QKV,
    TENSORS,
    Arch,
    Field,
)

GLM4 = Arch(
    name="glm4",
    model_type="glm4",
    tensors=TENSORS
    | {
        "ffn_up": "mlp.gate_up_proj",
        "post_attention_norm": "post_self_attn_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
    },
    biases=QKV,
    present={"attention_bias": "attn_q.bias"},
    paired=True,
    partial=True,
    predictors=True,
)
# Keys and names of DeepSeek's routers and shared experts.
ROUTED = {
    "expert_count": Field("n_routed_experts", required=True),
    "expert_used_count": Field("num_experts_per_tok", required=True),
    "expert_feed_forward_length": Field("moe_intermediate_size", required=True),
    "expert_shared_count": Field("n_shared_experts", required=True),
    "leading_dense_block_count": Field("first_k_dense_replace", 0),
    "expert_group_count": Field("n_group", 0, none=True),
    "expert_group_used_count": Field("topk_group", 0, none=True),
    "expert_weights_scale": Field("routed_scaling_factor", 0, whole=False, none=True),
    "expert_weights_norm": Field("norm_topk_prob", flag=True),
}
ROUTED_CONSTANTS = {
    "first_k_dense_replace": 0,
    "n_group": 1,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "topk_group": 1,
}
SHARED = {
    "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
}
# Scores are sigmoids, with a correction for the choice alone.
GLM4_MOE = Arch(
    name="glm4moe",
    model_type="glm4_moe",
    keys=ROUTED,
    tensors=TENSORS | SHARED | {"post_attention_norm": "post_attention_layernorm"},
    biases=(*QKV, "exp_probs_b"),
    present={"attention_bias": "attn_q.bias", "use_qk_norm": "attn_q_norm.weight"},
    constants=ROUTED_CONSTANTS,
    experts=True,
    partial=True,
    predictors=True,
    neutral={"expert_gating_func": (0, 2)},  # 2 is the sigmoid
)

ARCHS = (GLM4, GLM4_MOE)
