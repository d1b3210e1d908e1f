"""llama: Llama, Mistral, and all that is built like them; with experts, Mixtral.

mistral3 is the same for Mistral Small 3.1 and 3.2. Ministral 3 has attention.temperature_scale
too, which is refused.
"""

from __future__ import annotations

from dataclasses import replace

from dllama.converter.sources.gguf_archs.arch import EXPERTS, QKV, TENSORS, Arch, as_wide

LLAMA = Arch(
    name="llama",
    model_type="llama",
    tensors=TENSORS,
    biases=(*QKV, "attn_output", "ffn_gate", "ffn_down", "ffn_up"),
    present={"attention_bias": "attn_output.bias", "mlp_bias": "ffn_up.bias"},
    paired=True,
    windows=True,
    factors=("rope_freqs.weight",),
)


MIXTRAL = replace(
    LLAMA,
    model_type="mixtral",
    keys=EXPERTS,
    tensors=TENSORS
    | {
        "ffn_gate_inp": "block_sparse_moe.gate",
        "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
        "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
        "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    },
    biases=(),
    present={},
    experts=True,
    finish=as_wide,
)

MISTRAL3 = replace(LLAMA, name="mistral3", model_type="mistral")

ARCHS = (LLAMA, MIXTRAL, MISTRAL3)
