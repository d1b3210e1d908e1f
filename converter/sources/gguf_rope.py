"""RoPE scaling in GGUF files: keys and factor tensors as rope_scaling of a config.json."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.checks import is_integer, is_number, shown
from dllama.converter.sources.gguf_archs.arch import Arch, Config, Factors, Given
from dllama.errors import FormatError, UnsupportedError

FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
TYPE = "rope.scaling.type"
# The factor of the scaling, under its new and its old name; 0 stands for none.
FACTORS = ("rope.scaling.factor", "rope.scale_linear")
ORIGINAL = "rope.scaling.original_context_length"
# Factors of what is rotated: one in place of YaRN's own, and one beside it.
MAGNITUDE, MORE = "rope.scaling.yarn_attn_factor", "rope.scaling.attn_factor"
BETAS = {
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}
# Keys that each kind of scaling reads. Without a kind it is linear.
READ: dict[str, tuple[str, ...]] = {
    "linear": FACTORS,
    "yarn": (*FACTORS, ORIGINAL, MAGNITUDE, MORE, *BETAS.values()),
    "longrope": (ORIGINAL, MORE),
}
# Llama 3.1's low_freq_factor and high_freq_factor.
LOW, HIGH = 1.0, 4.0


def kind_of(given: Given) -> str:
    """Which scaling a file has if its factor is not 1; "" for none that is known."""
    if LONG in given.tensors:
        return "longrope"
    kind = given.get(TYPE, "linear")
    return kind if kind in ("linear", "yarn") else ""


def keys_of(given: Given) -> tuple[str, ...]:
    """The keys that the scaling of a file reads."""
    kind = kind_of(given)
    named = (TYPE,) if given.get(TYPE) == kind else ()
    return (*READ.get(kind, ()), *named)


def read_scaling(
    arch: Arch, config: Config, given: Given, factors: Factors
) -> dict[str, Any] | None:
    """rope_scaling of a config.json; None if there is none.

    Args:
        arch: the architecture of the file.
        config: head_dim, rope_theta and max_position_embeddings.
        given: the file.
        factors: the tensors with factors of the frequencies, by name.

    Raises:
        FormatError, UnsupportedError: a config.json cannot say what the file says.
    """
    kind = kind_of(given)
    if LONG in factors:
        return _longrope(config, given, factors)
    scaling = _llama3(config, given, factors[FREQUENCIES]) if FREQUENCIES in factors else None
    factor = _factor(given) if FACTORS[0] in READ.get(kind, ()) else 1
    if factor == 1:
        return scaling
    if scaling:
        raise UnsupportedError(f"{given.path}: {kind} RoPE scaling beside {FREQUENCIES}")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    return {**arch.scaling, **_yarn(factor, config, given)}


def _factor(given: Given) -> float:
    """The factor of the scaling; 1 if there is none."""
    return _number(given, FACTORS[0]) or _number(given, FACTORS[1]) or 1.0


def _number(given: Given, name: str, default: float = 0.0) -> float:
    """A number of at least 0; FormatError if it is none."""
    value = given.get(name, default)
    if not is_number(value, 0):
        raise FormatError(given.path, given.key(name), shown(value), "a number of at least 0")
    return float(value)


def _yarn(factor: float, config: Config, given: Given) -> dict[str, Any]:
    """YaRN (Peng et al. 2023)."""
    found = {"rope_type": "yarn", "factor": factor}
    found["original_max_position_embeddings"] = _original(config, given)
    own, more = _number(given, MAGNITUDE), _number(given, MORE, 1.0)
    if own or more != 1:
        found["attention_factor"] = (own or 0.1 * math.log(factor) + 1.0) * more
    betas = {name: given.get(key) for name, key in BETAS.items()}
    return found | {name: value for name, value in betas.items() if value is not None}


def _longrope(config: Config, given: Given, factors: Factors) -> dict[str, Any]:
    """LongRoPE (Ding et al. 2024): divisors of the frequencies for short and for long texts."""
    if SHORT not in factors:
        raise FormatError(given.path, SHORT, "missing", f"a tensor beside {LONG}")
    return {
        "rope_type": "longrope",
        "long_factor": [float(str(one)) for one in factors[LONG]],  # as Given.get
        "short_factor": [float(str(one)) for one in factors[SHORT]],
        "original_max_position_embeddings": _original(config, given),
        "attention_factor": _number(given, MORE, 1.0),
    }


def _original(config: Config, given: Given) -> int:
    """The context that the model was first trained with."""
    value = given.get(ORIGINAL, config["max_position_embeddings"])
    if not is_integer(value, 1):
        raise FormatError(given.path, given.key(ORIGINAL), shown(value), "a positive integer")
    return value


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
