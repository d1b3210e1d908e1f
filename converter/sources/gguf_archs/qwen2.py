"""qwen2 and qwen2moe: Qwen2 and Qwen2.5, and those with experts."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import (
    EXPERTS,
    QKV,
    TENSORS,
    Arch,
    Config,
    Field,
    Given,
)

QWEN2 = Arch(
    name="qwen2",
    model_type="qwen2",
    tensors=TENSORS,
    biases=QKV,
    windows=True,
)


def _finish(config: Config, given: Given) -> Config:
    """Without keys, all experts together, and the shared one, are as wide as a network would be."""
    whole = config["intermediate_size"]
    width, shared = whole // config["num_experts_per_tok"], "shared_expert_intermediate_size"
    return {
        "moe_intermediate_size": config.get("moe_intermediate_size", width),
        shared: config.get(shared, whole),
    }


QWEN2_MOE = Arch(
    name="qwen2moe",
    model_type="qwen2_moe",
    keys={
        **EXPERTS,
        "expert_shared_feed_forward_length": Field("shared_expert_intermediate_size", 0, none=True),
    },
    tensors=TENSORS
    | {
        "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
        "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
        "ffn_down_shexp": "mlp.shared_expert.down_proj",
        "ffn_up_shexp": "mlp.shared_expert.up_proj",
    },
    rows=("ffn_gate_inp_shexp.weight",),
    biases=QKV,
    constants={"norm_topk_prob": False},
    experts=True,
    windows=True,
    neutral={"expert_weights_norm": (False, 0)},
    finish=_finish,
)

ARCHS = (QWEN2, QWEN2_MOE)
