"""granite, granitemoe: Granite 3, with multipliers for embedding, scores, blocks and logits."""

from __future__ import annotations

import math
from dataclasses import replace

from dllama.converter.sources.gguf_archs.arch import (
    EXPERTS,
    TENSORS,
    Arch,
    Config,
    Field,
    Given,
)


def _finish(config: Config, given: Given) -> Config:
    """Without a multiplier, scores are scaled as in Llama."""
    scale = 1 / math.sqrt(config["head_dim"])
    return {"attention_multiplier": config.get("attention_multiplier", scale)}


GRANITE = Arch(
    name="granite",
    model_type="granite",
    keys={
        "embedding_scale": Field("embedding_multiplier", 0, whole=False, none=True),
        "residual_scale": Field("residual_multiplier", 0, whole=False, none=True),
        "attention.scale": Field("attention_multiplier", 0, whole=False, none=True),
        "logit_scale": Field("logits_scaling", 0, whole=False, none=True),
    },
    tensors=TENSORS,
    paired=True,
    neutral={"rope.scaling.finetuned": (True, 1)},  # false: no RoPE
    finish=_finish,
)
# Experts are as wide as feed_forward_length says.
GRANITE_MOE = replace(
    GRANITE,
    name="granitemoe",
    model_type="granitemoe",
    keys={**GRANITE.keys, **{key: EXPERTS[key] for key in ("expert_count", "expert_used_count")}},
    tensors=TENSORS
    | {
        "ffn_gate_inp": "block_sparse_moe.router.layer",
        "ffn_gate_exps": "block_sparse_moe.experts.{}.gate_proj",
        "ffn_down_exps": "block_sparse_moe.experts.{}.down_proj",
        "ffn_up_exps": "block_sparse_moe.experts.{}.up_proj",
    },
    experts=True,
)

ARCHS = (GRANITE, GRANITE_MOE)
