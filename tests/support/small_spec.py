"""A small dense model, for tests of files and headers."""

from __future__ import annotations

from dllama.model.spec import Arch, ModelSpec
from dllama.model.weight_types import WeightType

SPEC = ModelSpec(
    arch=Arch.LLAMA,
    dim=64,
    hidden_dim=96,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    vocab_size=40,
    seq_len=128,
    weight_type=WeightType.Q40,
)
# Mamba-2 beside attention, with all that it may have.
SSM = {
    "linear": (0, 1), "linear_key_heads": 2, "linear_value_heads": 4, "linear_key_dim": 8,
    "linear_value_dim": 16, "linear_taps": 4, "ssm": True, "ssm_norm": True,
    "ssm_norm_first": True, "ssm_conv_bias": True, "ssm_bias": True, "ssm_o_bias": True,
    "ssm_least_step": 0.125, "ssm_most_step": 0.5,
}  # fmt: skip
# Linear attention in one of its layers.
LINEAR = {
    "linear": (1,), "linear_key_heads": 2, "linear_value_heads": 4, "linear_key_dim": 8,
    "linear_value_dim": 16, "linear_taps": 4,
}  # fmt: skip
