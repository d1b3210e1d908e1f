"""A weight type for each tensor of a model file."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_spec import SPEC as DENSE

from dllama.errors import FormatError
from dllama.model.file import ModelFile, ModelWriter, encode, tensor_table
from dllama.model.header import MAX_HEADER, Key, read_header, write_header
from dllama.model.spec import ModelSpec
from dllama.model.tensors import tensors, typed, with_types
from dllama.model.weight_types import WeightType

# Types whose blocks fit into the rows of the models below.
SHORT = [kind for kind in WeightType if kind.block_size <= 32]
ENCODED = [kind for kind in WeightType if kind.encoded]

EXPERTS = replace(DENSE, n_experts=3, n_active_experts=2)
PAIR = struct.Struct("<ii")


def with_runs(spec: ModelSpec, *values: int) -> bytes:
    """A header with these values of the key for tensor types."""
    data = write_header(spec) + b"".join(PAIR.pack(Key.TENSOR_TYPES, value) for value in values)
    return data[:4] + struct.pack("<i", len(data)) + data[8:]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), spec=st.sampled_from([DENSE, EXPERTS]))
def test_header_says_the_type_of_each_tensor(data, spec):
    kinds = {name: data.draw(st.sampled_from(SHORT)) for name in typed(spec)}
    mixed = with_types(spec, kinds)
    assert {name: mixed.type_of(name) for name in typed(mixed)} == kinds
    header = write_header(mixed)
    assert read_header(header, "x") == (mixed, len(header))
    assert hash(mixed) == hash(with_types(spec, kinds))


def test_one_type_needs_no_key(fixtures):
    """These files stay byte for byte what distributed-llama reads."""
    same = with_types(DENSE, {"layers.0.q": WeightType.Q40, "embedding": WeightType.F32})
    assert same == DENSE
    with ModelFile.open(fixtures / "llama-gqa" / "golden_q40.m") as file:
        assert file.spec.tensor_types == ()


def test_runs_join_neighbours():
    mixed = with_types(DENSE, {"output": WeightType.Q80})
    added = write_header(mixed)[len(write_header(DENSE)) :]
    values = [PAIR.unpack_from(added, at)[1] for at in range(0, len(added), 8)]
    assert values == [1 << 8 | 0, 14 << 8 | 2, 1 << 8 | 3]


def test_experts_share_a_type():
    mixed = with_types(EXPERTS, {"layers.1.experts.down": WeightType.F16})
    kinds = {one.name: one.weight_type for one in tensors(mixed)}
    assert {kinds[f"layers.1.experts.{expert}.down"] for expert in range(3)} == {WeightType.F16}
    assert kinds["layers.0.experts.0.down"] is kinds["layers.1.experts.0.up"] is WeightType.Q40


def test_tensors_are_written_and_read_in_their_types(tmp_path, rng):
    kinds = dict(zip(typed(EXPERTS), ENCODED * 9, strict=False))
    spec, written = with_types(EXPERTS, kinds), {}
    with ModelWriter(tmp_path / "model.m", spec) as writer:
        for info in writer.tensors.values():
            written[info.name] = rng.standard_normal(info.shape).astype(np.float32)
            writer.write_rows(info.name, written[info.name])
        writer.commit()
    with ModelFile.open(tmp_path / "model.m") as file:
        assert file.spec == spec
        for name, info in file.tensors.items():
            np.testing.assert_array_equal(file.raw(name), encode(written[name], info.weight_type))
    data = (tmp_path / "model.m").read_bytes()
    (tmp_path / "model.m").write_bytes(data[:-1])
    with pytest.raises(FormatError, match="cut off"):
        ModelFile.open(tmp_path / "model.m")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([16 << 8 | 99], "tensor_types is 4195"),
        ([2], "tensor_types is 2"),
        ([-1], "tensor_types is -1"),
        ([15 << 8 | 2], "of 15 tensors, expected 16"),
        ([17 << 8 | 2], "of 17 tensors, expected 16"),
        ([0x7FFFFF02] * 2, "of 16777214 tensors, expected 16"),
    ],
)
def test_types_are_checked(values, message):
    with pytest.raises(FormatError, match=message):
        read_header(with_runs(DENSE, *values), "x")


def test_rows_of_each_tensor_are_whole_blocks():
    odd = replace(DENSE, hidden_dim=97, weight_type=WeightType.F32)
    expected = "hidden_dim is 97, expected a multiple of 32 for q80 weights"
    with pytest.raises(FormatError, match=expected):
        write_header(with_types(odd, {"layers.1.down": WeightType.Q80}))
    write_header(with_types(odd, {"layers.1.up": WeightType.Q80}))


def test_a_header_for_the_most_layers_fits():
    spec = replace(EXPERTS, n_layers=4096)
    kinds = dict(zip(typed(spec), [WeightType.Q40, WeightType.F16] * 4096 * 5, strict=False))
    assert len(write_header(with_types(spec, kinds))) <= MAX_HEADER


def test_offsets_follow_the_types():
    kinds = {"layers.0.k": WeightType.F32, "embedding": WeightType.Q80}
    table = tensor_table(with_types(DENSE, kinds), 100)
    assert table["layers.0.q"].offset == 100 + 40 * 64 // 32 * 34
    assert table["layers.0.v"].offset - table["layers.0.k"].offset == 32 * 64 * 4
