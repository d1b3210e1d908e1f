"""Reading config.json: the old and new names of Hugging Face, and clear errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dllama.checks import is_flag, is_integer, is_number, shown
from dllama.errors import FormatError, UnsupportedError
from dllama.model.header_keys import RANGES, Key
from dllama.model.spec import HiddenAct

Config = dict[str, Any]

# Model files store numbers as float32.
LEAST, MOST = 1.2e-38, 3.4e38
# Some of these are no sizes of model files: a window of 2^32 - 1 positions is none.
MOST_SIZE = (1 << 32) - 1
# Each of these many is looked at one by one before all of them are checked.
MOST_LAYERS, MOST_WIDE = RANGES[Key.N_LAYERS][1], RANGES[Key.DIM][1]
SLIDING = "sliding_attention"
# Of Qwen2 and Qwen3, if the config has none.
MAX_WINDOW_LAYERS = 28
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
    wide = field == "hidden_size" or field.endswith("head_dim")
    most = MOST_LAYERS if field == "num_hidden_layers" else MOST_WIDE if wide else MOST_SIZE
    if not is_integer(value, 1, most):
        raise FormatError(path, field, shown(value), f"an integer from 1 to {most}")
    return value


def number(config: Config, field: str, path: object, default: float | None = None) -> float:
    """A positive number. If absent or null, the default; FormatError if there is none."""
    value = config.get(field)
    if value is None:
        value = default
    if not is_number(value, LEAST, MOST):
        raise FormatError(path, field, shown(value), "a positive number of float32")
    return float(value)


def numbers(config: Config, field: str, count: int, path: object) -> list[float]:
    """The positive numbers of a field, 1 if it is absent."""
    value = config.get(field)
    if value is None:
        return [1.0] * count
    given = value if isinstance(value, list) else []
    if len(given) != count or not all(is_number(one, LEAST, MOST) for one in given):
        raise FormatError(path, field, shown(value), f"a list of {count} positive numbers")
    return [float(one) for one in given]


def flag(config: Config, field: str, path: object, default: bool) -> bool:
    """true or false. If absent or null, the default."""
    value = config.get(field)
    value = default if value is None else value
    if not is_flag(value):
        raise FormatError(path, field, shown(value), "true or false")
    return value


def hidden_act(config: Config, path: object) -> HiddenAct:
    """The activation of the feed-forward network."""
    name = config.get("hidden_act") or "silu"
    if not isinstance(name, str) or name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedError(f"{path}: hidden_act {name!r} is not supported, only {known}")
    return ACTIVATIONS[name]


def context(
    config: Config, path: object, windowed: Iterable[int] | None = None, flagged: bool = False
) -> dict[str, Any]:
    """The fields seq_len, window and windowed of a ModelSpec. A window of all positions is none.

    Args:
        config: the config.
        path: its file, for messages.
        windowed: layers with the window if `layer_types` is absent; None: all have it, whatever
            `layer_types` says.
        flagged: whether the window only counts if `use_sliding_window` is true.
    """
    positions = size(config, "max_position_embeddings", path)
    kinds = layer_types(config, path)
    used = not flagged or flag(config, "use_sliding_window", path, False)
    if not used or not config.get("sliding_window"):
        if kinds and SLIDING in kinds:
            raise UnsupportedError(f"{path}: layer_types has {SLIDING}, but no window")
        return {"seq_len": positions}
    if windowed is None:
        windowed = range(size(config, "num_hidden_layers", path))
    elif kinds:
        windowed = (layer for layer, kind in enumerate(kinds) if kind == SLIDING)
    layers = tuple(windowed)
    window = size(config, "sliding_window", path)
    if not layers or window >= positions:
        return {"seq_len": positions}
    return {"seq_len": positions, "window": window, "windowed": layers}


def last_layers(config: Config, path: object) -> range:
    """All layers but the first max_window_layers."""
    layers = size(config, "num_hidden_layers", path)
    first = config.get("max_window_layers")
    first = 0 if first == 0 else size(config, "max_window_layers", path, MAX_WINDOW_LAYERS)
    return range(first, layers)


def layer_types(config: Config, path: object) -> list[str] | None:
    """layer_types: full_attention or sliding_attention for each layer; None if there are none."""
    kinds = config.get("layer_types")
    if kinds is None:
        return None
    count = size(config, "num_hidden_layers", path)
    if not isinstance(kinds, list) or len(kinds) != count:
        raise FormatError(path, "layer_types", repr(kinds), f"a list of {count} types")
    for kind in kinds:
        if kind not in ("full_attention", SLIDING):
            raise UnsupportedError(f"{path}: layer_types has {kind!r}, which is not supported")
    return kinds


def experts(
    config: Config, path: object, names: Sequence[str] = ("num_experts", "num_local_experts")
) -> tuple[int, int]:
    """Experts of a layer, and experts that a token takes.

    Args:
        config: the config.
        path: its file, for messages.
        names: what the number of experts may be called.
    """
    given = [name for name in names if config.get(name) is not None]
    for other in given[1:]:
        if config[other] != config[given[0]]:
            expected = f"{config[given[0]]!r} as in {given[0]}"
            raise FormatError(path, other, repr(config[other]), expected)
    field = given[0] if given else names[-1]
    count = size(config, field, path)
    taken = size(config, "num_experts_per_tok", path)
    if taken > count:
        raise FormatError(path, "num_experts_per_tok", taken, f"at most {count}, {field}")
    return count, taken


def dense_layers(config: Config, layers: int, path: object) -> tuple[int, ...]:
    """The layers without experts: mlp_only_layers, and all but those of every so many.

    Args:
        config: the config.
        layers: how many the model has.
        path: its file, for messages.
    """
    only, step = config.get("mlp_only_layers") or [], size(config, "decoder_sparse_step", path, 1)
    if not isinstance(only, list) or not all(is_integer(layer, 0, layers - 1) for layer in only):
        raise FormatError(path, "mlp_only_layers", repr(only), f"a list of layers below {layers}")
    return tuple(layer for layer in range(layers) if layer in only or (layer + 1) % step)


def refuse_set(config: Config, fields: tuple[str, ...], path: object) -> None:
    """UnsupportedError if one of the fields is true."""
    for field in fields:
        if config.get(field):
            raise UnsupportedError(f"{path}: {field} {config[field]!r} is not supported")
