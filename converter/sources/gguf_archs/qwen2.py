"""qwen2: Qwen2 and Qwen2.5."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import QKV, TENSORS, Arch

QWEN2 = Arch(
    name="qwen2",
    model_type="qwen2",
    tensors=TENSORS,
    biases=QKV,
    windows=True,
)

ARCHS = (QWEN2,)
