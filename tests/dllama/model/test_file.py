"""Model files: what was written can be read, and errors name what is broken."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from small_spec import LINEAR, SPEC

from dllama.errors import FormatError, ModelError, OutputError, UnsupportedError
from dllama.model.file import ModelFile, ModelWriter, encode, tensor_table
from dllama.model.header import Key, read_header, write_header
from dllama.model.spec import Arch, HiddenAct, QKNorm, RopeScaling, RopeType
from dllama.model.stored_model import decode
from dllama.model.weight_types import WeightType

ENCODED = [kind for kind in WeightType if kind.encoded]


def write(path, spec=SPEC, seed=0) -> dict[str, np.ndarray]:
    """Write a model file of random tensors, and return the tensors."""
    rng = np.random.default_rng(seed)
    tensors = {}
    with ModelWriter(path, spec, threads=2) as writer:
        for info in writer.tensors.values():
            tensors[info.name] = rng.standard_normal(info.shape).astype(np.float32)
            writer.write_rows(info.name, tensors[info.name])
        writer.commit()
    return tensors


def header(pairs: dict[int, int], magic=0x0A00ABCD, size=None) -> bytes:
    body = b"".join(struct.pack("<ii", key, value) for key, value in pairs.items())
    return struct.pack("<Ii", magic, 8 + len(body) if size is None else size) + body


def pairs_of(spec) -> dict[int, int]:
    data = write_header(spec)
    numbers = struct.unpack(f"<{(len(data) - 8) // 4}i", data[8:])
    return dict(zip(numbers[::2], numbers[1::2], strict=True))


@pytest.mark.parametrize("weights", ENCODED)
def test_what_is_written_is_read(tmp_path, weights):
    spec = replace(SPEC, weight_type=weights)
    tensors = write(tmp_path / "model.m", spec)
    with ModelFile.open(tmp_path / "model.m") as file:
        assert file.spec == spec
        assert list(file.tensors) == list(tensors)
        for name, info in file.tensors.items():
            stored = encode(tensors[name], info.weight_type)
            np.testing.assert_array_equal(file.raw(name), stored)
            expected = decode(stored, info.weight_type, info.shape)
            np.testing.assert_array_equal(file.f32(name), expected)


def test_rows_may_come_in_runs(tmp_path):
    tensors = write(tmp_path / "whole.m")
    with ModelWriter(tmp_path / "runs.m", SPEC) as writer:
        for name, tensor in tensors.items():
            for begin in range(0, len(tensor), 7):
                writer.write_rows(name, tensor[begin : begin + 7])
        writer.commit()
    assert (tmp_path / "runs.m").read_bytes() == (tmp_path / "whole.m").read_bytes()


@pytest.mark.parametrize("weights", ENCODED)
def test_a_tied_output_is_the_embedding(tmp_path, weights):
    spec = replace(SPEC, weight_type=weights, tied=True)
    tensors = write(tmp_path / "model.m", spec)
    assert list(tensors)[-1] == "final_norm"
    with ModelFile.open(tmp_path / "model.m") as file:
        assert file.spec.type_of("output") is file.spec.type_of("embedding") is weights
        stored = encode(tensors["embedding"], weights)
        np.testing.assert_array_equal(file.raw("output"), stored)
        assert file.rows("output").shape == (SPEC.vocab_size, weights.nbytes(SPEC.dim))
        np.testing.assert_array_equal(file.f32("output"), file.f32("embedding"))
        file.release("output")
        np.testing.assert_array_equal(file.raw("embedding"), stored)


def test_importance_must_fit_the_columns(tmp_path):
    rows = np.zeros((SPEC.vocab_size, SPEC.dim), np.float32)
    with (
        ModelWriter(tmp_path / "model.m", SPEC) as writer,
        pytest.raises(ValueError, match=r"importance of embedding is \(3,\), expected \(64,\)"),
    ):
        writer.write_rows("embedding", rows, importance=np.ones(3, np.float32))


def test_arrays_outlive_the_file(tmp_path):
    tensors = write(tmp_path / "model.m")
    with ModelFile.open(tmp_path / "model.m") as file:
        embedding = file.f32("embedding")
        file.release("embedding")
    np.testing.assert_array_equal(embedding, tensors["embedding"])


def test_the_original_converters_file_is_read(fixtures):
    with ModelFile.open(fixtures / "llama-gqa" / "golden_q40.m") as file:
        assert file.spec.weight_type is WeightType.Q40
        assert (file.spec.dim, file.spec.n_layers, file.spec.n_kv_heads) == (128, 2, 2)
        assert file.spec.rope_theta == 10000.0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_epsilon": 1e-6},
        {"norm_epsilon": float(np.float32(3e-6))},
        {"rope_theta": 500000.0},
        {"rope_theta": 10000.5},
        {"hidden_act": HiddenAct.GELU},
        {"rope_type": RopeType.FALCON},
        {"rope_type": RopeType.LLAMA31, "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 8192)},
        {"rope_type": RopeType.LLAMA31, "rope_scaling": RopeScaling(8.5, 0.25, 4.5, 8192)},
        {"head_dim": 24},
        {"qkv_bias": True, "tied": True},
        {"layer_norms": True, "ffn_gated": False, "parallel_residual": True},
        {"no_rope": (0, 1)},
        {"n_experts": 4, "n_active_experts": 2, "moe_hidden_dim": 64, "dense": (1,)},
        {"n_experts": 2, "n_active_experts": 2, "shared_hidden_dim": 32, "shared_gate": True},
        {
            "n_experts": 6,
            "n_active_experts": 2,
            "router_sigmoid": True,
            "router_correction": True,
            "expert_groups": 3,
            "expert_groups_taken": 1,
            "expert_group_best": 2,
            "expert_scale": 2.5,
        },
        {"attention_gate": True, **LINEAR},
        {"logits_cap": 1.5},
        {"window": 1, "windowed": (1,)},
        {"window": 4096, "windowed": (0, 1), "window_rope_theta": 10000.5},
        {"n_experts": 3, "n_active_experts": 1, "topk_normalised": False},
        {
            "n_experts": 8,
            "n_active_experts": 2,
            "post_norms": True,
            "embedding_scale": 78.5,
            "attention_scale": 0.125,
            "attention_cap": 30.0,
            "logits_scale": 0.75,
        },
        {"arch": Arch.QWEN3, "rope_type": RopeType.FALCON},
        {"arch": Arch.QWEN3, "rope_type": RopeType.FALCON, "qk_norm": QKNorm.HEAD},
        {"qk_norm": QKNorm.WIDTH, "pre_norms": False, "o_bias": True, "ffn_bias": True},
        {"qk_norm": QKNorm.APART, "layer_norms": True},
        {"rope_dim": 4, "rope_frequencies": (1 / 3, 0.0), "rope_factor": 1.25},
        {"hidden_act": HiddenAct.CLAMPED, "act_limit": 7.0, "sinks": True},
        {"n_kv_heads": 1, "head_dim": 48, "rope_dim": 16, "kv_latent_dim": 32, "value_dim": 24},
        {"rope_dim": 2, "rope_switch": 16, "rope_long_frequencies": (1e-9,)},
        {
            "arch": Arch.QWEN3_MOE,
            "rope_type": RopeType.FALCON,
            "n_experts": 4,
            "n_active_experts": 2,
            "moe_hidden_dim": 32,
        },
    ],
)
def test_header_says_the_whole_spec(changes):
    spec = replace(SPEC, weight_type=WeightType.F32, **changes)
    data = write_header(spec)
    assert read_header(data, "x") == (spec, len(data))


def test_standard_keys_suffice_where_they_can():
    """So distributed-llama can read the file; keys from 1000 up are only used if needed."""
    spec = replace(SPEC, rope_type=RopeType.LLAMA31, rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192))
    assert max(pairs_of(spec)) < 1000
    assert Key.NORM_EPSILON_F32 in pairs_of(replace(SPEC, norm_epsilon=2e-5))
    assert max(pairs_of(replace(SPEC, n_experts=8, n_active_experts=2))) < 1000
    assert Key.QKV_BIAS in pairs_of(replace(SPEC, qkv_bias=True))


def test_tensors_lie_in_the_order_of_the_format():
    names = list(tensor_table(replace(SPEC, n_layers=1), 0))
    layer = ["q", "k", "v", "o", "gate", "down", "up", "attention_norm", "ffn_norm"]
    expected = ["embedding", *(f"layers.0.{name}" for name in layer), "final_norm", "output"]
    assert names == expected
    moe = replace(SPEC, n_layers=1, qk_norm=QKNorm.HEAD, n_experts=2, moe_hidden_dim=32)
    table = tensor_table(moe, 0)
    assert list(table)[5:9] == [
        "layers.0.router",
        "layers.0.experts.0.gate",
        "layers.0.experts.0.down",
        "layers.0.experts.0.up",
    ]
    assert table["layers.0.router"].weight_type is WeightType.F32
    grok = replace(SPEC, n_layers=1, qkv_bias=True, post_norms=True)
    layer = ["q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "gate", "down", "up"]
    layer += ["attention_norm", "ffn_norm", "attention_post_norm", "ffn_post_norm"]
    assert list(tensor_table(grok, 0))[1:-2] == [f"layers.0.{name}" for name in layer]
    assert table["layers.0.q_norm"].shape == (16,)


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        (Key.VERSION, 7, "version"),
        (Key.ARCH, 5, "arch"),
        (Key.DIM, 0, "dim"),
        (Key.DIM, 2**31 - 1, "dim"),
        (Key.DIM, 48, "dim"),
        (Key.HIDDEN_DIM, 97, "hidden_dim"),
        (Key.N_LAYERS, 0, "n_layers"),
        (Key.N_LAYERS, 2**31 - 1, "n_layers"),
        (Key.N_HEADS, 0, "n_heads"),
        (Key.N_KV_HEADS, 3, "n_kv_heads"),
        (Key.N_KV_HEADS, 0, "n_kv_heads"),
        (Key.N_EXPERTS, -1, "n_experts"),
        (Key.N_ACTIVE_EXPERTS, 5, "n_active_experts"),
        (Key.VOCAB_SIZE, 0, "vocab_size"),
        (Key.VOCAB_SIZE, 2**31 - 1, "vocab_size"),
        (Key.SEQ_LEN, 0, "seq_len"),
        (Key.HIDDEN_ACT, 9, "hidden_act"),
        (Key.ROPE_THETA, 0, "rope_theta"),
        (Key.WEIGHT_TYPE, 99, "weight_type"),
        (Key.ROPE_TYPE, 3, "rope_type"),
        (Key.HEAD_DIM, 17, "head_dim"),
        (Key.HEAD_DIM, 514, "head_dim"),
        (Key.NORM_EPSILON, 7, "norm_epsilon"),
        (Key.MOE_HIDDEN_DIM, -1, "moe_hidden_dim"),
        (Key.NORM_EPSILON_F32, -1, "norm_epsilon_f32"),
        (Key.ROPE_THETA_F32, 0, "rope_theta_f32"),
        (Key.N_EXPERTS, 2, "n_active_experts"),
        (Key.QKV_BIAS, 2, "qkv_bias"),
        (Key.ROUTER_UNSCALED, -1, "router_unscaled"),
        (Key.POST_NORMS, 7, "post_norms"),
        (Key.TIED, 2, "tied"),
        (Key.EMBEDDING_SCALE, 0, "embedding_scale"),
        (Key.ATTENTION_SCALE, -1, "attention_scale"),
        (Key.ATTENTION_CAP, 0x7F800000, "attention_cap"),
        (Key.LOGITS_SCALE, 0, "logits_scale"),
        (Key.LOGITS_CAP, 0, "logits_cap"),
        (Key.QK_NORM, 4, "qk_norm"),
        (Key.O_BIAS, 2, "o_bias"),
        (Key.ROPE_DIM, 3, "rope_dim"),
        (Key.ROPE_DIM, SPEC.head_dim + 2, "rope_dim"),
        (Key.ROPE_FACTOR, 0, "rope_factor"),
        (Key.SINKS, 2, "sinks"),
        (Key.HIDDEN_ACT, 2, "act_limit"),
        (Key.ACT_LIMIT, 0x3F800000, "act_limit"),
        (Key.ROPE_SWITCH, 5, "rope_switch"),
        (Key.ROPE_FREQUENCIES, 1, "rope_frequencies"),
        (Key.NO_ROPE, SPEC.n_layers, "no_rope"),
        (Key.WINDOW, 0, "window"),
        (Key.WINDOW, 4, "window"),
        (Key.WINDOWED, 1, "window"),
        (Key.WINDOWED, SPEC.n_layers, "windowed"),
        (Key.SHARED_HIDDEN_DIM, 32, "shared_hidden_dim"),
        (Key.SHARED_HIDDEN_DIM, 0, "shared_hidden_dim"),
        (Key.SHARED_GATE, 1, "shared_gate"),
        (Key.ROUTER_SIGMOID, 1, "router_sigmoid"),
        (Key.ROUTER_CORRECTION, 1, "router_correction"),
        (Key.EXPERT_GROUPS, 2, "expert_groups"),
        (Key.EXPERT_GROUPS_TAKEN, 1, "expert_groups"),
        (Key.EXPERT_GROUP_BEST, 3, "expert_group_best"),
        (Key.EXPERT_SCALE, 0, "expert_scale"),
        (Key.LINEAR, SPEC.n_layers, "linear"),
        (Key.LINEAR, 0, "linear_key_heads"),
        (Key.LINEAR_KEY_HEADS, 2, "linear_key_heads"),
        (Key.LINEAR_VALUE_HEADS, 0, "linear_value_heads"),
        (Key.LINEAR_TAPS, 17, "linear_taps"),
        (Key.ATTENTION_GATE, 2, "attention_gate"),
        (Key.DENSE, SPEC.n_layers, "dense"),
        (Key.DENSE, 0, "dense"),
        (Key.WINDOW_ROPE_THETA, 0x3F800000, "window_rope_theta"),
    ],
)
def test_every_field_is_checked(tmp_path, key, value, field):
    path = tmp_path / "bad.m"
    path.write_bytes(header({**pairs_of(SPEC), int(key): value}))
    with pytest.raises(FormatError) as caught:
        ModelFile.open(path)
    assert caught.value.path == str(path)
    assert field in caught.value.field
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("factor", "low", "high", "length"), [(8, 4, 4, 8192), (8, 1, 4, 0), (0, 1, 4, 8192)]
)
def test_rope_scaling_is_checked(factor, low, high, length):
    values = {**pairs_of(SPEC), 18: 2, 14: factor, 15: low, 16: high, 17: length}
    with pytest.raises(FormatError, match="rope_scaling"):
        read_header(header(values), "x")


@pytest.mark.parametrize("key", [Key.ARCH, Key.DIM, Key.VOCAB_SIZE, Key.WEIGHT_TYPE])
def test_missing_fields_are_named(key):
    pairs = pairs_of(SPEC)
    del pairs[key]
    with pytest.raises(FormatError, match=f"{key.name.lower()} is missing"):
        read_header(header(pairs), "x")


def test_fields_given_twice_are_refused():
    data = header(pairs_of(SPEC)) + struct.pack("<ii", Key.DIM, 64)
    data = data[:4] + struct.pack("<i", len(data)) + data[8:]
    with pytest.raises(FormatError, match="twice"):
        read_header(data, "x")


def test_unknown_keys_are_refused():
    with pytest.raises(UnsupportedError, match="key 1234"):
        read_header(header({**pairs_of(SPEC), 1234: 1}), "x")


@pytest.mark.parametrize("size", [-8, 0, 7, 12, 1 << 30, 2**31 - 1])
def test_header_size_is_checked(size):
    with pytest.raises(FormatError, match="size"):
        read_header(header(pairs_of(SPEC), size=size), "x")


def test_magic_is_checked():
    with pytest.raises(FormatError, match="magic"):
        read_header(header(pairs_of(SPEC), magic=0x12345678), "x")
    with pytest.raises(UnsupportedError, match="old model file"):
        read_header(header(pairs_of(SPEC), magic=0xABCD00), "x")


def test_file_size_is_checked(tmp_path):
    write(tmp_path / "model.m")
    data = (tmp_path / "model.m").read_bytes()
    for bad in (b"", data[:5], data[:100], data[:-1], data + b"\0"):
        (tmp_path / "bad.m").write_bytes(bad)
        with pytest.raises(FormatError, match="size"):
            ModelFile.open(tmp_path / "bad.m")
    with pytest.raises(ModelError, match=r"none\.m"):
        ModelFile.open(tmp_path / "none.m")


def test_huge_sizes_allocate_nothing(tmp_path):
    """With all sizes at their limits, the product does not fit into 64 bits."""
    huge = {**pairs_of(SPEC), 2: 1 << 20, 3: 1 << 24, 4: 4096, 8: 2, 9: 1 << 24, 21: 1 << 24}
    for experts, message in ((16, "file size is"), (4096, "n_experts is 4096 in each of 4096")):
        (tmp_path / "bad.m").write_bytes(header({**huge, 7: experts}))
        with pytest.raises(FormatError, match=message):
            ModelFile.open(tmp_path / "bad.m")


def test_writer_leaves_nothing_without_commit(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), ModelWriter(tmp_path / "x.m", SPEC):
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_writer_wants_tensors_in_order_and_whole(tmp_path):
    with ModelWriter(tmp_path / "x.m", SPEC) as writer:
        for name, shape in (
            ("final_norm", (64,)),
            ("embedding", (40, 63)),
            ("embedding", (41, 64)),
        ):
            with pytest.raises(ValueError, match=name):
                writer.write_rows(name, np.zeros(shape, np.float32))
    with ModelWriter(tmp_path / "x.m", SPEC) as writer:
        writer.write_rows("embedding", np.zeros((40, 64), np.float32))
        with pytest.raises(ValueError, match="has not been written"):
            writer.commit()
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_numbers_that_are_not_finite(tmp_path):
    with ModelWriter(tmp_path / "x.m", SPEC) as writer:
        rows = np.zeros((40, 64), np.float32)
        rows[3, 3] = np.nan
        with pytest.raises(FormatError, match="embedding"):
            writer.write_rows("embedding", rows)


def test_writer_names_what_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match="none"):
        ModelWriter(tmp_path / "none" / "x.m", SPEC)
