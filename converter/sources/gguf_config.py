"""Translates GGUF metadata and tensor names to Hugging Face's, by the description of an Arch."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from typing import Any

from dllama.checks import expected_text, is_flag, is_integer, is_number, shown
from dllama.converter.sources import gguf_archs
from dllama.converter.sources.gguf_archs.arch import (
    COMMON,
    WINDOW,
    Arch,
    Config,
    Factors,
    Field,
    Given,
)
from dllama.converter.sources.gguf_header import typed
from dllama.converter.sources.gguf_keys import check_keys
from dllama.converter.sources.gguf_rope import keys_of, read_scaling
from dllama.errors import FormatError, UnsupportedError

log = logging.getLogger("dllama.convert")

THETA = 10000.0  # of RoPE, if no key says another
# Keys that must say the size of a head, and those that are compared with something else.
HEADS = "attention.head_count"
HEAD_SIZES = ("attention.key_length", "attention.value_length")
ROTATED = "rope.dimension_count"
SCALE = "attention.scale"
PATTERN = "attention.sliding_window_pattern"
FULL = "full_attention"  # in layer_types
PREDICTORS = "nextn_predict_layers"
COMPARED = (*HEAD_SIZES, ROTATED, SCALE, PATTERN)
OUTSIDE = ("model.", "lm_head")  # beginning of names of tensors that are in no layer
BLOCK = re.compile(r"blk\.(\d+)\.")
TENSOR = re.compile(r"(?:blk\.(\d+)\.)?(\w+?)(?:\.(\d+))?\.(weight|bias)")


def find_arch(given: Given) -> Arch:
    """The description of a file's architecture; UnsupportedError if there is none."""
    name = typed(dict(given.metadata), "general.architecture", str, given.path)
    experts = is_integer(given.metadata.get(f"{name}.expert_count"), 1)
    return gguf_archs.of_name(name, experts, given.path)


def read_config(arch: Arch, given: Given, factors: Factors) -> Config:
    """Build a config.json, all but vocab_size.

    Args:
        arch: the architecture of the file.
        given: what the file says.
        factors: its tensors with factors of the RoPE frequencies.

    Raises:
        UnsupportedError, FormatError: a config.json cannot represent the metadata.
    """
    fields = {**COMMON, **(WINDOW if arch.windows else {}), **arch.keys}
    predictors = (PREDICTORS,) if arch.predictors else ()
    scaling = () if arch.rope else keys_of(given)
    check_keys(given, (*fields, *COMPARED, *arch.read, *predictors, *scaling), arch.neutral)
    config: Config = {
        "rope_theta": THETA,
        **arch.constants,
        **dict(_fields(fields, given)),
        "model_type": arch.model_type,
        "tie_word_embeddings": "output.weight" not in given.tensors,
    }
    config["num_hidden_layers"] -= _predictors(arch, config, given)
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    if not config["head_dim"]:
        heads, most = config["num_attention_heads"], config["hidden_size"]
        raise FormatError(given.path, given.key(HEADS), heads, f"an integer up to {most}")
    if arch.rope is None:
        config["rope_scaling"] = read_scaling(arch, config, given, factors)
    config |= {name: _is_present(part, given) for name, part in arch.present.items()}
    config |= _window(arch, config, given)
    config |= arch.finish(config, given)
    if arch.rope:
        config |= arch.rope(config, given, factors)
    _check_biases(arch, given)
    config |= _partial(arch, config, given)
    if not arch.own_heads:
        _check_heads(arch, config, given)
    if SCALE not in arch.keys:
        _check_scale(config, given)
    return config


def _predictors(arch: Arch, config: Config, given: Given) -> int:
    """How many of the blocks predict further tokens; FormatError if the key is broken."""
    count = given.get(PREDICTORS, 0) if arch.predictors else 0
    blocks = config["num_hidden_layers"]
    if not is_integer(count, 0, blocks - 1):
        expected = f"an integer from 0 to {blocks - 1}"
        raise FormatError(given.path, given.key(PREDICTORS), shown(count), expected)
    return int(count)


def is_beyond(name: str, layers: int) -> bool:
    """Whether a tensor belongs to a block after the last layer."""
    match = BLOCK.match(name)
    return match is not None and int(match[1]) >= layers


def _fields(fields: dict[str, Field], given: Given) -> Iterator[tuple[str, Any]]:
    """Yield the fields of config.json that keys of the metadata give."""
    for name, field in fields.items():
        value = given.get(name) if field.each else _scalar(given, name)
        if value is None and not field.required:
            continue
        if not _is_good(value, field):
            noun = "an integer" if field.whole else "a number"
            above = not (field.whole or field.none)
            expected = expected_text(noun, field.least, math.inf, above)
            expected = "true or false" if field.flag else expected
            found = "missing" if value is None else shown(value)
            raise FormatError(given.path, given.key(name), found, expected)
        if value or not field.none:
            yield field.name, value


def _is_good(value: object, field: Field) -> bool:
    if field.each and isinstance(value, list):
        return all(_is_good(one, field) for one in value)
    if field.flag:
        return is_flag(value)
    if field.whole:
        return is_integer(value, field.least)
    return is_number(value, field.least, above=not field.none)


def _scalar(given: Given, name: str) -> Any:
    """A value, or None. A list with a value per layer must hold equal values, which become one."""
    value = given.get(name)
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise UnsupportedError(f"{given.path}: {given.key(name)} differs between layers")
    return value[0]


def _is_present(part: str, given: Given) -> bool:
    """Whether a tensor is in any layer."""
    return any(name.startswith("blk.") and name.endswith(f".{part}") for name in given.tensors)


def vocabulary(given: Given, rows: int) -> int:
    """Return the size of the vocabulary: the rows of the embedding. Warn if a key says another."""
    found = given.get("vocab_size", rows)
    if found != rows:
        key = given.key("vocab_size")
        log.warning("%s: %s is %s, the embedding has %d rows", given.path, key, found, rows)
    return rows


def hugging_face_name(name: str, arch: Arch) -> str | None:
    """Return Hugging Face's name of a tensor, or None if there is none.

    For a tensor that holds all experts, the name has {} in place of the expert's number.
    """
    block = BLOCK.match(name)
    if block and (exact := arch.tensors.get(f"{name[block.end() :]}.")):
        return f"model.layers.{block[1]}.{exact}"
    match = TENSOR.fullmatch(name)
    if match is None:
        return None
    layer, stem, expert, kind = match.groups()
    stem += "" if expert is None else "_exps"
    theirs = arch.tensors.get(f"{stem}.{kind}")
    if theirs is None:
        if stem not in arch.tensors:
            return None
        theirs = f"{arch.tensors[stem]}.{kind}"
    if expert is not None:
        theirs = theirs.replace("{}", expert)
    return theirs if layer is None else f"model.layers.{layer}.{theirs}"


def usual_names(arch: Arch, layers: int) -> Iterator[str]:
    """Yield GGUF's names of all tensors that a new file may have, but for an output of its own."""
    for stem in arch.tensors:
        if stem in arch.older:
            continue
        names = [stem.removesuffix(".")] if "." in stem else [f"{stem}.weight", f"{stem}.bias"]
        if arch.tensors[stem].startswith(OUTSIDE):
            yield from (name for name in names if stem != "output")
        else:
            yield from (f"blk.{layer}.{name}" for name in names for layer in range(layers))


def _check_biases(arch: Arch, given: Given) -> None:
    """UnsupportedError names a bias that models of the architecture do not have."""
    for name in given.tensors:
        match = TENSOR.fullmatch(name)
        if match and match[4] == "bias" and match[2] not in arch.biases:
            raise UnsupportedError(
                f"{given.path}: {name}: this bias is not supported for architecture {arch.name}"
            )


def _partial(arch: Arch, config: Config, given: Given) -> Config:
    """The part of a head that RoPE rotates.

    Raises:
        FormatError: it is no even number of at most all numbers.
    """
    if not arch.partial:
        return {}
    size = config["head_dim"]
    rotated = _scalar(given, ROTATED) or size
    if not is_integer(rotated, 2, size) or rotated % 2:
        expected = f"an even number of at most {size}"
        raise FormatError(given.path, given.key(ROTATED), shown(rotated), expected)
    return {"partial_rotary_factor": rotated / size}


def _check_heads(arch: Arch, config: Config, given: Given) -> None:
    """UnsupportedError if the sizes of q/k heads, v heads and RoPE differ."""
    size = config["head_dim"]
    for name in HEAD_SIZES if arch.partial else (*HEAD_SIZES, ROTATED):
        found = _scalar(given, name)
        if found not in (None, size):
            key = given.key(name)
            raise UnsupportedError(
                f"{given.path}: {key} is {shown(found)}, only {size} is supported"
            )


def _check_scale(config: Config, given: Given) -> None:
    """UnsupportedError for another scale of scores than 1 / sqrt(head_dim)."""
    usual = 1 / math.sqrt(config["head_dim"])
    scale = given.get(SCALE) or usual
    if not is_number(scale) or not math.isclose(scale, usual, rel_tol=1e-6):
        raise UnsupportedError(
            f"{given.path}: {given.key(SCALE)} is {shown(scale)}, only {usual:.8g} is supported"
        )


def _window(arch: Arch, config: Config, given: Given) -> Config:
    """The fields about the sliding window.

    Raises:
        UnsupportedError: only some layers have it, and the architecture has no such models.
        FormatError: the key that says which layers have it is broken.
    """
    window = config.pop("sliding_window", 0)
    if not window:
        return {"layer_types": [FULL] * config["num_hidden_layers"]} if arch.pattern else {}
    fields = {"sliding_window": window, "use_sliding_window": True, "max_window_layers": 0}
    pattern = given.get(PATTERN)
    if arch.pattern:
        return {**fields, "layer_types": _layer_types(arch, config, given)}
    if pattern is not None:
        raise UnsupportedError(
            f"{given.path}: {given.key(PATTERN)} {shown(pattern)} is not supported"
        )
    return fields


def _layer_types(arch: Arch, config: Config, given: Given) -> list[str]:
    """layer_types of config.json, from a flag for each layer or every which layer is full."""
    layers, pattern = config["num_hidden_layers"], given.get(PATTERN, arch.pattern)
    if isinstance(pattern, list) and len(pattern) == layers and all(map(is_flag, pattern)):
        windowed = pattern
    elif is_integer(pattern, 0):
        windowed = [pattern == 0 or layer % pattern < pattern - 1 for layer in range(layers)]
    else:
        expected = f"an integer, or {layers} times true or false"
        raise FormatError(given.path, given.key(PATTERN), shown(pattern), expected)
    return ["sliding_attention" if flag else FULL for flag in windowed]
