"""EXAONE 4: norms behind blocks, norms of heads, and RoPE only in layers with a sliding window.

LG AI Research 2025 (EXAONE 4.0 technical report). Three layers have a window, then one sees all
and has no RoPE. A model without windows has RoPE everywhere.
"""

from __future__ import annotations

from dataclasses import replace

from dllama.checks import is_integer
from dllama.converter.families import config as fields
from dllama.converter.families import llama, olmo2
from dllama.converter.families.config import Config
from dllama.converter.families.rope import unpaired
from dllama.errors import FormatError
from dllama.model.spec import ModelSpec, QKNorm
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("exaone4",)
ARCHITECTURES = ("Exaone4ForCausalLM",)
PATTERN = "sliding_window_pattern"
KEYS = llama.KEYS | {PATTERN}
# Values of fields that a config.json may leave out.
DEFAULTS = {"num_key_value_heads": 32, "rms_norm_eps": 1e-5}
EVERY = 4

sources = olmo2.sources


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    fields.refuse_set(config, ("attention_bias", "mlp_bias"), path)
    given = {**fields.completed(config, DEFAULTS), "sliding_window": None, "layer_types": None}
    spec = unpaired(llama.read_config(given, weights, path))
    windowed = _windowed(config, spec.n_layers, path)
    others = (layer for layer in range(spec.n_layers) if layer not in windowed)
    return replace(
        spec,
        pre_norms=False,
        post_norms=True,
        qk_norm=QKNorm.HEAD,
        no_rope=tuple(others) if config.get("sliding_window") else (),
        **fields.context(config, path, windowed),
    )


def _windowed(config: Config, layers: int, path: object) -> list[int]:
    """The layers with a window, if there is one.

    Without layer_types, the pattern says it: a letter for each layer of a run, L for a window, or
    every which layer has none.
    """
    kinds = fields.layer_types(config, path)
    if kinds:
        return [layer for layer, kind in enumerate(kinds) if kind == fields.SLIDING]
    pattern = config.get(PATTERN)
    pattern = EVERY if pattern is None else pattern
    if is_integer(pattern, 1):
        return [layer for layer in range(layers) if (layer + 1) % pattern]
    if not isinstance(pattern, str) or not pattern or set(pattern) - {"L", "G"}:
        raise FormatError(path, PATTERN, repr(pattern), "a positive integer, or letters L and G")
    return [layer for layer in range(layers) if pattern[layer % len(pattern)] == "L"]
