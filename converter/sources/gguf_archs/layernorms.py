"""starcoder2 and stablelm, which have LayerNorm.

llama.cpp's converter writes no sliding window of StarCoder2, so files made by it have none. Whether
the blocks of StableLM are parallel follows from the tensors, not from use_parallel_residual: some
files have that key although there is a norm before the second block.
"""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import (
    QKV,
    TENSORS,
    Arch,
    Config,
    Field,
    Given,
)

# Files may have the epsilon of RMSNorm too.
EPSILON = "attention.layer_norm_epsilon"
OTHER = {"attention.layer_norm_rms_epsilon": Field("rms_norm_eps", 0, whole=False)}
NORMS = ("attn_norm", "ffn_norm", "output_norm")


def blocks(config: Config, given: Given) -> Config:
    """Whether blocks are parallel: there is no norm before the second one."""
    norms = [name for name in given.tensors if name.endswith(".ffn_norm.weight")]
    return {"use_parallel_residual": not norms}


STARCODER2 = Arch(
    name="starcoder2",
    model_type="starcoder2",
    keys={EPSILON: Field("norm_epsilon", 0, whole=False, required=True), **OTHER},
    tensors={name: theirs for name, theirs in TENSORS.items() if name != "ffn_gate"}
    | {"ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
    biases=(*QKV, *NORMS, "attn_output", "ffn_up", "ffn_down"),
    present={"use_bias": "attn_q.bias"},
    windows=True,
)
STABLELM = Arch(
    name="stablelm",
    model_type="stablelm",
    keys={EPSILON: Field("layer_norm_eps", 0, whole=False, required=True), **OTHER},
    tensors=TENSORS
    | {"attn_q_norm": "self_attn.q_layernorm", "attn_k_norm": "self_attn.k_layernorm"},
    biases=(*QKV, *NORMS),
    present={"use_qkv_bias": "attn_q.bias", "qk_layernorm": "attn_q_norm.weight"},
    read=("use_parallel_residual",),
    partial=True,
    finish=blocks,
)

ARCHS = (STARCODER2, STABLELM)
