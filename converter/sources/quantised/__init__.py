"""Quantised weights in Hugging Face folders.

A method has a file with METHOD and `read_scheme`, which reads what a quantization_config says.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dllama.converter.sources.quantised import awq, compressed_tensors, fp8, gptq, mxfp4
from dllama.converter.sources.quantised.scheme import Scheme
from dllama.converter.sources.quantised.settings import Settings, shortened
from dllama.errors import UnsupportedError

# Fields of config.json: that of transformers, compressed-tensors', and MLX's.
READ = ("quantization_config", "compression_config")
KEYS = frozenset({*READ, "quantization"})
# Files that say the same: AutoGPTQ's, AutoAWQ's, and ModelOpt's.
FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
METHODS = {method.METHOD: method for method in (gptq, awq, compressed_tensors, fp8, mxfp4)}
TENSORS = ("model.safetensors", "model.safetensors.index.json")


def read_scheme(
    config: dict[str, Any], files: Collection[str], path: object
) -> Scheme | mxfp4.Mxfp4 | None:
    """Return how the weights are quantised; None if they are not.

    Args:
        config: a config.json.
        files: names of the files beside it.
        path: the config.json, for messages.

    Raises:
        UnsupportedError: a quantisation or a part of it is not supported; it is named.
    """
    found = {key: _scheme(config[key], key, path) for key in sorted(KEYS) if config.get(key)}
    if len(found) > 1:
        raise UnsupportedError(f"{path}: {' and '.join(found)} are both there, expected one")
    scheme = next(iter(found.values()), None)
    for name in FILES:
        if name in files and (scheme is None or name != scheme.file):
            raise UnsupportedError(
                f"{path}: {name} beside it says that the weights are quantised in a way that the "
                "config.json does not"
            )
    if scheme and not any(name in files for name in TENSORS):
        raise UnsupportedError(
            f"{path}: {scheme.name}: there is no {' or '.join(TENSORS)}, and quantised weights "
            "are not read from other files"
        )
    return scheme


def _scheme(values: Any, key: str, path: object) -> Scheme | mxfp4.Mxfp4:
    """Read one of the fields."""
    name = values.get("quant_method") if isinstance(values, dict) else None
    if key not in READ or name not in [*METHODS]:
        shown = shortened(values if name is None else name)
        known = ", ".join(METHODS)
        raise UnsupportedError(f"{path}: {key} {shown} is not supported, only {known}")
    others = {field: value for field, value in values.items() if field != "quant_method"}
    scheme: Scheme | mxfp4.Mxfp4 = METHODS[name].read_scheme(
        Settings(others, f"{key} {name!r}", path)
    )
    return scheme
