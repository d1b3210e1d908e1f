"""Gemma 4's layers: their windows and heads, and which read keys and values of earlier ones."""

from __future__ import annotations

from dataclasses import replace

from dllama.checks import is_integer
from dllama.converter.families import config as fields
from dllama.converter.families.config import SLIDING, Config
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import ModelSpec

PER_LAYER = "per_layer_config"
PATTERN = 6
FULL_HEAD_DIM = 512
FULL = "full_attention"


def _windowed(config: Config, path: object) -> tuple[int, ...]:
    """The layers with a window; the last one has none, whatever the config says."""
    count = fields.size(config, "num_hidden_layers", path)
    kinds = fields.layer_types(config, path)
    if kinds is None:
        kinds = [FULL if (layer + 1) % PATTERN == 0 else SLIDING for layer in range(count)]
    return tuple(layer for layer in range(count - 1) if kinds[layer] == SLIDING)


def with_heads(spec: ModelSpec, config: Config, path: object) -> ModelSpec:
    """The spec with its windows, and with the heads of layers with a window and of the others."""
    windowed = _windowed(config, path)
    size, kv_heads = _full_heads(spec, windowed, config, path)
    if not windowed:
        return replace(spec, head_dim=size, n_kv_heads=kv_heads)
    return replace(
        spec,
        window=fields.size(config, "sliding_window", path),
        windowed=windowed,
        full_head_dim=0 if size == spec.head_dim else size,
        full_kv_heads=0 if kv_heads == spec.n_kv_heads else kv_heads,
    )


def _full_heads(
    spec: ModelSpec, windowed: tuple[int, ...], config: Config, path: object
) -> tuple[int, int]:
    """Elements of a head, and KV heads, in layers without a window.

    transformers 5 writes them for each layer, older files for all.
    """
    usual = spec.head_dim, spec.n_kv_heads
    size: int | None = FULL_HEAD_DIM
    if "global_head_dim" in config:
        size = config["global_head_dim"] and fields.size(config, "global_head_dim", path)
    kv_heads = None
    if spec.keys_as_values and config.get("num_global_key_value_heads") is not None:
        kv_heads = fields.size(config, "num_global_key_value_heads", path)
    older = size or usual[0], kv_heads or usual[1]
    layers = config.get(PER_LAYER)
    if layers is None:
        return older
    if not isinstance(layers, dict):
        raise FormatError(path, PER_LAYER, repr(layers)[:80], "an object")
    known = [str(layer) for layer in range(spec.n_layers)]
    for layer in layers:
        if layer not in known:
            raise FormatError(path, PER_LAYER, repr(layer), f"layers up to {spec.n_layers - 1}")
    full = {
        _heads_of(layers.get(layer, {}), usual, f"{PER_LAYER}.{layer}", path)
        for layer in known
        if int(layer) not in windowed
    }
    for layer in map(str, windowed):
        found = _heads_of(layers.get(layer, {}), usual, f"{PER_LAYER}.{layer}", path)
        if found != usual:
            what = f"{PER_LAYER} of layer {layer}, which has a window"
            raise UnsupportedError(f"{path}: {what}, is not supported")
    if len(full) != 1:
        what = f"{PER_LAYER} differs between layers without a window"
        raise UnsupportedError(f"{path}: {what}, which is not supported")
    (found,) = full
    given = {"global_head_dim": size, "num_global_key_value_heads": kv_heads}
    for (field, value), own in zip(given.items(), found, strict=True):
        if config.get(field) is not None and value not in (None, own):
            raise FormatError(path, field, value, f"{own} as in {PER_LAYER}")
    return found


def _heads_of(layer: object, usual: tuple[int, int], name: str, path: object) -> tuple[int, int]:
    """Elements of a head, and KV heads, of a layer."""
    known = ("head_dim", "num_key_value_heads")
    if not isinstance(layer, dict):
        raise FormatError(path, name, repr(layer), "an object")
    for field, value in layer.items():
        if field not in known:
            raise UnsupportedError(f"{path}: {name} has {field} {value!r}, which is not supported")
        if not is_integer(value, 1):
            raise FormatError(path, f"{name}.{field}", repr(value), "a positive integer")
    first, second = (layer.get(*pair) for pair in zip(known, usual, strict=True))
    return first, second


def with_shared(spec: ModelSpec, config: Config, path: object) -> ModelSpec:
    """The spec with the layers that read the keys and values of earlier ones."""
    count = config.get("num_kv_shared_layers") or 0
    if not is_integer(count, 0, spec.n_layers - 1):
        expected = f"0 to {spec.n_layers - 1}"
        raise FormatError(path, "num_kv_shared_layers", repr(count), expected)
    wide = fields.flag(config, "use_double_wide_mlp", path, False) and count
    return replace(
        spec,
        kv_shared_layers=count,
        kv_shared_hidden_dim=2 * spec.hidden_dim if wide else 0,
    )
