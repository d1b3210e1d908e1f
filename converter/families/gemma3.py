"""Gemma 3, text: Gemma 2 with norms of heads in place of soft caps, and two bases of RoPE.

Gemma team 2025 (Gemma 3 technical report, section 2). Five layers have a sliding window, then one
has none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dllama.converter.families import config as fields
from dllama.converter.families import gemma2
from dllama.converter.families.config import Config
from dllama.converter.families.rope import read_rope
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import ModelSpec, QKNorm
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("gemma3_text",)
ARCHITECTURES = ("Gemma3ForCausalLM",)
PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")
LOCAL = "rope_local_base_freq"
KEYS = gemma2.KEYS - {"sliding_window_size"} | {*PATTERNS, LOCAL}
# Values of fields that a config.json may leave out.
DEFAULTS = {**gemma2.DEFAULTS, "max_position_embeddings": 131072, "vocab_size": 262208}
PATTERN, THETA, LOCAL_THETA = 6, 1e6, 1e4

sources = gemma2.sources


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    given, theta = _ropes(fields.completed(config, DEFAULTS), path)
    kinds = fields.context(given, path, _windowed(config, path))
    return replace(
        gemma2.common(given, weights, path, THETA),
        qk_norm=QKNorm.HEAD,
        window_rope_theta=theta if kinds.get("windowed") else 0.0,
        logits_cap=gemma2.cap(config, "final_logit_softcapping", path, 0.0),
        **kinds,
    )


def _windowed(config: Config, path: object) -> list[int]:
    """The layers with a window if layer_types does not say: all but the last of every few."""
    layers = fields.size(config, "num_hidden_layers", path)
    values = [fields.size(config, name, path) for name in PATTERNS if config.get(name) is not None]
    if len(set(values)) > 1:
        raise FormatError(path, PATTERNS[1], values[1], f"{values[0]} as in {PATTERNS[0]}")
    pattern = values[0] if values else PATTERN
    return [layer for layer in range(layers) if (layer + 1) % pattern]


def _ropes(config: Config, path: object) -> tuple[Config, float]:
    """The config with the RoPE of layers without a window alone, and theta of the others.

    rope_parameters may have an object for each kind of layer. Older configs have rope_theta and
    rope_scaling for layers without a window, and rope_local_base_freq.
    """
    nested = config.get("rope_parameters")
    theta = fields.number(config, LOCAL, path, LOCAL_THETA)
    if not isinstance(nested, dict) or "sliding_attention" not in nested:
        return config, theta
    local: dict[str, Any] = {"rope_parameters": nested["sliding_attention"]}
    rope = read_rope(local, path, 2, theta)
    if set(rope) != {"rope_theta"}:
        raise UnsupportedError(f"{path}: scaled RoPE in layers with a window is not supported")
    if config.get(LOCAL) is not None and rope["rope_theta"] != theta:
        raise FormatError(
            path, LOCAL, f"{theta:g}", f"{rope['rope_theta']:g} as in rope_parameters"
        )
    return {**config, "rope_parameters": nested.get("full_attention")}, rope["rope_theta"]
