"""Reading config.json: both dialects of Hugging Face, one clear error per field."""

from __future__ import annotations

from typing import Any

from dllama.errors import FormatError, UnsupportedError
from dllama.spec import HiddenAct, RopeScaling, RopeType

Config = dict[str, Any]

# A number of the model file is a float32.
MOST = 3.4e38
ACTIVATIONS = {"silu": HiddenAct.SILU, "swish": HiddenAct.SILU}


def size(config: Config, field: str, path: object, default: int | None = None) -> int:
    """A positive integer; absent or null means the default, without one a FormatError."""
    value = config.get(field)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise FormatError(path, field, repr(value), "a positive integer")
    return value


def number(config: Config, field: str, path: object, default: float | None = None) -> float:
    """A positive number; absent or null means the default, without one a FormatError."""
    value = config.get(field)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < MOST:
        raise FormatError(path, field, repr(value), "a positive number")
    return float(value)


def hidden_act(config: Config, path: object) -> HiddenAct:
    """The activation of the feed-forward network."""
    name = config.get("hidden_act") or "silu"
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UnsupportedError(f"{path}: hidden_act {name!r} is not supported, only silu")
    return ACTIVATIONS[name]


def refuse_set(config: Config, fields: tuple[str, ...], path: object) -> None:
    """UnsupportedError if one of the fields is true."""
    for field in fields:
        if config.get(field):
            raise UnsupportedError(f"{path}: {field} {config[field]!r} is not supported")


def rope(config: Config, path: object) -> tuple[float, RopeType, RopeScaling | None]:
    """theta, type and scaling, from rope_parameters or from rope_theta and rope_scaling."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise FormatError(path, "rope_parameters", repr(parameters), "an object")
    theta = number(parameters, "rope_theta", path, number(config, "rope_theta", path, 10000.0))
    for given in (parameters, config):
        if given.get("partial_rotary_factor") not in (None, 1):
            raise UnsupportedError(f"{path}: partial_rotary_factor is not supported, only 1")
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind == "default":
        return theta, RopeType.LLAMA, None
    if kind != "llama3":
        raise UnsupportedError(
            f"{path}: rope type {kind!r} is not supported, only default and llama3"
        )
    scaling = RopeScaling(
        factor=number(parameters, "factor", path),
        low_freq_factor=number(parameters, "low_freq_factor", path),
        high_freq_factor=number(parameters, "high_freq_factor", path),
        original_seq_len=size(parameters, "original_max_position_embeddings", path),
    )
    return theta, RopeType.LLAMA31, scaling
