"""Checkpoints of the fixtures' shapes, so much wider that rows are blocks of 256."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oracle.huggingface import read_safetensors

SIZES = (
    "hidden_size", "intermediate_size", "head_dim", "linear_key_head_dim", "linear_value_head_dim",
    "mamba_d_ssm", "mamba_d_head", "mamba_d_state",
)  # fmt: skip
# What has a number for each head of a state, and what has a row for each of these or each token.
SCALARS = ("A_log", "dt_bias", "mamba.D")
ROWS = ("in_proj_a.weight", "in_proj_b.weight", "embed_tokens.weight", "lm_head.weight")


def widen(folder: Path, times: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return random tensors and the config of a wider model with states.

    Args:
        folder: of the model.
        times: how much wider.
    """
    config = json.loads((folder / "config.json").read_text())
    heads = config.get("mamba_n_heads", 0)
    rng = np.random.default_rng(11)
    found = read_safetensors(folder / "model.safetensors")
    wide = {name: _wider(name, tensor, times, heads, rng) for name, tensor in found.items()}
    config |= {name: times * config[name] for name in SIZES if name in config}
    rope = config["rope_parameters"]
    if "mrope_section" in rope:
        rope["mrope_section"] = [times * pairs for pairs in rope["mrope_section"]]
    return wide, config


def _wider(
    name: str, tensor: NDArray[Any], times: int, heads: int, rng: np.random.Generator
) -> NDArray[Any]:
    """Return a wider tensor: vectors and taps repeated, matrices random with such products."""
    if name.endswith(SCALARS):
        return tensor
    if tensor.ndim != 2:
        return np.resize(tensor, (times * len(tensor), *tensor.shape[1:]))
    rows, columns = tensor.shape
    apart = rows if name.endswith(ROWS) else heads * name.endswith("mamba.in_proj.weight")
    shape = (times * (rows - apart) + apart, times * columns)
    spread = tensor.astype(np.float32).std() / times**0.5
    return (spread * rng.standard_normal(shape)).astype(np.float32)
