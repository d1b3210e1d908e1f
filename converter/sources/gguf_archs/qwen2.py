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
from dllama.errors import FormatError

QWEN2 = Arch(
    name="qwen2",
    model_type="qwen2",
    tensors=TENSORS,
    biases=QKV,
    windows=True,
)


# Keys, names and rows of experts with a shared one that has a gate.
MIXTURE = {
    **EXPERTS,
    "expert_shared_feed_forward_length": Field("shared_expert_intermediate_size", 0, none=True),
}
SHARED = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
}
ROWS = ("ffn_gate_inp_shexp.weight",)


def widths(config: Config, given: Given) -> Config:
    """Without keys, all experts together, and the shared one, are as wide as a network would be."""
    whole = config.get("intermediate_size", 0)
    usual = {
        "moe_intermediate_size": whole // config["num_experts_per_tok"],
        "shared_expert_intermediate_size": whole,
    }
    for name, width in usual.items():
        if name not in config and not width:
            key = given.key("feed_forward_length")
            raise FormatError(given.path, key, "missing", f"the width of experts ({name})")
    return usual | {name: config[name] for name in usual if name in config}


QWEN2_MOE = Arch(
    name="qwen2moe",
    model_type="qwen2_moe",
    keys=MIXTURE,
    tensors=TENSORS | SHARED,
    rows=ROWS,
    biases=QKV,
    constants={"norm_topk_prob": False},
    experts=True,
    windows=True,
    neutral={"expert_weights_norm": (False, 0)},
    finish=widths,
)

ARCHS = (QWEN2, QWEN2_MOE)
