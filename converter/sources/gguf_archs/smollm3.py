"""smollm3: Llama whose every fourth layer has no RoPE, which no key says."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import TENSORS, Arch

SMOLLM3 = Arch(
    name="smollm3",
    model_type="smollm3",
    tensors=TENSORS,
    constants={"no_rope_layer_interval": 4},
    paired=True,
)

ARCHS = (SMOLLM3,)
