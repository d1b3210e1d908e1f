"""glm4: GLM-4. Its RoPE is on adjacent pairs also in Hugging Face's order of rows."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import QKV, TENSORS, Arch

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

ARCHS = (GLM4,)
