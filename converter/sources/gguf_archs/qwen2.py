"""qwen2: Qwen2 and Qwen2.5."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import TENSORS, Arch

QWEN2 = Arch(
    name="qwen2",
    model_type="qwen2",
    tensors=TENSORS,
    biases=("attn_q", "attn_k", "attn_v"),
)

ARCHS = (QWEN2,)
