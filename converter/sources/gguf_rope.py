"""RoPE scaling in GGUF files: keys and factor tensors as rope_scaling of a config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.checks import is_number, shown
from dllama.converter.sources.gguf_archs.arch import Config, Given
from dllama.errors import FormatError, UnsupportedError

Factors = Mapping[str, NDArray[np.float32]]

FREQUENCIES = "rope_freqs.weight"
TYPE = "rope.scaling.type"
# The factor of the scaling, under its new and its old name; 0 stands for none.
FACTORS = ("rope.scaling.factor", "rope.scale_linear")
# Keys that each kind of scaling reads. Without a kind it is linear.
READ: dict[str, tuple[str, ...]] = {"linear": FACTORS}
# Llama 3.1's low_freq_factor and high_freq_factor.
LOW, HIGH = 1.0, 4.0


def keys_of(given: Given) -> tuple[str, ...]:
    """The keys that the scaling of a file reads."""
    kind = given.get(TYPE, "linear")
    return READ.get(kind, ()) if isinstance(kind, str) else ()


def read_scaling(config: Config, given: Given, factors: Factors) -> dict[str, Any] | None:
    """rope_scaling of a config.json; None if there is none.

    Args:
        config: head_dim and rope_theta.
        given: the file.
        factors: the tensors with factors of the frequencies, by name.

    Raises:
        FormatError, UnsupportedError: a config.json cannot say what the file says.
    """
    scaling = _llama3(config, given, factors[FREQUENCIES]) if FREQUENCIES in factors else None
    factor = _factor(given) if keys_of(given) else 1
    if factor == 1:
        return scaling
    if scaling:
        raise UnsupportedError(f"{given.path}: linear RoPE scaling beside {FREQUENCIES}")
    return {"rope_type": "linear", "factor": factor}


def _factor(given: Given) -> float:
    """The factor of the scaling; 1 if there is none."""
    for name in FACTORS:
        value = given.get(name, 0)
        if not is_number(value, 0):
            raise FormatError(given.path, given.key(name), shown(value), "a number of at least 0")
        if value:
            return float(value)
    return 1.0


def _llama3(config: Config, given: Given, factors: NDArray[np.float32]) -> dict[str, Any] | None:
    """Llama 3.1's scaling, from the divisors of all frequencies (head_dim/2,)."""
    count = config["head_dim"] // 2
    if len(factors) != count:
        raise FormatError(given.path, FREQUENCIES, f"{len(factors)} factors", f"{count} factors")
    if (factors == 1).all():
        return None
    if not np.isfinite(factors).all() or factors.min() < 1:
        raise UnsupportedError(f"{given.path}: the factors in {FREQUENCIES} are not Llama 3.1's")
    factor = float(factors.max())
    wavelengths = 2 * math.pi * config["rope_theta"] ** (np.arange(count) / count)
    seq_len = _original_context(factors.astype(np.float64), wavelengths, factor)
    expected = _llama3_factors(wavelengths, factor, seq_len)
    if not np.allclose(factors, expected, rtol=1e-4):
        raise UnsupportedError(f"{given.path}: the factors in {FREQUENCIES} are not Llama 3.1's")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": seq_len,
    }


def _original_context(
    factors: NDArray[np.float64], wavelengths: NDArray[np.float64], factor: float
) -> int:
    """Derive the original context from a factor between 1 and `factor`; 0 if there is none."""
    between = (factors > 1.001) & (factors < factor * 0.999)
    if not between.any():
        return 0
    smooth = (1 / factors[between] - 1 / factor) / (1 - 1 / factor)
    return round(float(np.median(wavelengths[between] * (LOW + smooth * (HIGH - LOW)))))


def _llama3_factors(
    wavelengths: NDArray[np.float64], factor: float, seq_len: int
) -> NDArray[np.float64]:
    """The divisors of the frequencies ("llama3" in transformers' modeling_rope_utils.py)."""
    smooth = np.clip((seq_len / wavelengths - LOW) / (HIGH - LOW), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
