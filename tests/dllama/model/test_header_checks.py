"""Fields of a header that contradict each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_spec import LINEAR, SPEC

from dllama.errors import FormatError
from dllama.model.header import read_header, write_header
from dllama.model.spec import HiddenAct, QKNorm
from dllama.model.tensors import tensors

CLAMPED = {"hidden_act": HiddenAct.CLAMPED, "act_limit": 7.0}
WINDOWS = {"n_layers": 4, "window": 8, "windowed": (0, 2), "window_rope_theta": 500.0}
SIZES = {**WINDOWS, "full_head_dim": 32, "full_kv_heads": 1}
SHARED = {**WINDOWS, "kv_shared_layers": 2}
EXPERTS = {"n_experts": 2, "n_active_experts": 1, "post_norms": True}


def spec_of(changes):
    return replace(SPEC, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        SIZES,
        {**SIZES, "keys_as_values": True, "value_norm": True},
        {**SHARED, "kv_shared_hidden_dim": 192},
        {"layer_input_dim": 32, "layer_scales": True},
        {**EXPERTS, "dense_beside": True},
        {**WINDOWS, "full_head_dim": 32, "rope_frequencies": (0.5,) * 16},
    ],
)
def test_all_fields_come_back(changes):
    data = write_header(spec_of(changes))
    assert read_header(data, "m") == (spec_of(changes), len(data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ffn_gated": False, **CLAMPED}, "hidden_act is clamped, expected another without a gate"),
        ({"parallel_residual": True, "pre_norms": False}, "parallel_residual is set, expected"),
        ({"layer_norms": True, "qk_norm": QKNorm.WIDTH}, "qk_norm is over all heads"),
        ({"layer_norms": True, "layer_input_dim": 32}, "layer_norms .* with layer_input_dim"),
        ({**SIZES, "full_kv_heads": 3}, "full_kv_heads is 3, expected a divisor of 4"),
        ({**SIZES, "full_head_dim": 31}, "full_head_dim is 31, expected even"),
        ({"full_head_dim": 32}, "full_head_dim is 32, expected layers with a window"),
        ({**SIZES, "window_rope_theta": 0.0}, "full_head_dim is 32, expected window_rope_theta"),
        ({**SIZES, "rope_dim": 24}, "rope_dim is 24, expected even, at most 16"),
        ({**SIZES, "rope_frequencies": (0.5,) * 8}, "rope_frequencies is 8, expected 16 or none"),
        ({"kv_shared_hidden_dim": 192}, "kv_shared_hidden_dim is 192, expected none without"),
        ({**SHARED, "kv_shared_layers": 3}, "kv_shared_layers is 3, expected an earlier layer"),
        ({**SHARED, "kv_shared_layers": 4}, "kv_shared_layers is 4, expected an earlier layer"),
        ({**SHARED, "qkv_bias": True}, "qkv_bias is True, expected none in a model with kv_shared"),
        ({**SIZES, "qk_norm": QKNorm.WIDTH}, "qk_norm .* in a model with full_head_dim"),
        ({"value_norm": True, **LINEAR}, "linear .* in a model with value_norm"),
        ({**EXPERTS, "dense_beside": True, "post_norms": False}, "dense_beside is set, expected"),
        ({"dense_beside": True, "post_norms": True}, "dense_beside is set, expected experts"),
        ({"layer_input_dim": 24}, "layers . layer_input_dim is 48, expected a multiple of 32"),
    ],
)
def test_fields_that_contradict_each_other(changes, message):
    with pytest.raises(FormatError, match=message):
        write_header(spec_of(changes), "m")


def shapes(changes):
    return {tensor.name: tensor.shape for tensor in tensors(spec_of(changes))}


def test_layers_have_tensors_of_their_own():
    found = shapes({**SIZES, "keys_as_values": True, "kv_shared_layers": 2,
                    "kv_shared_hidden_dim": 192, "qk_norm": QKNorm.HEAD})  # fmt: skip
    assert found["layers.0.q"] == found["layers.2.q"] == (64, 64)
    assert found["layers.1.q"] == found["layers.3.q"] == (128, 64)
    assert found["layers.0.k"] == found["layers.0.v"] == found["layers.1.k"] == (32, 64)
    assert found["layers.1.q_norm"] == found["layers.1.k_norm"] == (32,)
    assert found["layers.1.down"] == (64, 96)
    assert found["layers.2.down"] == (64, 192)
    absent = {"layers.1.v", "layers.2.k", "layers.2.v", "layers.3.k", "layers.2.k_norm"}
    assert not absent & set(found)
