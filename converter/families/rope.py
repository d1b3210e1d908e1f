"""RoPE in config.json: rope_theta and rope_scaling, or rope_parameters of transformers 5."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from dllama.checks import is_number, shown
from dllama.converter.families.config import MOST, Config, flag, number, size
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import ModelSpec, RopeScaling, RopeType

OBJECTS = ("rope_parameters", "rope_scaling")
# Types that change nothing if their factor is 1.
BY_FACTOR = ("dynamic", "linear", "llama3", "yarn")
COMMON = ("factor", "partial_rotary_factor", "rope_theta", "rope_type", "type")
ORIGINAL = "original_max_position_embeddings"
LLAMA3 = ("low_freq_factor", "high_freq_factor", ORIGINAL)
YARN = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", ORIGINAL)
LONGROPE = ("attention_factor", "long_factor", "short_factor", ORIGINAL)
KEYS = {
    "default": (),
    "linear": (),
    "llama3": LLAMA3,
    "yarn": (*YARN, "truncate"),
    "longrope": LONGROPE,
}


@dataclass(frozen=True)
class Yarn:
    """YaRN (Peng et al. 2023, section 3.2): high frequencies stay, low ones are divided.

    Args:
        factor: divisor of low frequencies.
        original: positions that the model was first trained with.
        fast, slow: pairs that turn more often than `fast` times in them stay, those that turn less
            often than `slow` times are divided, those between are blended.
        truncate: whether the first and the last pair between are whole numbers.
        attention: factor of what is rotated (section 3.4).
    """

    factor: float
    original: int
    fast: float
    slow: float
    truncate: bool
    attention: float

    def frequencies(self, theta: float, size: int) -> tuple[float, ...]:
        """The frequencies of the pairs of `size` numbers, in radians per position."""
        first, last = (
            size * math.log(self.original / (math.tau * turns)) / (2 * math.log(theta))
            for turns in (self.fast, self.slow)
        )
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, size - 1)
        width = last - first or 0.001
        scaled = []
        for pair in range(size // 2):
            plain = math.pow(theta, -2.0 * pair / size)
            divided = min(max((pair - first) / width, 0.0), 1.0)
            scaled.append(plain / self.factor * divided + plain * (1.0 - divided))
        return tuple(scaled)


@dataclass(frozen=True)
class LongRope:
    """LongRoPE (Ding et al. 2024): a divisor for each pair, others for texts beyond a length.

    Args:
        original: most tokens of a short text.
        short, long: divisors of the frequencies.
        attention: factor of what is rotated.
    """

    original: int
    short: tuple[float, ...]
    long: tuple[float, ...]
    attention: float

    def frequencies(self, theta: float, size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The frequencies of the pairs of `size` numbers in short and in long texts."""
        plain = [math.pow(theta, -2.0 * pair / size) for pair in range(size // 2)]
        short, long = (
            tuple(one / divisor for one, divisor in zip(plain, divisors, strict=True))
            for divisors in (self.short, self.long)
        )
        return short, long


Scaling = RopeScaling | Yarn | LongRope


def read_rope(
    config: Config,
    path: object,
    head_dim: int,
    theta: float = 10000.0,
    partial: float | None = None,
) -> dict[str, Any]:
    """The fields of a ModelSpec that begin with rope_.

    Args:
        config: a config.json.
        path: its file, for messages.
        head_dim: numbers of a head.
        theta: if the config has none.
        partial: part of the numbers that are rotated, if the config does not say; None if the
            family always rotates all.

    Raises:
        FormatError: a value is wrong, or two places contradict each other.
        UnsupportedError: a type or a setting that dllama does not have.
    """
    found = {name: value for name in OBJECTS if (value := _object(config, name, path))}
    scalings = {name: _scaling(value, name, config, path) for name, value in found.items()}
    if len(scalings) == 2 and scalings[OBJECTS[0]] != scalings[OBJECTS[1]]:
        raise UnsupportedError(
            f"{path}: rope_scaling ({_shown(scalings['rope_scaling'])}) and rope_parameters "
            f"({_shown(scalings['rope_parameters'])}) contradict each other: delete the one that "
            "the model was not trained with"
        )
    scaling = next(iter(scalings.values()), None)
    if scaling is None:
        _check_original(config, path)
    theta = _value("rope_theta", config, found, path, theta)
    part = _value("partial_rotary_factor", config, found, path, partial or 1.0)
    if partial is None and part != 1:
        raise UnsupportedError(f"{path}: partial_rotary_factor is {part:g}, only 1 is supported")
    rotated = int(head_dim * part)
    if part > 1 or rotated < 2 or rotated % 2:
        expected = f"a part of the {head_dim} numbers of a head, and an even number of them"
        raise FormatError(path, "partial_rotary_factor", part, expected)
    fields: dict[str, Any] = {"rope_theta": theta}
    if isinstance(scaling, RopeScaling):
        fields |= {"rope_type": RopeType.LLAMA31, "rope_scaling": scaling}
    elif isinstance(scaling, Yarn):
        if theta <= 1:
            raise FormatError(path, "rope_theta", theta, "more than 1 with YaRN")
        fields["rope_frequencies"] = scaling.frequencies(theta, rotated)
        fields["rope_factor"] = scaling.attention
    elif scaling:
        for name, divisors in (("short_factor", scaling.short), ("long_factor", scaling.long)):
            if len(divisors) != rotated // 2:
                raise FormatError(path, name, f"{len(divisors)} numbers", f"{rotated // 2}")
        short, long = scaling.frequencies(theta, rotated)
        fields |= {"rope_frequencies": short, "rope_factor": scaling.attention}
        fields |= {"rope_long_frequencies": long, "rope_switch": scaling.original}
    return fields | ({"rope_dim": rotated} if rotated < head_dim else {})


def score_factor(config: Config, path: object) -> float:
    """What DeepSeek's models multiply scores by: if YaRN has mscale_all_dim, not 1."""
    for name in OBJECTS:
        rope = _object(config, name, path)
        if rope and _kind(rope, name, path) == "yarn" and rope.get("mscale_all_dim"):
            factor, mscale = (number(rope, key, path) for key in ("factor", "mscale_all_dim"))
            square = _magnitude(factor, mscale) ** 2
            if square > MOST:
                raise FormatError(path, f"{name}.mscale_all_dim", mscale, "a smaller number")
            return square
    return 1.0


def unpaired(spec: ModelSpec) -> ModelSpec:
    """The spec for models whose pairs are (i, i + n) of 2 n numbers, in rows as they are."""
    frequencies = spec.frequencies if spec.rope_scaling else spec.rope_frequencies
    return replace(spec, rope_type=RopeType.FALCON, rope_scaling=None, rope_frequencies=frequencies)


def _shown(scaling: Scaling | None) -> str:
    """A scaling in a message."""
    if scaling is None:
        return "no scaling"
    if isinstance(scaling, Yarn):
        return f"yarn, factor {scaling.factor:g}, original context {scaling.original}"
    if isinstance(scaling, LongRope):
        return f"longrope, original context {scaling.original}"
    if scaling == linear(scaling.factor):
        return f"linear, factor {scaling.factor:g}"
    return f"llama3, factor {scaling.factor:g}, original context {scaling.original_seq_len}"


def _object(config: Config, name: str, path: object) -> dict[str, Any] | None:
    """Return rope_parameters or rope_scaling; one for each type of layer must be equal for all."""
    value = config.get(name)
    if not value:
        return None
    if not isinstance(value, dict):
        raise FormatError(path, name, repr(value), "an object")
    nested = {kind: each for kind, each in value.items() if isinstance(each, dict)}
    if not nested:
        return value
    first = next(iter(nested.values()))
    if len(nested) != len(value) or any(each != first for each in nested.values()):
        kinds = ", ".join(map(str, value))
        raise UnsupportedError(
            f"{path}: {name} differs between types of layers ({kinds}), which is not supported"
        )
    return first


def _value(
    field: str, config: Config, found: dict[str, dict[str, Any]], path: object, default: float
) -> float:
    """Return a number that may stand in several places but must be the same there."""
    values = [
        number(given, field, path)
        for given in (config, *found.values())
        if given.get(field) is not None
    ]
    if len(set(values)) > 1:
        given = ", ".join(f"{value:g}" for value in values)
        raise FormatError(path, field, f"{given} in different places", "one value")
    return next(iter(values), default)


def _check_original(config: Config, path: object) -> None:
    """Refuse an original context if no scaling reads it."""
    original = config.get(ORIGINAL)
    if original is not None and original != config.get("max_position_embeddings"):
        raise UnsupportedError(f"{path}: {ORIGINAL} is {original}, but no rope_scaling reads it")


def _kind(rope: dict[str, Any], name: str, path: object) -> str:
    """Return the type, which has an old and a new key."""
    new, old = rope.get("rope_type"), rope.get("type")
    if new is not None and old is not None and new != old:
        raise FormatError(path, f"{name}.type", repr(old), f"{new!r} as in rope_type")
    kind = new or old or "default"
    if not isinstance(kind, str):
        raise FormatError(path, f"{name}.rope_type", shown(kind), "a name")
    return kind


def _scaling(rope: dict[str, Any], name: str, config: Config, path: object) -> Scaling | None:
    """Return the scaling; None if there is none."""
    kind = _kind(rope, name, path)
    if rope.get("factor") == 1 and kind in BY_FACTOR and rope.get("attention_factor") in (None, 1):
        return None
    if kind not in KEYS:
        known = ", ".join(KEYS)
        raise UnsupportedError(f"{path}: rope type {kind!r} is not supported, only {known}")
    for key, value in rope.items():
        if key not in (*COMMON, *KEYS[kind]) and value:
            raise UnsupportedError(
                f"{path}: {name}.{key} {value!r} is not supported for the rope type {kind!r}"
            )
    if kind == "default":
        if rope.get("factor") not in (None, 1):
            raise UnsupportedError(f"{path}: {name}.factor {rope['factor']!r} has no rope_type")
        return None
    if kind == "linear":
        _check_original(config, path)
        return linear(number(rope, "factor", path))
    if kind == "llama3":
        return _llama3(rope, config, path)
    return (_yarn if kind == "yarn" else _longrope)(rope, config, path)


def linear(factor: float) -> RopeScaling:
    """All frequencies divided by a factor.

    That is Llama 3.1's scaling with so short an original context that every frequency is low: none
    turns even once in it.
    """
    return RopeScaling(factor, low_freq_factor=1.0, high_freq_factor=2.0, original_seq_len=1)


def _llama3(rope: dict[str, Any], config: Config, path: object) -> RopeScaling:
    """Return Llama 3.1's scaling."""
    return RopeScaling(
        factor=number(rope, "factor", path),
        low_freq_factor=number(rope, "low_freq_factor", path),
        high_freq_factor=number(rope, "high_freq_factor", path),
        original_seq_len=_original(rope, config, path),
    )


def _yarn(rope: dict[str, Any], config: Config, path: object) -> Yarn:
    """Return YaRN's scaling, with the defaults of transformers' modeling_rope_utils.py."""
    factor = number(rope, "factor", path)
    attention = _magnitude(factor, 1.0)
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        one, all_dims = (number(rope, name, path) for name in ("mscale", "mscale_all_dim"))
        attention = _magnitude(factor, one) / _magnitude(factor, all_dims)
    return Yarn(
        factor=factor,
        original=_original(rope, config, path, "max_position_embeddings"),
        fast=number(rope, "beta_fast", path, 32.0),
        slow=number(rope, "beta_slow", path, 1.0),
        truncate=flag(rope, "truncate", path, True),
        attention=number(rope, "attention_factor", path, attention),
    )


def _longrope(rope: dict[str, Any], config: Config, path: object) -> LongRope:
    """Return LongRoPE's scaling, with the default factor of transformers' modeling_rope_utils.py.

    What counts is how much longer the context is than the original one, not the key factor.
    """
    original = _original(rope, config, path)
    longer = size(config, "max_position_embeddings", path) / original
    attention = (
        math.sqrt(1 + math.log(longer) / math.log(original)) if longer > 1 < original else 1.0
    )
    return LongRope(
        original=original,
        short=_divisors(rope, "short_factor", path),
        long=_divisors(rope, "long_factor", path),
        attention=number(rope, "attention_factor", path, attention),
    )


def _divisors(rope: dict[str, Any], name: str, path: object) -> tuple[float, ...]:
    """Return a list of positive numbers."""
    values = rope.get(name)
    if not isinstance(values, list) or not all(is_number(one, 0, above=True) for one in values):
        raise FormatError(path, name, repr(values)[:80], "a list of positive numbers")
    return tuple(map(float, values))


def _magnitude(factor: float, mscale: float) -> float:
    """YaRN's factor for scores of longer contexts (section 3.4)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _original(rope: dict[str, Any], config: Config, path: object, fallback: str = ORIGINAL) -> int:
    """Return the original context. It may stand in the config itself, or be another field of it."""
    original, given = config.get(ORIGINAL), rope.get(ORIGINAL)
    if original is not None and given is not None and original != given:
        raise FormatError(path, ORIGINAL, f"{original} and {given}", "one value")
    if given is None:
        return size(config, ORIGINAL if original is not None else fallback, path)
    return size(rope, ORIGINAL, path)
