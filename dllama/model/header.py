"""The header of a .m file: (key, value) pairs of int32, converted to and from a ModelSpec."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from dllama.errors import FormatError, UnsupportedError
from dllama.git_lfs import refuse_pointer
from dllama.model.header_checks import DEFAULTS, check_spec
from dllama.model.header_keys import (
    DOUBLES,
    ENUMS,
    FACTORS,
    FLAGS,
    LAYERS,
    NUMBERS,
    RANGES,
    REPEATED,
    REQUIRED,
    Key,
)
from dllama.model.spec import (
    Arch,
    HiddenAct,
    ModelSpec,
    QKNorm,
    RopeScaling,
    RopeType,
    usual_qk_norm,
)
from dllama.model.tensors import type_runs, typed, with_types
from dllama.model.weight_types import WeightType

MAGIC = 0x0A00ABCD
OLD_MAGICS = (0xABCD00, 0xABCD01)
MAX_HEADER = 8 + 8 * (256 + 8 * 4096)  # room for a type of every tensor in 4096 layers


def read_header(data: bytes, path: object) -> tuple[ModelSpec, int]:
    """Parse and check a header.

    Args:
        data: the first bytes of the file, up to MAX_HEADER.
        path: the file, for error messages.

    Returns:
        The spec, and the size of the header in bytes.

    Raises:
        FormatError: something is malformed or out of range.
        UnsupportedError: a key is unknown, or the file is older than headers.
        ModelError: the file is a Git LFS pointer.
    """
    refuse_pointer(data, path)
    size = _header_size(data, path)
    pairs = struct.unpack(f"<{(size - 8) // 4}i", data[8:size])
    values: dict[Key, int] = {}
    repeated: dict[Key, list[int]] = {key: [] for key in REPEATED}
    for number, value in zip(pairs[::2], pairs[1::2], strict=True):
        key = _key(number, path)
        if key in repeated:
            repeated[key].append(value)
            continue
        if key in values:
            raise FormatError(path, f"header key {key.name}", "given twice", "once")
        values[key] = _checked(key, value, path)
    lists: dict[str, Any] = {field: tuple(repeated[key]) for key, field in LAYERS.items()}
    lists |= {field: _doubles(repeated[key], key, path) for key, field in DOUBLES.items()}
    spec = replace(_spec(values, path), **lists)
    spec = _with_runs(spec, repeated[Key.TENSOR_TYPES], path)
    check_spec(spec, path)
    return spec, size


def _header_size(data: bytes, path: object) -> int:
    """The size of the header in bytes, after a check of the magic number and of the size."""
    if len(data) < 8:
        raise FormatError(path, "file size", f"{len(data)} bytes", "at least 8")
    magic, size = struct.unpack("<Ii", data[:8])
    if magic in OLD_MAGICS:
        raise UnsupportedError(f"{path}: an old model file without header, convert it again")
    if magic != MAGIC:
        raise FormatError(path, "magic", f"{magic:#010x}", f"{MAGIC:#010x} (.m) or GGUF")
    if not 8 <= size <= MAX_HEADER or size % 8:
        raise FormatError(path, "header size", size, f"a multiple of 8 up to {MAX_HEADER}")
    if size > len(data):
        raise FormatError(path, "file size", f"{len(data)} bytes", f"a header of {size}")
    return int(size)


def _key(number: int, path: object) -> Key:
    try:
        return Key(number)
    except ValueError:
        raise UnsupportedError(
            f"{path}: header key {number} is unknown, the file needs a newer dllama"
        ) from None


def _checked(key: Key, value: int, path: object) -> int:
    """The value, if it is in the key's range."""
    if key in ENUMS:
        members = [int(member) for member in ENUMS[key]]
        if value not in members:
            raise FormatError(path, key.name.lower(), value, f"one of {members}")
    elif key in RANGES:
        least, most = RANGES[key]
        if not least <= value <= most:
            raise FormatError(path, key.name.lower(), value, f"{least} to {most}")
    return value


def _spec(values: dict[Key, int], path: object) -> ModelSpec:
    """The spec that checked values describe."""
    for key in REQUIRED:
        if key not in values:
            raise FormatError(path, key.name.lower(), "missing", "a value in the header")
    arch = Arch(values[Key.ARCH])
    heads = values[Key.N_HEADS]
    llama = arch is Arch.LLAMA
    rope_type = RopeType(values.get(Key.ROPE_TYPE, RopeType.LLAMA)) if llama else RopeType.FALCON
    return ModelSpec(
        arch=arch,
        dim=values[Key.DIM],
        hidden_dim=values[Key.HIDDEN_DIM],
        n_layers=values[Key.N_LAYERS],
        n_heads=heads,
        n_kv_heads=values[Key.N_KV_HEADS],
        head_dim=values.get(Key.HEAD_DIM) or values[Key.DIM] // heads,
        vocab_size=values[Key.VOCAB_SIZE],
        seq_len=values[Key.SEQ_LEN],
        weight_type=WeightType(values[Key.WEIGHT_TYPE]),
        hidden_act=HiddenAct(values.get(Key.HIDDEN_ACT, HiddenAct.SILU)),
        norm_epsilon=_norm_epsilon(values, path),
        rope_theta=_real(values, Key.ROPE_THETA, Key.ROPE_THETA_F32, 10000.0, path),
        rope_type=rope_type,
        rope_scaling=_rope_scaling(values, path) if rope_type is RopeType.LLAMA31 else None,
        n_experts=values.get(Key.N_EXPERTS, 0),
        n_active_experts=values.get(Key.N_ACTIVE_EXPERTS, 0),
        moe_hidden_dim=values.get(Key.MOE_HIDDEN_DIM, 0),
        qk_norm=QKNorm(values.get(Key.QK_NORM, usual_qk_norm(arch))),
        **_of_our_keys(values, path),
    )


def _of_our_keys(values: dict[Key, int], path: object) -> dict[str, Any]:
    """The flags, factors and numbers that are not the defaults of a ModelSpec, by field."""
    flags = {name: not DEFAULTS[name] for key, name in FLAGS.items() if values.get(key)}
    factors = {
        name: _float_bits(values[key], key, path) for key, name in FACTORS.items() if key in values
    }
    numbers = {field: values[key] for key, field in NUMBERS.items() if key in values}
    return flags | factors | numbers


def _with_runs(spec: ModelSpec, values: list[int], path: object) -> ModelSpec:
    """The spec with the tensor types of a header, where a value is count << 8 | type."""
    if not values:
        return spec
    runs = []
    for value in values:
        if value < 1 << 8 or value & 0xFF not in [*map(int, WeightType)]:
            expected = "count << 8 | weight type"
            raise FormatError(path, "tensor_types", value, expected)
        runs.append((value >> 8, WeightType(value & 0xFF)))
    found = sum(count for count, _ in runs)
    names = typed(spec)
    if found != len(names):
        raise FormatError(path, "tensor_types", f"of {found} tensors", f"{len(names)}")
    kinds = [kind for count, kind in runs for _ in range(count)]
    return with_types(spec, dict(zip(names, kinds, strict=True)))


def _norm_epsilon(values: dict[Key, int], path: object) -> float:
    if Key.NORM_EPSILON_F32 in values:
        return _float_bits(values[Key.NORM_EPSILON_F32], Key.NORM_EPSILON_F32, path)
    return 1e-6 if values.get(Key.NORM_EPSILON) == 6 else 1e-5


def _real(values: dict[Key, int], key: Key, exact: Key, default: float, path: object) -> float:
    """A number: exact under our float32 key, or an integer under the standard one."""
    if exact in values:
        return _float_bits(values[exact], exact, path)
    return float(values.get(key, default))


def _rope_scaling(values: dict[Key, int], path: object) -> RopeScaling | None:
    """The scaling of Llama 3.1, or None for a factor of 1."""
    factor = _real(values, Key.ROPE_SCALING_FACTOR, Key.ROPE_SCALING_FACTOR_F32, 1.0, path)
    low = _real(values, Key.ROPE_SCALING_LOW, Key.ROPE_SCALING_LOW_F32, 0.0, path)
    high = _real(values, Key.ROPE_SCALING_HIGH, Key.ROPE_SCALING_HIGH_F32, 0.0, path)
    if factor == 1.0:
        return None
    if not low < high:
        raise FormatError(path, "rope_scaling_high", high, f"more than rope_scaling_low, {low}")
    seq_len = values.get(Key.ROPE_SCALING_SEQ_LEN, 0)
    if seq_len < 1:
        raise FormatError(path, "rope_scaling_seq_len", seq_len, "at least 1")
    return RopeScaling(factor, low, high, seq_len)


def _float_bits(value: int, key: Key, path: object) -> float:
    """A positive finite float32 from its bits."""
    number = float(struct.unpack("<f", struct.pack("<i", value))[0])
    if not 0.0 < number < float("inf"):
        raise FormatError(path, key.name.lower(), number, "a positive number")
    return number


def _doubles(words: list[int], key: Key, path: object) -> tuple[float, ...]:
    """Return finite numbers of at least 0 from the halves of float64, the low one first."""
    if len(words) % 2:
        raise FormatError(path, key.name.lower(), f"{len(words)} halves", "whole numbers")
    numbers = struct.unpack(f"<{len(words) // 2}d", struct.pack(f"<{len(words)}i", *words))
    for number in numbers:
        if not 0.0 <= number < float("inf"):
            raise FormatError(path, key.name.lower(), number, "a number of at least 0")
    return numbers


def write_header(spec: ModelSpec, path: object = "model") -> bytes:
    """The header of a spec; FormatError where its sizes do not fit each other or are too large."""
    check_spec(spec, path)
    pairs: list[tuple[Key, int]] = [
        (Key.VERSION, 0),
        (Key.ARCH, spec.arch),
        (Key.HIDDEN_ACT, spec.hidden_act),
        (Key.DIM, spec.dim),
        (Key.HIDDEN_DIM, spec.hidden_dim),
        (Key.N_LAYERS, spec.n_layers),
        (Key.N_HEADS, spec.n_heads),
        (Key.N_KV_HEADS, spec.n_kv_heads),
        (Key.WEIGHT_TYPE, spec.weight_type),
        (Key.SEQ_LEN, spec.seq_len),
        (Key.VOCAB_SIZE, spec.vocab_size),
        (Key.N_EXPERTS, spec.n_experts),
        (Key.N_ACTIVE_EXPERTS, spec.n_active_experts),
        (Key.HEAD_DIM, spec.head_dim),
        (Key.ROPE_TYPE, spec.rope_type),
        *_number(Key.ROPE_THETA, Key.ROPE_THETA_F32, spec.rope_theta),
        *_epsilon(spec.norm_epsilon),
    ]
    if spec.moe_hidden_dim:
        pairs.append((Key.MOE_HIDDEN_DIM, spec.moe_hidden_dim))
    pairs += _ours(spec)
    if spec.rope_scaling is not None:
        pairs += _scaling(spec.rope_scaling)
    if spec.tensor_types:
        pairs += [(Key.TENSOR_TYPES, count << 8 | kind) for count, kind in type_runs(spec)]
    for key, value in pairs:
        if not -(1 << 31) <= value < 1 << 31:
            raise FormatError(path, key.name.lower(), value, f"at most {(1 << 31) - 1}")
    body = b"".join(struct.pack("<ii", key, value) for key, value in pairs)
    return struct.pack("<Ii", MAGIC, 8 + len(body)) + body


def _ours(spec: ModelSpec) -> list[tuple[Key, int]]:
    """Our own keys; those whose value is the default are left out."""
    pairs = [(key, 1) for key, field in FLAGS.items() if getattr(spec, field) != DEFAULTS[field]]
    pairs += [
        (key, _bits(getattr(spec, field)))
        for key, field in FACTORS.items()
        if getattr(spec, field) != DEFAULTS[field]
    ]
    pairs += [(key, number) for key, field in NUMBERS.items() if (number := getattr(spec, field))]
    if spec.qk_norm is not usual_qk_norm(spec.arch):
        pairs.append((Key.QK_NORM, spec.qk_norm))
    pairs += [(key, layer) for key, field in LAYERS.items() for layer in getattr(spec, field)]
    for key, field in DOUBLES.items():
        numbers = getattr(spec, field)
        halves = struct.unpack(f"<{2 * len(numbers)}i", struct.pack(f"<{len(numbers)}d", *numbers))
        pairs += [(key, half) for half in halves]
    return pairs


def _scaling(scaling: RopeScaling) -> list[tuple[Key, int]]:
    return [
        *_number(Key.ROPE_SCALING_FACTOR, Key.ROPE_SCALING_FACTOR_F32, scaling.factor),
        *_number(Key.ROPE_SCALING_LOW, Key.ROPE_SCALING_LOW_F32, scaling.low_freq_factor),
        *_number(Key.ROPE_SCALING_HIGH, Key.ROPE_SCALING_HIGH_F32, scaling.high_freq_factor),
        (Key.ROPE_SCALING_SEQ_LEN, scaling.original_seq_len),
    ]


def _number(key: Key, exact: Key, value: float) -> list[tuple[Key, int]]:
    """An integer under the standard key, any other number as float32 bits under ours."""
    least, most = RANGES[key]
    if value == int(value) and least <= value <= most:
        return [(key, int(value))]
    return [(exact, _bits(value))]


def _epsilon(value: float) -> list[tuple[Key, int]]:
    standard = {_bits(1e-5): 5, _bits(1e-6): 6}.get(_bits(value))
    return [(Key.NORM_EPSILON, standard)] if standard else [(Key.NORM_EPSILON_F32, _bits(value))]


def _bits(value: float) -> int:
    return int(struct.unpack("<i", struct.pack("<f", value))[0])
