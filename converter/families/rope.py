"""RoPE in config.json: rope_theta and rope_scaling, or rope_parameters of transformers 5."""

from __future__ import annotations

from typing import Any

from dllama.converter.families.config import Config, number, size
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import RopeScaling, RopeType

OBJECTS = ("rope_parameters", "rope_scaling")
# Types that change nothing if their factor is 1.
BY_FACTOR = ("dynamic", "linear", "llama3", "yarn")
COMMON = ("factor", "partial_rotary_factor", "rope_theta", "rope_type", "type")
ORIGINAL = "original_max_position_embeddings"
LLAMA3 = ("low_freq_factor", "high_freq_factor", ORIGINAL)


def read_rope(
    config: Config, path: object, theta: float = 10000.0
) -> tuple[float, RopeType, RopeScaling | None]:
    """theta, type and scaling.

    Args:
        config: a config.json.
        path: its file, for messages.
        theta: if the config has none.

    Raises:
        FormatError: a value is wrong, or two places contradict each other.
        UnsupportedError: a type or a setting that dllama does not have.
    """
    _check_partial(config, path)
    found = {name: value for name in OBJECTS if (value := _object(config, name, path))}
    for value in found.values():
        _check_partial(value, path)
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
    kind = RopeType.LLAMA if scaling is None else RopeType.LLAMA31
    return _theta(config, found, path, theta), kind, scaling


def _shown(scaling: RopeScaling | None) -> str:
    """A scaling in a message."""
    if scaling is None:
        return "no scaling"
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


def _theta(config: Config, found: dict[str, dict[str, Any]], path: object, default: float) -> float:
    """Return theta, which may stand in several places but must be the same there."""
    values = {
        name: number(given, "rope_theta", path)
        for name, given in ({"config": config} | found).items()
        if given.get("rope_theta") is not None
    }
    if len(set(values.values())) > 1:
        found_values = ", ".join(f"{value:g}" for value in values.values())
        raise FormatError(path, "rope_theta", f"{found_values} in different places", "one value")
    return next(iter(values.values()), default)


def _check_partial(given: dict[str, Any], path: object) -> None:
    if given.get("partial_rotary_factor") not in (None, 1):
        raise UnsupportedError(f"{path}: partial_rotary_factor is not supported, only 1")


def _check_original(config: Config, path: object) -> None:
    """Refuse an original context if no scaling reads it."""
    original = config.get(ORIGINAL)
    if original is not None and original != config.get("max_position_embeddings"):
        raise UnsupportedError(f"{path}: {ORIGINAL} is {original}, but no rope_scaling reads it")


def _kind(rope: dict[str, Any], name: str, path: object) -> object:
    """Return the type, which has an old and a new key."""
    new, old = rope.get("rope_type"), rope.get("type")
    if new is not None and old is not None and new != old:
        raise FormatError(path, f"{name}.type", repr(old), f"{new!r} as in rope_type")
    return new or old or "default"


def _scaling(rope: dict[str, Any], name: str, config: Config, path: object) -> RopeScaling | None:
    """Return the scaling; None if there is none."""
    kind = _kind(rope, name, path)
    if rope.get("factor") == 1 and kind in BY_FACTOR and rope.get("attention_factor") in (None, 1):
        return None
    if kind not in ("default", "linear", "llama3"):
        raise UnsupportedError(
            f"{path}: rope type {kind!r} is not supported, only default, linear and llama3"
        )
    known = (*COMMON, *(LLAMA3 if kind == "llama3" else ()))
    for key, value in rope.items():
        if key not in known and value:
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
    return _llama3(rope, config, path)


def linear(factor: float) -> RopeScaling:
    """All frequencies divided by a factor.

    That is Llama 3.1's scaling with so short an original context that every frequency is low: none
    turns even once in it.
    """
    return RopeScaling(factor, low_freq_factor=1.0, high_freq_factor=2.0, original_seq_len=1)


def _llama3(rope: dict[str, Any], config: Config, path: object) -> RopeScaling:
    """Return Llama 3.1's scaling. The original context may stand in the config itself."""
    original = config.get(ORIGINAL)
    given = rope.get(ORIGINAL)
    if original is not None and given is not None and original != given:
        raise FormatError(path, ORIGINAL, f"{original} and {given}", "one value")
    return RopeScaling(
        factor=number(rope, "factor", path),
        low_freq_factor=number(rope, "low_freq_factor", path),
        high_freq_factor=number(rope, "high_freq_factor", path),
        original_seq_len=size(config if given is None else rope, ORIGINAL, path),
    )
