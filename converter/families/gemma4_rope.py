"""Gemma 4's RoPE: of layers with a window, and of the others."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from dllama.converter.families import config as fields
from dllama.converter.families.config import SLIDING, Config
from dllama.converter.families.gemma4_layers import FULL
from dllama.converter.families.rope import read_rope
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import ModelSpec

ROPES: dict[str, dict[str, Any]] = {
    SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}
PROPORTIONAL = ("factor", "partial_rotary_factor", "rope_theta", "rope_type")


def with_ropes(spec: ModelSpec, config: Config, path: object) -> ModelSpec:
    """The spec with RoPE of layers with a window, and of the others."""
    ropes = config.get("rope_parameters")
    ropes = ROPES if ropes is None else ropes
    kinds = (FULL, SLIDING) if spec.windowed else (FULL,)
    for kind in kinds:
        if not isinstance(ropes, dict) or not isinstance(ropes.get(kind), dict):
            found = repr(ropes)[:80]
            raise FormatError(path, "rope_parameters", found, f"an object with {kind}")
    if others := set(ropes) - set(ROPES):
        raise UnsupportedError(f"{path}: rope_parameters.{min(others)} is not supported")
    local = 0.0
    if spec.windowed:
        local = _plain_theta(ropes[SLIDING], SLIDING, path)
    full, size = ropes[FULL], spec.head_size(False)
    if full.get("rope_type") != "proportional":
        theta = _plain_theta(full, FULL, path)
        return replace(spec, rope_theta=theta, window_rope_theta=local)
    for field, value in full.items():
        if field not in PROPORTIONAL and value:
            what = f"rope_parameters.{field} {value!r}"
            raise UnsupportedError(
                f"{path}: {what} is not supported for the rope type proportional"
            )
    theta = fields.number(full, "rope_theta", path)
    return replace(
        spec,
        rope_theta=theta,
        rope_frequencies=_proportional(full, theta, size, path),
        window_rope_theta=local,
    )


def _plain_theta(rope: dict[str, Any], kind: str, path: object) -> float:
    """The base of frequencies that are not scaled."""
    if rope.get("rope_theta") is None:
        raise FormatError(path, f"rope_parameters.{kind}.rope_theta", "missing", "a number")
    found = read_rope({"rope_parameters": rope}, path, 2)
    if set(found) != {"rope_theta"}:
        raise UnsupportedError(f"{path}: scaled RoPE in layers of {kind} is not supported")
    theta: float = found["rope_theta"]
    return theta


def _proportional(rope: dict[str, Any], theta: float, size: int, path: object) -> tuple[float, ...]:
    """Frequencies of pairs over the whole head, of which only the first ones are rotated."""
    part = fields.number(rope, "partial_rotary_factor", path, 1.0)
    factor = fields.number(rope, "factor", path, 1.0)
    if part > 1:
        raise FormatError(path, "partial_rotary_factor", part, "at most 1")
    rotated = int(part * size // 2)
    return tuple(
        math.pow(theta, -2.0 * pair / size) / factor if pair < rotated else 0.0
        for pair in range(size // 2)
    )
