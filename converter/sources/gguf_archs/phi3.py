"""phi3: Phi-3 and Phi-4."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import TENSORS, Arch

PHI3 = Arch(
    name="phi3",
    model_type="phi3",
    tensors=TENSORS | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
    partial=True,
    windows=True,
    factors=("rope_factors_long.weight", "rope_factors_short.weight"),
)

ARCHS = (PHI3,)
