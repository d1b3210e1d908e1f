"""FP8 as DeepSeek, Qwen and AutoFP8 store it: floats of 8 bits, and scales.

Micikevicius et al. 2022 (FP8 Formats for Deep Learning): E4M3 has a sign, 4 bits of exponent and 3
of fraction, no infinity, and one NaN. A scale multiplies, whatever its name says.

    weight             F8_E4M3 (rows, columns)
    weight_scale_inv   or weight_scale: (rows / R, columns / C) for blocks of R rows and C columns,
                       (rows,) or (rows, 1) for rows, or one number for the whole matrix
    input_scale        or activation_scale: how other programs round activations; not used
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dllama.converter.sources.quantised.matrix import Grid, check, floats, matrix_shape
from dllama.converter.sources.quantised.scheme import WEIGHT, Parts, Scheme
from dllama.converter.sources.quantised.settings import Settings
from dllama.converter.sources.stored import DTYPES, MappedTensor
from dllama.errors import FormatError

METHOD = "fp8"
SCALES = ("weight_scale_inv", "weight_scale")
ACTIVATIONS = ("input_scale", "activation_scale")
# How activations and scales were rounded.
HARMLESS = frozenset({"activation_scheme", "scale_fmt"})


def read_scheme(settings: Settings) -> Scheme:
    """The scheme that a quantization_config describes."""
    settings.one_of("fmt", "e4m3", default="e4m3")
    block = block_size(settings, "weight_block_size")
    excluded = settings.names("modules_to_not_convert") + settings.names("ignored_layers")
    settings.refuse_others(HARMLESS)
    return Scheme(
        name=settings.name,
        weights="mixed",
        parts=(WEIGHT, *SCALES, *ACTIVATIONS),
        needed=1,
        excluded=excluded,
        read=lambda parts: read_matrix(parts, block),
    )


def block_size(settings: Settings, key: str) -> tuple[int, int] | None:
    """Rows and columns of a block that has a scale; None if blocks are whole rows or matrices."""
    value = settings.any(key)
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(type(size) is int and size > 0 for size in value)
    ):
        raise settings.refused(key, value, "rows and columns of a block")
    return value[0], value[1]


def read_matrix(parts: Parts, block: tuple[int, int] | None) -> Grid:
    """Read a module; FormatError names a tensor."""
    weight, scale = parts[WEIGHT], _scale(parts)
    rows, columns = matrix_shape(weight, "F8_E4M3")
    high, wide = (min(block[0], rows), min(block[1], columns)) if block else (1, columns)
    if block:
        check(scale, tuple(DTYPES), (-(-rows // high), -(-columns // wide)))
    else:
        check(scale, tuple(DTYPES), (), (1,), (1, 1), (rows,), (rows, 1))
    return Grid(
        kind="FP8",
        stored=(weight, scale),
        shape=(rows, columns),
        group=wide,
        numbers=lambda first, count: E4M3[weight.array()[first : first + count]],
        scales=lambda first, count: scales_of_rows(scale, first, count, high),
    )


def scales_of_rows(
    scale: MappedTensor, first: int, count: int, high: int = 1
) -> NDArray[np.float32]:
    """The scales (count, groups) of rows first to first + count.

    Args:
        scale: (rows / high, groups), (rows / high,), or one number.
        first, count: the rows.
        high: rows that share a scale.
    """
    if scale.array().size == 1:
        return np.full((count, 1), floats(scale).ravel()[0])
    begin, end = first // high, -(-(first + count) // high)
    found = np.repeat(floats(scale, np.s_[begin:end]).reshape(end - begin, -1), high, axis=0)
    return found[first - begin * high :][:count]


def _scale(parts: Parts) -> MappedTensor:
    found = [parts[name] for name in SCALES if name in parts]
    if len(found) != 1:
        weight, what = parts[WEIGHT], " or ".join(SCALES)
        number = "missing" if not found else "there twice"
        raise FormatError(weight.path, f"the scale of {weight.name}", number, what)
    return found[0]


def _e4m3() -> NDArray[np.float32]:
    """The value of each byte."""
    bits = np.arange(256)
    exponent, fraction = bits >> 3 & 15, (bits & 7) / 8
    size = np.where(exponent, np.exp2(exponent - 7.0) * (1 + fraction), np.exp2(-6) * fraction)
    size[bits & 127 == 127] = np.nan
    values: NDArray[np.float32] = np.where(bits & 128, -size, size).astype(np.float32)
    return values


E4M3 = _e4m3()
