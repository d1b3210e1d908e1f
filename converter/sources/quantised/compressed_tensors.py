"""The formats of compressed-tensors with integers of 4 and 8 bits and with FP8.

github.com/vllm-project/compressed-tensors. Numbers are signed; in words of 32 bits they are stored
plus 2^(bits - 1), the first one in the lowest bits. P = 32 / bits.

    pack-quantized    weight_packed      I32 (rows, columns / P)
                      weight_shape       I64 (2,): rows and columns
                      weight_zero_point  I32 (rows / P, groups), or I8 (rows, groups)
                      weight_g_idx       I32 (columns,): the group of each column ("act order")
    int-quantized     weight             I8 (rows, columns)
                      weight_zero_point  I8 (rows, groups)
    float-quantized   weight             F8_E4M3 (rows, columns)
    all               weight_scale       (rows, groups), or one number

    weight[r, c] = weight_scale[r, g] * (number[r, c] - weight_zero_point[r, g])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dllama.converter.sources.quantised import fp8
from dllama.converter.sources.quantised.matrix import (
    Grid,
    check,
    matrix_shape,
    misfit,
    read_order,
    unpack,
)
from dllama.converter.sources.quantised.scheme import WEIGHT, Parts, Scheme
from dllama.converter.sources.quantised.settings import Settings
from dllama.converter.sources.stored import DTYPES, MappedTensor

METHOD = "compressed-tensors"
SCALE, ZERO, ORDER = "weight_scale", "weight_zero_point", "weight_g_idx"
PACKED, SHAPE = "weight_packed", "weight_shape"
# The type of numbers in each format, and the tensors that a module must have.
FORMATS = {
    "pack-quantized": ("int", (PACKED, SCALE, SHAPE)),
    "int-quantized": ("int", (WEIGHT, SCALE)),
    "float-quantized": ("float", (WEIGHT, SCALE)),
    "naive-quantized": ("float", (WEIGHT, SCALE)),
}
# Where columns of a group are neighbours, and where they are not.
IN_ORDER, ORDERED = ("static", "weight"), ("group", "dynamic")
# How activations are rounded by other programs; not used.
ACTIVATIONS = ("input_scale", "input_zero_point")
HARMLESS = frozenset({"global_compression_ratio", "version"})
HARMLESS_IN_GROUP = frozenset({"input_activations", "targets"})
HARMLESS_IN_WEIGHTS = frozenset({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"})


def read_scheme(settings: Settings) -> Scheme:
    """The scheme that a quantization_config describes."""
    name = settings.one_of("format", *FORMATS)
    settings.one_of("quantization_status", "compressed", "frozen", default="compressed")
    excluded = settings.names("ignore")
    group = _only_group(settings.inner("config_groups"))
    settings.inner("sparsity_config").one_of("format", "dense", default="dense")
    settings.refuse_others(HARMLESS)
    group.one_of("format", name, default=name)
    weights = group.inner("weights")
    group.refuse_others(HARMLESS_IN_GROUP)
    kind, needed = FORMATS[name]
    weights.one_of("type", kind)
    weights.one_of("dynamic", False, default=False)
    if kind == "float":
        parts, read, inexact = needed, _float_reader(weights), ""
    else:
        layout = _layout(weights, needed[0] == PACKED)
        parts, read = layout.parts(needed), lambda parts: _Reader(parts, layout).grid()
        order = "actorder" if layout.ordered else ""
        inexact = misfit(layout.group, layout.bits, layout.symmetric, order)
    weights.refuse_others(HARMLESS_IN_WEIGHTS)
    return Scheme(
        name=settings.name,
        weights="mixed" if kind == "float" else None,
        parts=(*parts, *ACTIVATIONS),
        needed=len(parts),
        excluded=tuple(name for name in excluded if not name.startswith("re:")),
        read=read,
        inexact=inexact,
    )


def _only_group(groups: Settings) -> Settings:
    """The settings of the modules that are quantised."""
    names = groups.keys()
    if len(names) != 1:
        raise groups.refused("groups", names, "one group")
    return groups.inner(names[0])


def _float_reader(weights: Settings) -> Callable[[Parts], Grid]:
    """How to read modules of FP8."""
    weights.one_of("num_bits", 8)
    weights.one_of("symmetric", True, default=True)
    weights.one_of("group_size", -1, default=-1)
    strategy = weights.one_of("strategy", "tensor", "channel", "block")
    block = fp8.block_size(weights, "block_structure")
    if (strategy == "block") != (block is not None):
        raise weights.refused("block_structure", block, f"with the strategy block, not {strategy}")
    return lambda parts: fp8.read_matrix(parts, block)


@dataclass(frozen=True)
class _Layout:
    """How the integers of all modules are stored.

    Attributes:
        bits: of a number.
        group: columns that share a scale; -1 for all.
        symmetric: whether there are no zero points.
        ordered: whether the group of each column is stored.
        packed: whether numbers are in words.
    """

    bits: int
    group: int
    symmetric: bool
    ordered: bool
    packed: bool

    def parts(self, needed: tuple[str, ...]) -> tuple[str, ...]:
        """The tensors of a module, from those that it has in any case."""
        zero, order = () if self.symmetric else (ZERO,), (ORDER,) if self.ordered else ()
        return (*needed, *zero, *order)


def _layout(weights: Settings, packed: bool) -> _Layout:
    """Read the settings of integers."""
    grouped = weights.one_of("strategy", "tensor", "channel", "group") == "group"
    return _Layout(
        bits=weights.one_of("num_bits", *((4, 8) if packed else (8,))),
        group=weights.size("group_size")
        if grouped
        else weights.one_of("group_size", -1, default=-1),
        symmetric=weights.one_of("symmetric", True, False, default=True),
        ordered=weights.one_of("actorder", False, *IN_ORDER, *ORDERED, default=False) in ORDERED,
        packed=packed,
    )


class _Reader:
    """Reads a module; FormatError names a tensor."""

    def __init__(self, parts: Parts, layout: _Layout) -> None:
        self._layout = layout
        self._weight, self._scale = parts[PACKED if layout.packed else WEIGHT], parts[SCALE]
        self._zero, self._order = parts.get(ZERO), parts.get(ORDER)
        self._rows, self._columns = self._shape(parts)
        group = self._columns if layout.group == -1 else layout.group
        self._group = min(group, self._columns)
        groups = -(-self._columns // self._group)
        single = ((self._rows,), (1,), ()) if groups == 1 else ()
        check(self._scale, tuple(DTYPES), (self._rows, groups), *single)
        if self._zero and self._zero.dtype == "I32" and layout.packed:
            check(self._zero, ("I32",), (-(-self._rows * layout.bits // 32), groups))
        elif self._zero:
            check(self._zero, ("I8",), (self._rows, groups), *single)

    def grid(self) -> Grid:
        """Return the matrix."""
        order, half = None, 1 << self._layout.bits - 1
        if self._order:
            order = read_order(self._order, self._columns, self._group)
        found = [self._weight, self._scale, self._zero, self._order]
        return Grid(
            kind=f"integers of {self._layout.bits} bits of {METHOD}"
            + (" in act order" if order is not None else ""),
            stored=tuple(tensor for tensor in found if tensor),
            shape=(self._rows, self._columns),
            group=self._group,
            numbers=lambda first, count: self._numbers(first, count, order),
            scales=lambda first, count: fp8.scales_of_rows(self._scale, first, count),
            span=(1 - 2 * half, 2 * half - 1) if self._zero else (-half, half - 1),
            order=order,
        )

    def _shape(self, parts: Parts) -> tuple[int, int]:
        """Return rows and columns."""
        if not self._layout.packed:
            return matrix_shape(self._weight, "I8")
        check(parts[SHAPE], ("I64", "I32"), (2,))
        rows, columns = map(int, parts[SHAPE].array())
        check(self._weight, ("I32",), (rows, -(-columns * self._layout.bits // 32)))
        matrix_shape(self._weight, "I32")
        return rows, columns

    def _numbers(
        self, first: int, count: int, order: NDArray[np.int32] | None
    ) -> NDArray[np.int16]:
        """Return numbers less their zero points: int16 (count, columns)."""
        bits, rows = self._layout.bits, self._weight.array()[first : first + count]
        if self._layout.packed:
            numbers = unpack(rows, bits, 1)[:, : self._columns].astype(np.int16) - (1 << bits - 1)
        else:
            numbers = rows.astype(np.int16)
        if self._zero is None:
            return numbers
        zeros = self._zero_points(self._zero, first, count)
        if order is not None:
            return numbers - zeros[:, order]
        return numbers - np.repeat(zeros, self._group, axis=1)[:, : self._columns]

    def _zero_points(self, zero: MappedTensor, first: int, count: int) -> NDArray[np.int16]:
        """Return the zero points (count, groups)."""
        bits = self._layout.bits
        if zero.dtype == "I32":
            begin, per_word = first * bits // 32, 32 // bits
            words = zero.array()[begin : -(-(first + count) // per_word)]
            found = unpack(words, bits, 0)[first - begin * per_word :][:count]
            return found.astype(np.int16) - np.int16(1 << bits - 1)
        if zero.array().size == 1:
            return np.full((count, 1), zero.array().ravel()[0], np.int16)
        return zero.array()[first : first + count].reshape(count, -1).astype(np.int16)
