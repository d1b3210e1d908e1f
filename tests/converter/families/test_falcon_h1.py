"""Configs of Falcon-H1: values that mean the same, and what is refused."""

from __future__ import annotations

import json
import math

import pytest

from dllama.converter.convert import read_spec
from dllama.converter.families import falcon_h1
from dllama.errors import FormatError, UnsupportedError
from dllama.model.weight_types import WeightType


@pytest.fixture
def read(fixtures):
    """The spec of the fixture with changes; None takes a field away."""
    config = json.loads((fixtures / "falcon-h1-norm" / "config.json").read_text())

    def of(**changes):
        given = {**config, **changes}
        given = {key: value for key, value in given.items() if value is not ...}
        return read_spec(given, WeightType.F32, "config.json")[1]

    return of


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ([0.1, 0.9], (0.1, 0.9)),
        ([0, math.inf], (0.0, 0.0)),
        ([0.0, {"__float__": "Infinity"}], (0.0, 0.0)),
        ([0.5, "Infinity"], (0.5, 0.0)),
        (None, (0.0, 0.0)),
        (..., (0.0, 0.0)),
    ],
)
def test_limits_of_time_steps(read, limits, steps):
    spec = read(time_step_limit=limits)
    assert (spec.ssm_least_step, spec.ssm_most_step) == steps


@pytest.mark.parametrize(
    "limits", [[1, 0.5], [0.1], [-1, 2], [0, 0], 5, "ab", [0, math.nan], [math.inf, math.inf]]
)
def test_wrong_limits_are_refused(read, limits):
    with pytest.raises(FormatError, match="time_step_limit"):
        read(time_step_limit=limits)


def test_sizes_follow_from_others(read):
    spec = read()
    assert (spec.linear_value_heads, spec.linear_value_dim, spec.linear_key_heads) == (6, 16, 2)
    assert read(mamba_d_head="auto") == read(mamba_d_head=...) == read(mamba_d_head=None) == spec
    wide = read(mamba_d_ssm=None, mamba_expand=3, mamba_d_head="auto")
    assert wide.linear_value_dim == 3 * 64 // 6
    assert read(num_key_value_heads=None).n_kv_heads == 4


def test_layers_are_hybrid(read):
    hybrid = ["hybrid"] * 2
    assert read(layers_block_type=hybrid, layer_types=hybrid, mamba_use_mlp=True) == read()
    assert read(attn_layer_indices=None, time_step_floor=1e-4, time_step_rank="auto") == read()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu_pytorch_tanh"}, "hidden_act 'gelu_pytorch_tanh'"),
        ({"layers_block_type": ["hybrid", "mamba"]}, "layers_block_type"),
        ({"layer_types": ["full_attention"] * 2}, "layer_types"),
        ({"mamba_use_mlp": False}, "mamba_use_mlp"),
        ({"attn_layer_indices": [0]}, "attn_layer_indices"),
        ({"sliding_window": 32}, "sliding_window"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_what_is_not_supported(read, changes, message):
    with pytest.raises(UnsupportedError, match=message):
        read(**changes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mamba_n_groups": 4}, "mamba_n_groups is 4"),
        ({"mamba_d_ssm": 97}, "mamba_d_ssm"),
        ({"mamba_d_head": 8}, "mamba_d_ssm"),
        ({"mamba_d_head": "16"}, "mamba_d_ssm"),
        ({"mamba_expand": "2", "mamba_d_ssm": None}, "mamba_d_ssm"),
        ({"mamba_d_conv": 0}, "mamba_d_conv"),
        ({"mamba_rms_norm": 1}, "mamba_rms_norm"),
        ({"embedding_multiplier": 0}, "embedding_multiplier"),
    ],
)
def test_what_is_wrong(read, changes, field):
    with pytest.raises(FormatError, match=field):
        read(**changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ssm_multipliers", [1, 1]),
        ("ssm_multipliers", 2.0),
        ("mlp_multipliers", [1, "a"]),
        ("mlp_multipliers", [0, 1]),
        ("attention_in_multiplier", math.inf),
        ("ssm_out_multiplier", True),
    ],
)
def test_wrong_multipliers_are_refused(field, value):
    with pytest.raises(FormatError, match=field):
        falcon_h1.factors({field: value}, "config.json")


def test_multipliers_go_into_scores_matrices_and_vectors(read):
    config = {
        "attention_in_multiplier": 2.0, "attention_out_multiplier": 3.0, "ssm_in_multiplier": 5.0,
        "ssm_multipliers": [1.0, 7.0, 11.0, 13.0, 17.0], "mlp_multipliers": [19.0, 38.0],
        "mamba_d_ssm": 6, "mamba_n_heads": 3, "mamba_n_groups": 1, "mamba_d_state": 8,
    }  # fmt: skip
    found = falcon_h1.factors(config, "config.json")
    assert not {"q", "k", "v", "gate", "up", "linear_v", "linear_k", "linear_q"} & found.keys()
    assert (found["o"], found["o_bias"], found["k_bias"]) == (6.0, 3.0, 0.5)
    assert (found["ffn_norm"], found["up_bias"], found["down"], found["down_bias"]) == (
        19.0, 19.0, 2.0, 38.0,
    )  # fmt: skip
    assert found["conv"] == ((35.0, 24), (55.0, 32), (65.0, 32))
    assert (found["linear_z"], found["linear_v_bias"], found["decay"]) == (5.0, 0.2, 85.0)
    scale = read(attention_in_multiplier=2.0, key_multiplier=0.5).attention_scale
    assert scale == pytest.approx(2 / math.sqrt(32))
    assert read(attention_in_multiplier=2.0, key_multiplier=0.25).attention_scale == 0
