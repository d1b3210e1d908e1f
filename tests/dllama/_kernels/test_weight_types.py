"""Stored numbers against the NumPy oracle."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import quants as oracle
from oracle.blocks import DECODERS, random_blocks

from dllama._kernels import weight_types as quants
from dllama.model.weight_types import WeightType

F32, F16, BF16 = WeightType.F32, WeightType.F16, WeightType.BF16
Q40, Q80 = WeightType.Q40, WeightType.Q80
FLOATS = [kind for kind in WeightType if not kind.quantised]
ENCODED = [kind for kind in WeightType if kind.encoded]


def test_the_python_table_is_the_compiled_one():
    """Sizes of packed blocks are only known to the kernels."""
    assert quants.table() == [
        (
            int(kind),
            kind.name.lower(),
            kind.block_size,
            kind.block_bytes,
            kind.unit,
            kind.quantised,
            kind.encoded,
        )
        for kind in WeightType
    ]
    for kind in WeightType:
        assert quants.nbytes(int(kind), 64 * kind.block_size) == kind.nbytes(64 * kind.block_size)


def expected_bytes(x: np.ndarray, weight_type: WeightType) -> np.ndarray:
    kind = oracle.TYPES[weight_type]
    return kind.pack(kind.store(x)).reshape(-1)


def expected_numbers(x: np.ndarray, weight_type: WeightType) -> np.ndarray:
    return oracle.dense(oracle.TYPES[weight_type].store(x)).astype(np.float32).reshape(-1)


def encode(x: np.ndarray, weight_type: WeightType, **options) -> tuple[np.ndarray, bool]:
    out = np.zeros(quants.nbytes(weight_type, x.size), np.uint8)
    return out, quants.encode(x, out, weight_type, **options)


def bfloat16(x: np.ndarray) -> np.ndarray:
    return (x.view(np.uint32) >> 16).astype(np.uint16)


@pytest.fixture
def numbers(rng) -> np.ndarray:
    """Blocks of different magnitudes; one is zero, one has a tie of magnitudes."""
    x = rng.standard_normal((77, 320)).astype(np.float32)
    x *= rng.choice(np.array([1e-6, 1, 100], np.float32), (77, 1))
    x[3, :64] = 0
    x[9, :32] = 1
    x[9, 3] = -1
    return x


@pytest.mark.parametrize("weight_type", ENCODED)
@pytest.mark.parametrize("threads", [1, 3])
def test_encode_from_float32_and_float16(numbers, weight_type, threads):
    for x in (numbers, numbers.astype(np.float16)):
        out, finite = encode(x, weight_type, threads=threads)
        assert finite
        np.testing.assert_array_equal(out, expected_bytes(x.astype(np.float32), weight_type))


@pytest.mark.parametrize("weight_type", ENCODED)
def test_encode_from_bfloat16(numbers, weight_type):
    bits = bfloat16(numbers)
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    out, finite = encode(bits, weight_type, bf16=True)
    assert finite
    np.testing.assert_array_equal(out, expected_bytes(wide, weight_type))


@pytest.mark.parametrize("weight_type", WeightType)
def test_decode_gives_back_what_is_stored(rng, weight_type):
    matrix, raw = oracle.random_matrix(rng, weight_type, 77, 1280)
    decoded = np.empty((77, 1280), np.float32)
    quants.decode(raw.reshape(-1), decoded.reshape(-1), weight_type, threads=2)
    np.testing.assert_array_equal(decoded, oracle.dense(matrix))


@pytest.mark.parametrize("weight_type", DECODERS)
def test_the_oracle_decodes_as_the_package_gguf(rng, weight_type):
    gguf = pytest.importorskip("gguf")
    names = {"IQ4NL": "IQ4_NL", "IQ4XS": "IQ4_XS", "MXFP4": "MXFP4"}
    name = names.get(weight_type.name, f"Q{weight_type.name[1]}_{weight_type.name[2]}")
    blocks = random_blocks(rng, weight_type, 300)
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(DECODERS[weight_type](blocks), theirs)


def test_refuses_to_convert_to_types_that_are_only_read(numbers):
    with pytest.raises(ValueError, match="cannot convert to iq4nl"):
        encode(numbers, WeightType.IQ4NL)


@pytest.mark.parametrize("count", [1, 31, 33, 100])
@pytest.mark.parametrize("weight_type", FLOATS)
def test_floats_need_no_whole_blocks(rng, weight_type, count):
    x = rng.standard_normal(count).astype(np.float32)
    out, finite = encode(x, weight_type)
    assert finite
    decoded = np.empty(count, np.float32)
    quants.decode(out, decoded, weight_type)
    np.testing.assert_array_equal(decoded, expected_numbers(x[None], weight_type))


def test_all_halves():
    """All float16 numbers, to float32 and back."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = bits.view(np.float16)
    finite = np.isfinite(halves)
    wide = np.empty(bits.size, np.float32)
    quants.decode(bits.view(np.uint8), wide, F16)
    np.testing.assert_array_equal(wide[finite], halves[finite].astype(np.float32))
    assert np.isnan(wide[np.isnan(halves)]).all()
    out, _ = encode(wide, F16)
    np.testing.assert_array_equal(out.view(np.uint16)[finite], bits[finite])


def test_float32_rounds_to_the_nearest_half(rng):
    bits = rng.integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    x = bits.view(np.float32)
    x = x[np.isfinite(x) & (np.abs(x) < 65519)]
    x = np.concatenate([x, np.float32(2) ** -np.arange(10, 30, dtype=np.float32)])
    x = x[: x.size // 32 * 32]
    out, finite = encode(x, F16)
    assert finite
    np.testing.assert_array_equal(out.view(np.uint16), x.astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("weight_type", ENCODED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_says_when_a_number_is_not_finite(numbers, weight_type, bad):
    numbers[70, 300] = bad
    assert not encode(numbers, weight_type)[1]
    assert not encode(numbers.astype(np.float16), weight_type)[1]
    assert not encode(bfloat16(numbers), weight_type, bf16=True)[1]


@pytest.mark.parametrize(
    ("weight_type", "large"), [(F16, 65520.0), (BF16, 3.4e38), (Q40, 1e6), (Q80, 1e7)]
)
def test_says_when_a_number_is_too_large_to_store(weight_type, large):
    x = np.zeros(32, np.float32)
    x[5] = large
    assert not encode(x, weight_type)[1]


def test_refuses_sizes_and_types(numbers):
    out = np.zeros(10, np.uint8)
    for call in (
        lambda: quants.nbytes(Q40, 33),
        lambda: quants.nbytes(99, 32),
        lambda: quants.encode(numbers, out, F32),
        lambda: quants.encode(numbers.astype(np.float64), out, F32),
        lambda: quants.decode(out, np.empty(32, np.float32), Q40),
    ):
        with pytest.raises(ValueError, match=r"cannot|expected"):
            call()


@pytest.mark.parametrize("weight_type", WeightType)
def test_rows_are_looked_up(rng, weight_type):
    matrix, raw = oracle.random_matrix(rng, weight_type, 77, 512)
    rows = quants.StoredRows(raw, weight_type, 512)
    ids = np.array([3, 76, 3], np.int32)
    np.testing.assert_array_equal(rows.lookup(ids), oracle.dense(matrix)[ids])
    with pytest.raises(ValueError, match="bytes of a row of 768 numbers"):
        quants.StoredRows(rows.rows, weight_type, 768)
