"""olmo2: OLMo 2."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import TENSORS, Arch

OLMO2 = Arch(
    name="olmo2",
    model_type="olmo2",
    tensors=TENSORS
    | {
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
)

ARCHS = (OLMO2,)
