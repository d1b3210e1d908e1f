"""The type of each matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_spec import SPEC

from dllama.converter.recipe import WEIGHTS, columns_of, with_output, with_recipe
from dllama.model.header import write_header
from dllama.model.tensors import typed
from dllama.model.weight_types import WeightType

WIDE = replace(SPEC, dim=512, hidden_dim=768, n_layers=3, n_heads=8, n_kv_heads=4, head_dim=64)
NARROW = replace(WIDE, dim=576, n_heads=9, n_kv_heads=3)


def names_of(spec) -> dict[str, str]:
    return {name: spec.type_of(name).name for name in typed(spec)}


def test_mixed_in_rows_of_whole_super_blocks():
    kinds = names_of(with_recipe(WIDE, "mixed"))
    assert kinds["embedding"] == kinds["output"] == "Q6K"
    assert [kinds[f"layers.0.{name}"] for name in "qkvo"] == ["Q4K", "Q4K", "Q6K", "Q4K"]
    assert [kinds[f"layers.1.{name}"] for name in ("gate", "down", "up")] == ["Q4K", "Q5K", "Q4K"]
    assert [kinds[f"layers.2.{name}"] for name in "qkvo"] == ["Q5K", "Q5K", "Q6K", "Q5K"]
    assert [kinds[f"layers.2.{name}"] for name in ("gate", "down", "up")] == ["Q5K", "Q6K", "Q5K"]


def test_mixed_in_other_rows():
    kinds = names_of(with_recipe(replace(NARROW, tied=True), "mixed"))
    assert "output" not in kinds
    assert kinds["embedding"] == "Q51"
    assert [kinds[f"layers.0.{name}"] for name in "qkvo"] == ["Q50", "Q50", "Q80", "Q50"]
    assert [kinds[f"layers.0.{name}"] for name in ("gate", "down", "up")] == ["Q50", "Q5K", "Q50"]


def test_keys_that_are_values_count_as_these():
    sizes = {"window": 8, "windowed": (0,), "keys_as_values": True}
    kinds = names_of(with_recipe(replace(WIDE, **sizes), "mixed"))
    assert [kinds[f"layers.{layer}.k"] for layer in (0, 1)] == ["Q4K", "Q6K"]


def test_short_per_layer_inputs_are_floats():
    for size, expected in ((24, "F16"), (64, "Q40")):
        kinds = names_of(with_recipe(replace(WIDE, layer_input_dim=size), "q40"))
        names = ("layer_embedding", "layers.0.layer_input_up")
        assert [kinds[name] for name in names] == [expected] * 2
        assert kinds["layer_inputs"] == kinds["layers.0.layer_input_gate"] == "Q40"


def test_routers_stay_f32():
    spec = replace(WIDE, n_experts=4, n_active_experts=2)
    for weights in WEIGHTS:
        assert names_of(with_recipe(spec, weights))["layers.1.router"] == "F32"
    kinds = names_of(with_recipe(spec, "mixed"))
    assert (kinds["layers.0.experts.gate"], kinds["layers.0.experts.down"]) == ("Q4K", "Q5K")


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("spec", [WIDE, NARROW, SPEC], ids=["wide", "narrow", "small"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_recipe_fits_the_model(weights, spec, tied):
    made = with_recipe(replace(spec, tied=tied), weights)
    write_header(made)
    write_header(with_output(made, WeightType.Q6K))
    if weights in ("f32", "f16", "q40", "q80"):
        assert made == replace(spec, tied=tied, weight_type=WeightType[weights.upper()])


def test_whose_importance_a_tensor_has():
    importance = {
        "output": np.array([0, 1000, 2000], np.float32),
        "layers.0.experts.gate": np.ones(3, np.float32),
    }
    tied = columns_of(importance, replace(WIDE, tied=True), "embedding")
    np.testing.assert_array_equal(tied, columns_of(importance, WIDE, "output"))
    np.testing.assert_allclose(tied, [1, 1001, 2001])
    assert columns_of(importance, WIDE, "embedding") is None
    assert columns_of(importance, WIDE, "layers.0.experts.1.gate") is not None
    assert columns_of(importance, WIDE, "layers.1.experts.1.gate") is None
