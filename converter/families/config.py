"""Reading config.json: the old and new names of Hugging Face, and clear errors."""

from __future__ import annotations

import logging
from typing import Any

from dllama.checks import is_flag, is_integer, is_number
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import HiddenAct, RopeScaling, RopeType

log = logging.getLogger("dllama.convert")

Config = dict[str, Any]

# Model files store numbers as float32.
MOST = 3.4e38
# There is only the tanh approximation of GELU; plain "gelu" means the exact function.
ACTIVATIONS = {
    "silu": HiddenAct.SILU,
    "swish": HiddenAct.SILU,
    "gelu_new": HiddenAct.GELU,
    "gelu_pytorch_tanh": HiddenAct.GELU,
}


def completed(config: Config, defaults: Config) -> Config:
    """The config, with default values for fields that are absent or null."""
    absent = {field: value for field, value in defaults.items() if config.get(field) is None}
    return {**config, **absent}


def size(config: Config, field: str, path: object, default: int | None = None) -> int:
    """A positive integer. If absent or null, the default; FormatError if there is none."""
    value = config.get(field)
    if value is None:
        value = default
    if not is_integer(value, 1):
        raise FormatError(path, field, repr(value), "a positive integer")
    return value


def number(config: Config, field: str, path: object, default: float | None = None) -> float:
    """A positive number. If absent or null, the default; FormatError if there is none."""
    value = config.get(field)
    if value is None:
        value = default
    if not is_number(value, 0, MOST, above=True):
        raise FormatError(path, field, repr(value), "a positive number")
    return float(value)


def flag(config: Config, field: str, path: object, default: bool) -> bool:
    """true or false. If absent or null, the default."""
    value = config.get(field)
    value = default if value is None else value
    if not is_flag(value):
        raise FormatError(path, field, repr(value), "true or false")
    return value


def hidden_act(config: Config, path: object) -> HiddenAct:
    """The activation of the feed-forward network."""
    name = config.get("hidden_act") or "silu"
    if not isinstance(name, str) or name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedError(f"{path}: hidden_act {name!r} is not supported, only {known}")
    return ACTIVATIONS[name]


def seq_len(config: Config, path: object, windowed: bool = True) -> int:
    """The context length of the model, cut to the sliding window if there is one.

    Args:
        config: the config.
        path: its file, for messages.
        windowed: whether `sliding_window` counts if `use_sliding_window` is absent.
    """
    positions = size(config, "max_position_embeddings", path)
    if not flag(config, "use_sliding_window", path, windowed) or not _windows(config, path):
        return positions
    window = size(config, "sliding_window", path, positions)
    if window < positions:
        log.warning(
            "%s: sliding_window %d is not supported beyond the window: the context is cut from "
            "%d to %d", path, window, positions, window,
        )  # fmt: skip
    return min(window, positions)


def _windows(config: Config, path: object) -> bool:
    """Whether some layer has the sliding window.

    These are the layers that layer_types names, or else all but the first max_window_layers.
    """
    kinds, without = config.get("layer_types"), config.get("max_window_layers")
    if isinstance(kinds, list):
        return any(kind != "full_attention" for kind in kinds)
    return not without or size(config, "max_window_layers", path) < size(
        config, "num_hidden_layers", path
    )


def experts(config: Config, path: object) -> tuple[int, int]:
    """Experts of a layer, and experts that a token takes."""
    field = "num_experts" if config.get("num_experts") is not None else "num_local_experts"
    count = size(config, field, path)
    taken = size(config, "num_experts_per_tok", path)
    if taken > count:
        raise FormatError(path, "num_experts_per_tok", taken, f"at most {count}, {field}")
    return count, taken


def refuse_set(config: Config, fields: tuple[str, ...], path: object) -> None:
    """UnsupportedError if one of the fields is true."""
    for field in fields:
        if config.get(field):
            raise UnsupportedError(f"{path}: {field} {config[field]!r} is not supported")


def refuse_scaling(scaling: RopeScaling | None, path: object) -> None:
    """UnsupportedError for scaled RoPE, in families for which model files cannot express it."""
    if scaling is not None:
        raise UnsupportedError(f"{path}: rope type 'llama3' is not supported for this model_type")


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
