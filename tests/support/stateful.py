"""A small model with linear attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dllama.model.file import ModelWriter
from dllama.model.spec import Arch, ModelSpec, QKNorm, RopeType
from dllama.model.weight_types import WeightType

SPEC: dict[str, Any] = {
    "arch": Arch.LLAMA, "dim": 64, "hidden_dim": 96, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2,
    "head_dim": 16, "vocab_size": 2048, "seq_len": 2048, "weight_type": WeightType.F32,
    "rope_type": RopeType.FALCON, "rope_dim": 8, "qk_norm": QKNorm.HEAD, "attention_gate": True,
    "linear": (0, 2), "linear_key_heads": 2, "linear_value_heads": 4, "linear_key_dim": 16,
    "linear_value_dim": 16, "linear_taps": 4,
}  # fmt: skip

# Mamba-2 beside attention in place of gated delta networks.
SSM: dict[str, Any] = {
    "linear": (0, 1, 2), "ssm": True, "ssm_norm": True, "ssm_conv_bias": True,
}  # fmt: skip


def write_stateful(path: Path, **changes: Any) -> Path:
    """Write a model of random numbers; return the path."""
    rng = np.random.default_rng(7)
    with ModelWriter(path, ModelSpec(**{**SPEC, **changes})) as writer:
        for info in writer.tensors.values():
            gain = info.shape[-1] ** -0.5 if len(info.shape) > 1 else 1.0
            numbers = gain * rng.standard_normal(info.shape)
            if info.name.endswith("a_log"):  # so that states remember
                numbers -= 2.0
            writer.write_rows(info.name, numbers.astype(np.float32))
        writer.commit()
    return path
