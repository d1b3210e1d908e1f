"""EXAONE 4: which layers have a window, and which have RoPE."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dllama.converter.families import exaone4
from dllama.errors import FormatError, UnsupportedError
from dllama.model.weight_types import WeightType


@pytest.fixture
def read(fixtures):
    """A function that reads the config of the fixture, with changes and eight layers."""

    def with_changes(**changes):
        config = json.loads((fixtures / "exaone4" / "config.json").read_text())
        config |= {"num_hidden_layers": 8, "layer_types": None} | changes
        return exaone4.read_config(config, WeightType.F32, "config.json")

    return with_changes


@pytest.mark.parametrize(
    ("pattern", "full"),
    [
        ("LLLG", (3, 7)),
        ("LG", (1, 3, 5, 7)),
        ("LLLLLG", (5,)),
        (3, (2, 5)),
        (1, tuple(range(8))),
        (None, (3, 7)),
    ],
)
def test_patterns(read, pattern, full):
    spec = read(sliding_window_pattern=pattern)
    windowed = tuple(layer for layer in range(8) if layer not in full)
    assert (spec.windowed, spec.no_rope) == (windowed, full)
    assert spec.window == (12 if windowed else 0)


def test_layer_types_decide(read):
    kinds = ["full_attention"] * 2 + ["sliding_attention"] * 6
    assert read(sliding_window_pattern="LLLG", layer_types=kinds).no_rope == (0, 1)


def test_without_a_window_all_layers_have_rope(read):
    spec = read(sliding_window=None, sliding_window_pattern=None)
    assert (spec.window, spec.windowed, spec.no_rope) == (0, (), ())


def test_a_window_of_all_positions_is_none(read):
    """But the layers that are named as those without one have no RoPE."""
    spec = read(sliding_window=256, sliding_window_pattern=4)
    assert (spec.window, spec.no_rope) == (0, (3, 7))


@pytest.mark.parametrize("pattern", ["", "LX", 0, 2.5, ["L"]])
def test_patterns_that_are_refused(read, pattern):
    with pytest.raises(FormatError, match=r"sliding_window_pattern is .*letters L and G"):
        read(sliding_window_pattern=pattern)
    with pytest.raises(UnsupportedError, match="attention_bias True"):
        read(attention_bias=True)


def test_frequencies_of_llama3(read):
    """RoPE rotates halves, so the scaled frequencies themselves are in the file."""
    scaling = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    plain, scaled = read(), read(rope_parameters={"rope_theta": 1e6, **scaling})
    assert np.isclose(plain.frequencies[-1] / scaled.frequencies[-1], 16.0)
    assert scaled.frequencies[0] == plain.frequencies[0]
