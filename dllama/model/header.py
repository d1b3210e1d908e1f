"""The header of a .m file: (key, value) pairs of int32, converted to and from a ModelSpec.

Keys below 1000 are those of distributed-llama. Keys from 1000 up are ours, for what those cannot
express: flags, and numbers as float32 bits. docs/file-formats.md lists all keys.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from enum import IntEnum

from dllama.errors import FormatError, UnsupportedError
from dllama.git_lfs import refuse_pointer
from dllama.model.spec import Arch, HiddenAct, ModelSpec, RopeScaling, RopeType
from dllama.model.tensors import type_runs, typed, width_of, with_types
from dllama.model.weight_types import WeightType

MAGIC = 0x0A00ABCD
OLD_MAGICS = (0xABCD00, 0xABCD01)
MAX_HEADER = 8 + 8 * (256 + 8 * 4096)  # room for a type of every tensor in 4096 layers
# Experts of all layers together. A reader prepares a few tensors and tasks for each of them, so
# a hostile header must not be able to ask for more.
MOST_EXPERTS = 1 << 16


class Key(IntEnum):
    """Header keys by number."""

    VERSION = 0
    ARCH = 1
    DIM = 2
    HIDDEN_DIM = 3
    N_LAYERS = 4
    N_HEADS = 5
    N_KV_HEADS = 6
    N_EXPERTS = 7
    N_ACTIVE_EXPERTS = 8
    VOCAB_SIZE = 9
    SEQ_LEN = 10
    HIDDEN_ACT = 11
    ROPE_THETA = 12
    WEIGHT_TYPE = 13
    ROPE_SCALING_FACTOR = 14
    ROPE_SCALING_LOW = 15
    ROPE_SCALING_HIGH = 16
    ROPE_SCALING_SEQ_LEN = 17
    ROPE_TYPE = 18
    HEAD_DIM = 19
    NORM_EPSILON = 20
    MOE_HIDDEN_DIM = 21
    NORM_EPSILON_F32 = 1000
    ROPE_THETA_F32 = 1001
    ROPE_SCALING_FACTOR_F32 = 1002
    ROPE_SCALING_LOW_F32 = 1003
    ROPE_SCALING_HIGH_F32 = 1004
    QKV_BIAS = 1005
    ROUTER_UNSCALED = 1006
    POST_NORMS = 1007
    EMBEDDING_SCALE = 1008
    ATTENTION_SCALE = 1009
    ATTENTION_CAP = 1010
    LOGITS_SCALE = 1011
    TENSOR_TYPES = 1012
    TIED = 1013
    NO_ROPE = 1014
    WINDOW = 1015
    WINDOWED = 1016
    WINDOW_ROPE_THETA = 1017


# Least and greatest value of each key that is a plain number.
RANGES = {
    Key.VERSION: (0, 0),
    Key.DIM: (1, 1 << 20),
    Key.HIDDEN_DIM: (1, 1 << 24),
    Key.N_LAYERS: (1, 4096),
    Key.N_HEADS: (1, 1 << 14),
    Key.N_KV_HEADS: (1, 1 << 14),
    Key.N_EXPERTS: (0, 4096),
    Key.N_ACTIVE_EXPERTS: (0, 4096),
    Key.VOCAB_SIZE: (1, 1 << 24),
    Key.SEQ_LEN: (1, (1 << 31) - 1),
    Key.ROPE_THETA: (1, (1 << 31) - 1),
    Key.ROPE_SCALING_FACTOR: (1, 1 << 16),
    Key.ROPE_SCALING_LOW: (0, 1 << 16),
    Key.ROPE_SCALING_HIGH: (0, 1 << 16),
    Key.ROPE_SCALING_SEQ_LEN: (0, (1 << 31) - 1),
    Key.HEAD_DIM: (2, 512),
    Key.NORM_EPSILON: (5, 6),
    Key.MOE_HIDDEN_DIM: (0, 1 << 24),
    Key.QKV_BIAS: (0, 1),
    Key.ROUTER_UNSCALED: (0, 1),
    Key.POST_NORMS: (0, 1),
    Key.TIED: (0, 1),
    Key.WINDOW: (1, (1 << 31) - 1),
}
ENUMS: dict[Key, type[IntEnum]] = {
    Key.ARCH: Arch,
    Key.HIDDEN_ACT: HiddenAct,
    Key.WEIGHT_TYPE: WeightType,
    Key.ROPE_TYPE: RopeType,
}
REQUIRED = (
    Key.ARCH, Key.DIM, Key.HIDDEN_DIM, Key.N_LAYERS, Key.N_HEADS, Key.N_KV_HEADS,
    Key.VOCAB_SIZE, Key.SEQ_LEN, Key.WEIGHT_TYPE,
)  # fmt: skip


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
    lists = (Key.TENSOR_TYPES, Key.NO_ROPE, Key.WINDOWED)
    repeated: dict[Key, list[int]] = {key: [] for key in lists}
    for number, value in zip(pairs[::2], pairs[1::2], strict=True):
        key = _key(number, path)
        if key in repeated:
            repeated[key].append(value)
            continue
        if key in values:
            raise FormatError(path, f"header key {key.name}", "given twice", "once")
        values[key] = _checked(key, value, path)
    no_rope, windowed = (tuple(repeated[key]) for key in (Key.NO_ROPE, Key.WINDOWED))
    spec = replace(_spec(values, path), no_rope=no_rope, windowed=windowed)
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
        window=values.get(Key.WINDOW, 0),
        window_rope_theta=_factor(values, Key.WINDOW_ROPE_THETA, 0.0, path),
        n_experts=values.get(Key.N_EXPERTS, 0),
        n_active_experts=values.get(Key.N_ACTIVE_EXPERTS, 0),
        moe_hidden_dim=values.get(Key.MOE_HIDDEN_DIM, 0),
        qkv_bias=bool(values.get(Key.QKV_BIAS, 0)),
        topk_normalised=not values.get(Key.ROUTER_UNSCALED, 0),
        post_norms=bool(values.get(Key.POST_NORMS, 0)),
        embedding_scale=_factor(values, Key.EMBEDDING_SCALE, 1.0, path),
        attention_scale=_factor(values, Key.ATTENTION_SCALE, 0.0, path),
        attention_cap=_factor(values, Key.ATTENTION_CAP, 0.0, path),
        logits_scale=_factor(values, Key.LOGITS_SCALE, 1.0, path),
        tied=bool(values.get(Key.TIED, 0)),
    )


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


def _factor(values: dict[Key, int], key: Key, default: float, path: object) -> float:
    """A number that only has a float32 key."""
    return _float_bits(values[key], key, path) if key in values else default


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


def check_spec(spec: ModelSpec, path: object) -> None:
    """FormatError if the sizes contradict each other."""
    if spec.n_layers > RANGES[Key.N_LAYERS][1]:
        raise FormatError(path, "n_layers", spec.n_layers, f"at most {RANGES[Key.N_LAYERS][1]}")
    if spec.n_heads % spec.n_kv_heads:
        raise FormatError(path, "n_kv_heads", spec.n_kv_heads, f"a divisor of {spec.n_heads}")
    if spec.head_dim < 2 or spec.head_dim % 2 or spec.head_dim > 512:
        raise FormatError(path, "head_dim", spec.head_dim, "even, 2 to 512")
    for field, layers in (("no_rope", spec.no_rope), ("windowed", spec.windowed)):
        if list(layers) != sorted(set(layers) & set(range(spec.n_layers))):
            raise FormatError(path, field, list(layers), f"ascending layers of {spec.n_layers}")
    if bool(spec.window) != bool(spec.windowed):
        expected = "a number for layers with a window" if spec.windowed else "layers that have it"
        raise FormatError(path, "window", spec.window, expected)
    if spec.window_rope_theta and not spec.windowed:
        raise FormatError(path, "window_rope_theta", spec.window_rope_theta, "layers that have it")
    least = min(1, spec.n_experts)
    if not least <= spec.n_active_experts <= spec.n_experts:
        expected = f"{least} to {spec.n_experts}"
        raise FormatError(path, "n_active_experts", spec.n_active_experts, expected)
    if spec.n_layers * spec.n_experts > MOST_EXPERTS:
        found = f"{spec.n_experts} in each of {spec.n_layers} layers"
        raise FormatError(path, "n_experts", found, f"at most {MOST_EXPERTS} together")
    hidden = "moe_hidden_dim" if spec.ffn_dim != spec.hidden_dim else "hidden_dim"
    fields = {"o": "heads * head_dim", "down": hidden}
    for tensor in typed(spec):
        kind = spec.type_of(tensor)
        width = width_of(spec, tensor)
        if width % kind.block_size:
            expected = f"a multiple of {kind.block_size} for {kind.name.lower()} weights"
            raise FormatError(path, fields.get(tensor.rpartition(".")[2], "dim"), width, expected)


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
    pairs += [(Key.NO_ROPE, layer) for layer in spec.no_rope]
    pairs += [(Key.WINDOW, spec.window)] if spec.window else []
    pairs += [(Key.WINDOWED, layer) for layer in spec.windowed]
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
    flags = {
        Key.QKV_BIAS: spec.qkv_bias,
        Key.ROUTER_UNSCALED: not spec.topk_normalised,
        Key.POST_NORMS: spec.post_norms,
        Key.TIED: spec.tied,
    }
    factors = {
        Key.EMBEDDING_SCALE: (spec.embedding_scale, 1.0),
        Key.ATTENTION_SCALE: (spec.attention_scale, 0.0),
        Key.ATTENTION_CAP: (spec.attention_cap, 0.0),
        Key.LOGITS_SCALE: (spec.logits_scale, 1.0),
        Key.WINDOW_ROPE_THETA: (spec.window_rope_theta, 0.0),
    }
    pairs = [(key, 1) for key, flag in flags.items() if flag]
    return pairs + [(key, _bits(x)) for key, (x, default) in factors.items() if x != default]


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
