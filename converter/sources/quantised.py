"""What a config.json says about quantised weights, whose tensors are not those of the model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dllama.errors import UnsupportedError

# Fields of config.json: that of transformers, compressed-tensors', and MLX's.
KEYS = frozenset({"compression_config", "quantization", "quantization_config"})
# Files that say the same: AutoGPTQ's, AutoAWQ's, and ModelOpt's.
FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")


def refuse_quantised(config: dict[str, Any], files: Collection[str], path: object) -> None:
    """UnsupportedError names the quantisation, if there is any.

    Args:
        config: a config.json.
        files: names of the files beside it.
        path: the config.json, for messages.
    """
    for key in sorted(KEYS):
        if config.get(key):
            raise UnsupportedError(f"{path}: {key} {_method(config[key])} is not supported")
    for name in FILES:
        if name in files:
            raise UnsupportedError(
                f"{path}: {name} beside it says that the weights are quantised, which is not "
                "supported"
            )


def _method(value: object) -> str:
    """Return the name of the quantisation, or else what is known about it."""
    name = value.get("quant_method") if isinstance(value, dict) else None
    text = repr(value if name is None else name)
    return text if len(text) <= 80 else f"{text[:77]}..."
