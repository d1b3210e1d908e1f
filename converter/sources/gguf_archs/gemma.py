"""gemma2, gemma3: Gemma 2, and the text of Gemma 3. Their norms have the 1 added."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import TENSORS, Arch, Config, Field, Given

CAP = "final_logit_softcapping"
NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# Layers of the models of 27B, which scale scores by the width of the model for each head.
LARGEST = {"gemma2": 46, "gemma3_text": 62}


def _scale(config: Config, given: Given) -> Config:
    """query_pre_attn_scalar, which no key says."""
    largest = config["num_hidden_layers"] == LARGEST[config["model_type"]]
    whole = config["hidden_size"] / config["num_attention_heads"]
    return {"query_pre_attn_scalar": whole if largest else config["head_dim"]}


GEMMA2 = Arch(
    name="gemma2",
    model_type="gemma2",
    keys={
        "attn_logit_softcapping": Field("attn_logit_softcapping", 0, whole=False),
        CAP: Field(CAP, 0, whole=False),
    },
    tensors=TENSORS | NAMES,
    constants={"sliding_window": 4096},
    windows=True,
    pattern=2,
    finish=_scale,
)
GEMMA3 = Arch(
    name="gemma3",
    model_type="gemma3_text",
    keys={
        CAP: Field(CAP, 0, whole=False, none=True),
        "rope.freq_base_swa": Field("rope_local_base_freq", 0, whole=False),
    },
    tensors=TENSORS | NAMES,
    windows=True,
    pattern=6,
    finish=_scale,
)

ARCHS = (GEMMA2, GEMMA3)
