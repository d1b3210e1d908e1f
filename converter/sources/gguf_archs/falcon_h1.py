"""falcon-h1: Mamba-2 beside attention. All multipliers are in the tensors already."""

from __future__ import annotations

from dllama.converter.sources.gguf_archs.arch import (
    QKV,
    TENSORS,
    Arch,
    Config,
    Field,
)
from dllama.converter.sources.gguf_heads import decay_log
from dllama.converter.sources.stored import Stored
from dllama.converter.sources.views import View

FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_down")


def _change(name: str, tensor: Stored, config: Config) -> Stored:
    """Vectors as Hugging Face has them, not as matrices; the logarithm of a rate."""
    part = name.split(".", 2)[-1]
    if part in ("ssm_a", "ssm_d", "ssm_norm.weight") and len(tensor.shape) == 2:
        tensor = View(tensor, "flat", 0, 1)
    return decay_log(tensor) if part == "ssm_a" else tensor


FALCON_H1 = Arch(
    name="falcon-h1",
    model_type="falcon_h1",
    keys={
        "ssm.conv_kernel": Field("mamba_d_conv", required=True),
        "ssm.state_size": Field("mamba_d_state", required=True),
        "ssm.group_count": Field("mamba_n_groups", required=True),
        "ssm.time_step_rank": Field("mamba_n_heads", required=True),
        "ssm.inner_size": Field("mamba_d_ssm", required=True),
    },
    tensors={name: theirs for name, theirs in TENSORS.items() if not name.startswith("ffn_")}
    | {name: f"feed_forward.{name[4:]}_proj" for name in FEED_FORWARD}
    | {
        "output_norm": "model.final_layernorm",
        "ffn_norm.": "pre_ff_layernorm.weight",  # its name there has no ending
        "ssm_in": "mamba.in_proj",
        "ssm_conv1d": "mamba.conv1d",
        "ssm_dt.bias": "mamba.dt_bias",
        "ssm_a.": "mamba.A_log",
        "ssm_d.": "mamba.D",
        "ssm_norm": "mamba.norm",
        "ssm_out": "mamba.out_proj",
    },
    biases=(*QKV, "attn_output", *FEED_FORWARD, "ssm_conv1d", "ssm_dt"),
    present={
        "attention_bias": "attn_q.bias",
        "mlp_bias": "ffn_gate.bias",
        "mamba_conv_bias": "ssm_conv1d.bias",
        "mamba_rms_norm": "ssm_norm.weight",
    },
    constants={"mamba_norm_before_gate": False},
    change=_change,
)

ARCHS = (FALCON_H1,)
