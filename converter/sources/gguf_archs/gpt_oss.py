"""gpt-oss. All experts have biases, and gate and up are matrices of their own.

No key says that SwiGLU is clamped at 7, and that YaRN counts pairs in fractions.
"""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import EXPERTS, QKV, TENSORS, Arch, as_wide

GPT_OSS = Arch(
    name="gpt-oss",
    model_type="gpt_oss",
    keys=EXPERTS,
    tensors=TENSORS
    | {
        "attn_sinks.weight": "self_attn.sinks",
        "ffn_gate_inp": "mlp.router",
        "post_attention_norm": "post_attention_layernorm",
    },
    biases=(
        *QKV,
        "attn_output",
        "ffn_gate_inp",
        "ffn_gate_exps",
        "ffn_down_exps",
        "ffn_up_exps",
    ),
    constants={"attention_bias": True, "swiglu_limit": 7.0},
    experts=True,
    scaling={"truncate": False},
    windows=True,
    pattern=2,
    finish=as_wide,
)

ARCHS = (GPT_OSS,)
