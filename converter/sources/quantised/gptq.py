"""GPTQ as AutoGPTQ and GPTQModel store it.

Frantar et al. 2022 (GPTQ). I inputs, O outputs, G groups of inputs. A word has P = 32 / bits
numbers, the first one in the lowest bits:

    qweight  I32 (I / P, O)   numbers, P inputs in a word
    qzeros   I32 (G, O / P)   zero points, P outputs in a word; those of the first version less 1
    scales   (G, O)
    g_idx    I32 (I,)         the group of each input; "act order" if groups are not consecutive

    weight[o, i] = scales[g, o] * (qweight[i, o] - qzeros[g, o])    where g = g_idx[i]
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
    read_order,
    unpack,
)
from dllama.converter.sources.quantised.scheme import Parts, Scheme
from dllama.converter.sources.quantised.settings import Settings
from dllama.converter.sources.stored import DTYPES
from dllama.errors import FormatError

METHOD = "gptq"
VERSIONS = ("gptq", "gptq_v2")
# Fields that say how the numbers were found, or how other programs compute with them.
HARMLESS = frozenset({
    "act_group_aware", "backend", "batch_size", "block_name_to_quantize", "cache_block_outputs",
    "damp_auto_increment", "damp_percent", "dataset", "disable_exllama",
    "exllama_config", "lm_head", "max_input_length", "meta", "model_file_base_name",
    "model_name_or_path", "model_seqlen", "module_name_preceding_first_block",
    "modules_in_block_to_quantize", "mse", "pad_token_id", "tokenizer",
    "true_sequential", "use_cuda_fp16", "use_exllama",
})  # fmt: skip


def read_scheme(settings: Settings) -> Scheme:
    """The scheme that a quantization_config describes."""
    bits = settings.one_of("bits", 4, 8)
    group = settings.size("group_size")
    symmetric = settings.one_of("sym", True, False, default=True)
    ordered = settings.one_of("desc_act", True, False, default=False)
    static = settings.one_of("static_groups", True, False, default=False)
    offset = 1 if _version(settings) == VERSIONS[0] else 0
    settings.one_of("pack_dtype", "int32", default="int32")
    settings.refuse_others(HARMLESS)
    return Scheme(
        name=settings.name,
        weights=None,
        parts=("qweight", "qzeros", "scales", "g_idx"),
        needed=4 if ordered else 3,
        excluded=(),
        read=lambda parts: _Reader(parts, bits, group, symmetric, ordered, offset).grid(),
        file="quantize_config.json",
        inexact=misfit(group, bits, symmetric, "desc_act true" if ordered and not static else ""),
    )


def _version(settings: Settings) -> Any:
    """The version of the format."""
    settings.one_of("method", METHOD, default=METHOD)
    found = settings.one_of("format", *VERSIONS, default=VERSIONS[0])
    return settings.one_of("checkpoint_format", *VERSIONS, default=found)


class _Reader:
    """Reads a module; FormatError names a tensor."""

    def __init__(
        self, parts: Parts, bits: int, group: int, symmetric: bool, ordered: bool, offset: int
    ) -> None:
        self._weight, self._zeros, self._scales = parts["qweight"], parts["qzeros"], parts["scales"]
        self._order = parts.get("g_idx")
        self._bits, self._per_word = bits, 32 // bits
        self._symmetric, self._ordered, self._offset = symmetric, ordered, offset
        words, self._outputs = matrix_shape(self._weight, "I32")
        self._inputs = words * self._per_word
        self._group = self._inputs if group == -1 else min(group, self._inputs)
        groups = -(-self._inputs // self._group)
        check(self._zeros, ("I32",), (groups, -(-self._outputs // self._per_word)))
        check(self._scales, tuple(DTYPES), (groups, self._outputs))

    def grid(self) -> Grid:
        """Return the matrix."""
        order, half = self._act_order(), 1 << self._bits - 1
        top = 2 * half - 1
        return Grid(
            kind=f"{self._bits} bits of GPTQ" + (" in act order" if order is not None else ""),
            stored=tuple(t for t in (self._weight, self._zeros, self._scales, self._order) if t),
            shape=(self._outputs, self._inputs),
            group=self._group,
            numbers=lambda first, count: self._numbers(first, count, order),
            scales=lambda first, count: floats(self._scales, np.s_[:, first : first + count]).T,
            span=(-half, half - 1) if self._symmetric else (-top, top),
            order=order,
        )

    def _act_order(self) -> NDArray[np.int32] | None:
        """Return the group of each input; None if groups are consecutive."""
        if self._order is None:
            return None
        order = read_order(self._order, self._inputs, self._group)
        if order is not None and not self._ordered:
            expected = "no act order (desc_act is false)"
            raise FormatError(self._order.path, self._order.name, "not ascending", expected)
        return order

    def _numbers(self, first: int, count: int, order: NDArray[np.int32] | None) -> Any:
        """Return numbers less their zero points: int16 (count, inputs)."""
        numbers = unpack(self._weight.array()[:, first : first + count], self._bits, 0)
        zeros = self._zero_points(first, count)
        if order is None:
            zeros = np.repeat(zeros, self._group, axis=0)[: self._inputs]
        else:
            zeros = zeros[order]
        return np.ascontiguousarray((numbers.astype(np.int16) - zeros).T)

    def _zero_points(self, first: int, count: int) -> NDArray[np.int16]:
        """Return the zero points (G, count)."""
        begin = first // self._per_word
        words = self._zeros.array()[:, begin : -(-(first + count) // self._per_word)]
        stored = unpack(words, self._bits, 1)[:, first - begin * self._per_word :][:, :count]
        zeros = stored.astype(np.int16) + self._offset
        half, top = 1 << self._bits - 1, (1 << self._bits) - 1
        if self._symmetric and (zeros != half).any():
            other = int(zeros[zeros != half][0])
            raise self._wrong_zero(other, f"{half} (sym is true)")
        # A 0 of the first version is stored as -1. Programs read that in different ways.
        if zeros.max() > top:
            raise self._wrong_zero(top + 1, f"at most {top}")
        return zeros

    def _wrong_zero(self, found: int, expected: str) -> FormatError:
        name = f"a zero point of {self._zeros.name}"
        return FormatError(self._zeros.path, name, found, expected)
