"""Mamba-2 in config.json and in checkpoints (Dao and Gu 2024, arXiv 2405.21060)."""

from __future__ import annotations

import math
from typing import Any

from dllama.checks import is_integer, is_number
from dllama.converter.families import config as fields
from dllama.converter.families.config import MOST, Config
from dllama.converter.families.source import Place
from dllama.errors import FormatError
from dllama.model.layer import Linear

# Parts of in_proj, in its order.
PARTS = ("linear_z", "linear_v", "linear_k", "linear_q", "decay")
OTHERS = {
    "linear_o": "out_proj.weight", "linear_o_bias": "out_proj.bias", "conv_bias": "conv1d.bias",
    "a_log": "A_log", "dt_bias": "dt_bias", "skip": "D", "linear_norm": "norm.weight",
}  # fmt: skip


def sizes(config: Config, path: object) -> dict[str, Any]:
    """The sizes of Mamba-2, as fields of a ModelSpec."""
    heads = fields.size(config, "mamba_n_heads", path)
    width = config["mamba_d_ssm"]
    if width is None:
        width = config["mamba_expand"] * config["hidden_size"]
    size, groups = config["mamba_d_head"], fields.size(config, "mamba_n_groups", path)
    if size in ("auto", None) and is_integer(width, 1) and width % heads == 0:
        size = width // heads
    if not is_integer(width, 1) or not is_integer(size, 1) or size * heads != width:
        found = f"{config['mamba_d_ssm']!r}, {heads} heads of {config['mamba_d_head']!r}"
        raise FormatError(path, "mamba_d_ssm", found, "mamba_n_heads times mamba_d_head")
    if heads % groups:
        raise FormatError(path, "mamba_n_groups", groups, f"a divisor of {heads}, mamba_n_heads")
    return {
        "linear_key_heads": groups,
        "linear_value_heads": heads,
        "linear_key_dim": fields.size(config, "mamba_d_state", path),
        "linear_value_dim": size,
        "linear_taps": fields.size(config, "mamba_d_conv", path),
    }


def time_steps(config: Config, path: object) -> tuple[float, float]:
    """The least and the greatest time step; 0 if there is no limit."""
    limits = config.get("time_step_limit")
    if limits is None:
        return 0.0, 0.0
    steps = [_number(one) for one in limits] if isinstance(limits, list) else []
    if len(steps) != 2 or not is_number(steps[0], 0, MOST) or not steps[0] <= steps[1]:
        expected = "a list of the least and the greatest step"
        raise FormatError(path, "time_step_limit", repr(limits), expected)
    if steps[1] == 0:
        raise FormatError(path, "time_step_limit", repr(limits), "a greatest step above 0")
    return steps[0], steps[1] if steps[1] <= MOST else 0.0


def _number(value: object) -> float:
    """A number of JSON, or infinity as transformers writes it; else NaN."""
    if value in ("inf", "Infinity", {"__float__": "Infinity"}):
        return math.inf
    if isinstance(value, float) and value == math.inf:
        return math.inf
    return float(value) if is_number(value) else math.nan


def place(sizes: Linear, at: str, name: str) -> Place | None:
    """Where a tensor of a layer is, if it is one of Mamba-2, whose names begin with `at`."""
    if name == "conv":
        return Place(f"{at}.conv1d.weight", layout="flat")
    if name in OTHERS:
        return Place(f"{at}.{OTHERS[name]}")
    part, bias, _ = name.partition("_bias")
    if part not in PARTS:
        return None
    rows = [sizes.values, sizes.values, sizes.keys, sizes.keys, sizes.value_heads]
    index = PARTS.index(part)
    where = sum(rows[:index]), sum(rows), rows[index]
    return Place(f"{at}.in_proj.{'bias' if bias else 'weight'}", *where)
