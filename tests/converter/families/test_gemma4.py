"""Gemma 4: which layers have which heads, what they share, and what is refused."""

from __future__ import annotations

import json

import pytest

from dllama.converter.families import gemma4
from dllama.errors import FormatError, UnsupportedError
from dllama.model.header import read_header, write_header
from dllama.model.weight_types import WeightType

SLIDING, FULL = "sliding_attention", "full_attention"


@pytest.fixture
def read(fixtures):
    """A function that reads the older config of a fixture, with changes."""

    def with_changes(name="gemma4", **changes):
        config = json.loads((fixtures / name / "config.v4.json").read_text()) | changes
        config = {key: value for key, value in config.items() if value != "absent"}
        spec = gemma4.read_config(config, WeightType.F32, "config.json")
        write_header(spec, "config.json")
        return spec

    return with_changes


def test_what_a_config_need_not_say(read):
    spec = read(
        layer_types=None, num_hidden_layers=13, rope_parameters=None, global_head_dim="absent",
        hidden_size_per_layer_input=None, use_double_wide_mlp=None, num_kv_shared_layers=None,
    )  # fmt: skip
    assert spec.windowed == (0, 1, 2, 3, 4, 6, 7, 8, 9, 10)  # the last one has none
    assert (spec.full_head_dim, spec.layer_input_dim, spec.kv_shared_layers) == (512, 256, 0)
    assert (spec.window_rope_theta, spec.rope_theta) == (1e4, 1e6)
    rotated = [frequency > 0 for frequency in spec.rope_frequencies]
    assert rotated == [True] * 64 + [False] * 192
    assert spec.rope_frequencies[1] == pytest.approx(1e6 ** (-2 / 512))


def test_the_last_layer_has_no_window(read):
    assert read(layer_types=[SLIDING, FULL, SLIDING, SLIDING]).windowed == (0, 2)


@pytest.mark.parametrize(
    ("shared", "wide", "sources", "widths"),
    [
        (0, True, [0, 1, 2, 3], [96, 96, 96, 96]),
        (1, True, [0, 1, 2, 1], [96, 96, 96, 192]),
        (1, False, [0, 1, 2, 1], [96, 96, 96, 96]),
        (2, True, [0, 1, 0, 1], [96, 96, 192, 192]),
    ],
)
def test_layers_that_share_keys_and_values(read, shared, wide, sources, widths):
    spec = read(num_kv_shared_layers=shared, use_double_wide_mlp=wide)
    assert [spec.kv_layer(layer) for layer in range(4)] == sources
    assert [spec.layer(layer).width for layer in range(4)] == widths


def test_kv_heads_of_layers_without_a_window(read):
    """They only have a number of their own if keys are values, or if each layer says it."""
    spec = read("gemma4-moe")
    assert (spec.full_kv_heads, spec.keys_as_values) == (1, True)
    assert [spec.layer(layer).attention.kv_heads for layer in range(4)] == [2, 1, 2, 1]
    assert [spec.layer(layer).attention.projections[-1] for layer in range(4)] == [*"vkvk"]
    assert read("gemma4-moe", attention_k_eq_v=False).full_kv_heads == 0
    layers = {layer: {"head_dim": 32, "num_key_value_heads": 1} for layer in ("1", "3")}
    spec = read(per_layer_config=layers, attention_k_eq_v=False)
    assert (spec.full_head_dim, spec.full_kv_heads) == (32, 1)


def test_all_layers_without_a_window(read):
    spec = read(layer_types=[FULL] * 4, attention_k_eq_v=True, num_global_key_value_heads=4)
    assert (spec.windowed, spec.window, spec.full_head_dim) == ((), 0, 0)
    assert (spec.head_dim, spec.n_kv_heads, len(spec.rope_frequencies)) == (32, 4, 16)


def test_a_window_of_all_positions_stays_one(read):
    """Layers with a window have other heads than those without."""
    assert read(sliding_window=4096).windowed == (0, 2)


def test_experts_may_stand_beside_everything(read):
    experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}
    spec = read(**experts, moe_intermediate_size=32)
    layers = [spec.layer(layer) for layer in range(4)]
    assert [(layer.width, layer.beside) for layer in layers] == 2 * [(32, 96)] + 2 * [(32, 192)]
    assert spec.widths == ((32,), (96,), (192,))


def test_the_frequencies_survive_the_header(read):
    spec = read()
    assert read_header(write_header(spec), "m")[0].rope_frequencies == spec.rope_frequencies


ROPE = {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("rope", "rotated", "first"),
    [
        (ROPE, 4, 1.0),
        ({**ROPE, "partial_rotary_factor": 0.3}, 4, 1.0),
        ({**ROPE, "partial_rotary_factor": 1.0, "factor": 8.0}, 16, 0.125),
        (PLAIN, 16, 1.0),
    ],
)
def test_ropes(read, rope, rotated, first):
    spec = read(rope_parameters={FULL: rope, SLIDING: {**PLAIN, "rope_theta": 500.0}})
    found = spec.layer(1).attention.rope.frequencies
    assert (len(found), sum(one > 0 for one in found), found[0]) == (16, rotated, first)
    assert spec.layer(0).attention.rope.frequencies[4] == pytest.approx(500 ** (-8 / 16))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attention_bias": True}, UnsupportedError, "attention_bias True"),
        ({"use_bidirectional_attention": "all"}, UnsupportedError, "bidirectional_attention 'all'"),
        ({"rope_theta": 1e4}, UnsupportedError, "rope_theta 10000.0 is not"),
        ({"vocab_size_per_layer_input": 200}, UnsupportedError, "per_layer_input 200 is not"),
        ({"num_kv_shared_layers": 4}, FormatError, "num_kv_shared_layers is 4, expected 0 to 3"),
        ({"num_kv_shared_layers": 3}, FormatError, "kv_shared_layers is 3, expected an earlier"),
        ({"enable_moe_block": True}, FormatError, "num_experts is None"),
        ({"rope_parameters": {FULL: ROPE}}, FormatError, "an object with sliding_attention"),
        ({"rope_parameters": PLAIN}, FormatError, "an object with full_attention"),
        (
            {"rope_parameters": {FULL: ROPE, SLIDING: ROPE}},
            UnsupportedError,
            "'proportional' is not supported",
        ),
        (
            {"rope_parameters": {FULL: {**ROPE, "beta": 1}, SLIDING: PLAIN}},
            UnsupportedError,
            "beta 1 is not supported for the rope type",
        ),
        (
            {"rope_parameters": {FULL: {**ROPE, "partial_rotary_factor": 2}, SLIDING: PLAIN}},
            FormatError,
            "partial_rotary_factor is 2",
        ),
        ({"per_layer_config": [1]}, FormatError, "per_layer_config is"),
        ({"per_layer_config": {"4": {}}}, FormatError, "per_layer_config is '4'"),
        ({"per_layer_config": {"1": 5}}, FormatError, r"per_layer_config\.1 is 5"),
        ({"per_layer_config": {"1": {"head_dim": 0}}}, FormatError, r"1\.head_dim is 0"),
        ({"per_layer_config": {"1": {"sinks": 1}}}, UnsupportedError, "has sinks 1"),
        ({"per_layer_config": {"1": {"head_dim": 32}}}, UnsupportedError, "differs between"),
        ({"per_layer_config": {"0": {"head_dim": 32}}}, UnsupportedError, "layer 0, which has"),
        ({"per_layer_config": {}}, FormatError, "global_head_dim is 32, expected 16 as in"),
    ],
)
def test_what_is_refused(read, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        read(**changes)
    assert "config.json" in str(caught.value)
