"""AWQ as AutoAWQ stores it, in the version called gemm.

Lin et al. 2023 (AWQ). I inputs, O outputs, G groups of inputs:

    qweight  I32 (I, O / 8)   numbers of 4 bits, 8 outputs in a word, in the order of ORDER
    qzeros   I32 (G, O / 8)   zero points, in the same order
    scales   (G, O)

    weight[o, i] = scales[g, o] * (qweight[i, o] - qzeros[g, o])    where g = i / group size
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.converter.sources.quantised.matrix import (
    Grid,
    check,
    floats,
    matrix_shape,
    misfit,
    unpack,
)
from dllama.converter.sources.quantised.scheme import Parts, Scheme
from dllama.converter.sources.quantised.settings import Settings
from dllama.converter.sources.stored import DTYPES

METHOD = "awq"
PER_WORD = 8
# Where the number of output i begins in a word, in bits.
ORDER = np.array([0, 16, 4, 20, 8, 24, 12, 28], np.uint32)
# Fields that say how other programs compute with the numbers.
HARMLESS = frozenset({
    "backend", "do_fuse", "exllama_config", "fuse_max_seq_len", "modules_to_fuse",
})  # fmt: skip


def read_scheme(settings: Settings) -> Scheme:
    """The scheme that a quantization_config describes."""
    settings.one_of("bits", 4)
    group = settings.size("group_size")
    settings.one_of("version", "gemm", "GEMM", default="gemm")
    settings.one_of("zero_point", True, default=True)
    excluded = settings.names("modules_to_not_convert")
    settings.refuse_others(HARMLESS)
    return Scheme(
        name=settings.name,
        weights=None,
        parts=("qweight", "qzeros", "scales"),
        needed=3,
        excluded=excluded,
        read=lambda parts: _grid(parts, group),
        file="quant_config.json",
        inexact=misfit(group),
    )


def _grid(parts: Parts, group: int) -> Grid:
    """Read a module."""
    weight, zeros, scales = parts["qweight"], parts["qzeros"], parts["scales"]
    inputs, words = matrix_shape(weight, "I32")
    size = inputs if group == -1 else min(group, inputs)
    groups = -(-inputs // size)
    check(zeros, ("I32",), (groups, words))
    check(scales, tuple(DTYPES), (groups, words * PER_WORD))

    def outputs(words: NDArray[Any], first: int, count: int) -> NDArray[np.int16]:
        begin, end = first // PER_WORD, -(-(first + count) // PER_WORD)
        numbers = unpack(words[:, begin:end], 4, 1, ORDER)[:, first - begin * PER_WORD :]
        return numbers[:, :count].astype(np.int16)

    def numbers(first: int, count: int) -> NDArray[np.int16]:
        found = outputs(weight.array(), first, count)
        found -= np.repeat(outputs(zeros.array(), first, count), size, axis=0)[:inputs]
        return np.ascontiguousarray(found.T)

    return Grid(
        kind="4 bits of AWQ",
        stored=(weight, zeros, scales),
        shape=(words * PER_WORD, inputs),
        group=size,
        numbers=numbers,
        scales=lambda first, count: floats(scales, np.s_[:, first : first + count]).T,
        span=(-15, 15),
    )
