"""SmolLM3: which layers have no RoPE."""

from __future__ import annotations

import json

import pytest

from dllama.converter.families import smollm3
from dllama.errors import FormatError
from dllama.model.weight_types import WeightType


@pytest.fixture
def read(fixtures):
    """Reads the config of the fixture with some changes; None removes a field."""
    config = json.loads((fixtures / "smollm3" / "config.json").read_text())

    def read(**changes):
        given = {k: v for k, v in {**config, **changes}.items() if v is not None}
        return smollm3.read_config(given, WeightType.F32, "config.json").no_rope

    return read


def test_layers_without_rope(read):
    assert read() == (2,)
    assert read(no_rope_layers=[0, 1, 0]) == (0, 2)
    assert read(no_rope_layers=None) == ()
    assert read(no_rope_layers=None, layer_types=None, num_hidden_layers=9) == (3, 7)
    given = {"no_rope_layers": None, "layer_types": None, "no_rope_layer_interval": 2}
    assert read(**given) == (1,)


@pytest.mark.parametrize("wrong", [[1, 1], [1, 1, 2], [1, 1, "0"], "110", [True, 1, 0.0]])
def test_a_list_that_is_none(read, wrong):
    with pytest.raises(FormatError, match=r"no_rope_layers is .*, expected 3 times 0 or 1"):
        read(no_rope_layers=wrong)
