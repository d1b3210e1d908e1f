"""exaone4: EXAONE 4. Layers without a sliding window have no RoPE, if others have a window."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import TENSORS, Arch

EXAONE4 = Arch(
    name="exaone4",
    model_type="exaone4",
    tensors=TENSORS
    | {
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
    windows=True,
    pattern=4,
    factors=("rope_freqs.weight",),
)

ARCHS = (EXAONE4,)
