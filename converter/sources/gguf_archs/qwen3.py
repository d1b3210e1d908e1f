"""qwen3 and qwen3moe."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import EXPERTS, TENSORS, Arch, Config, Given

QWEN3 = Arch(name="qwen3", model_type="qwen3", tensors=TENSORS, windows=True)


def _finish(config: Config, given: Given) -> Config:
    """Experts without a width of their own share that of a feed-forward network."""
    width = config["intermediate_size"] // config["num_experts_per_tok"]
    return {"moe_intermediate_size": config.get("moe_intermediate_size", width)}


QWEN3_MOE = Arch(
    name="qwen3moe",
    model_type="qwen3_moe",
    keys=EXPERTS,
    tensors=TENSORS,
    constants={"norm_topk_prob": True},
    experts=True,
    windows=True,
    finish=_finish,
)

ARCHS = (QWEN3, QWEN3_MOE)
