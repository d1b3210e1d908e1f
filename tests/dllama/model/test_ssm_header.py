"""Headers of models with Mamba-2 say the whole spec. What contradicts itself is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_spec import SPEC, SSM

from dllama.errors import FormatError
from dllama.model.header import read_header, write_header
from dllama.model.tensors import tensors
from dllama.model.weight_types import WeightType

PLAIN = {**SSM, "ssm_norm_first": False, "ssm_bias": False, "ssm_most_step": 0.0}


@pytest.mark.parametrize("changes", [SSM, PLAIN, {**PLAIN, "ssm_norm": False}])
def test_header_says_the_whole_spec(changes):
    spec = replace(SPEC, weight_type=WeightType.F32, **changes)
    data = write_header(spec)
    assert read_header(data, "x") == (spec, len(data))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"linear": (1,)}, "linear is .* expected all 2 layers"),
        ({"linear": ()}, "linear_key_heads"),
        ({"ssm": False}, "ssm_norm"),
        ({"ssm_norm": False}, "ssm_norm_first"),
        ({"ssm_least_step": 0.75}, "ssm_most_step is 0.5, expected at least ssm_least_step, 0.75"),
        ({"linear_value_heads": 3}, "linear_value_heads"),
        ({"linear_value_dim": 17, "weight_type": WeightType.Q40}, "linear values"),
    ],
)
def test_contradictions_are_refused(changes, field):
    with pytest.raises(FormatError, match=field):
        write_header(replace(SPEC, **{"weight_type": WeightType.F32, **SSM, **changes}))


def test_both_kinds_of_attention_have_tensors():
    spec = replace(SPEC, n_layers=1, **{**SSM, "linear": (0,)})
    shapes = {tensor.name.removeprefix("layers.0."): tensor.shape for tensor in tensors(spec)}
    linear = ["linear_q", "linear_q_bias", "linear_k", "linear_k_bias", "linear_v"]
    linear += ["linear_v_bias", "linear_z", "linear_z_bias", "decay", "decay_bias", "linear_o"]
    linear += ["linear_o_bias", "conv", "conv_bias", "a_log", "dt_bias", "skip", "linear_norm"]
    assert [*shapes][1:24] == ["q", "k", "v", "o", *linear, "gate"]
    assert shapes["conv"] == (4 * (2 * 16 + 64),)
    assert shapes["linear_norm"] == (64,)
