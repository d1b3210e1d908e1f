"""Fields of a header that contradict each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_spec import SPEC

from dllama.errors import FormatError
from dllama.model.header_checks import check_spec
from dllama.model.spec import HiddenAct, QKNorm

CLAMPED = {"hidden_act": HiddenAct.CLAMPED, "act_limit": 7.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ffn_gated": False, **CLAMPED}, "hidden_act is clamped, expected another without a gate"),
        ({"parallel_residual": True, "pre_norms": False}, "parallel_residual is set, expected"),
        ({"layer_norms": True, "qk_norm": QKNorm.WIDTH}, "qk_norm is over all heads"),
    ],
)
def test_fields_that_contradict_each_other(changes, message):
    with pytest.raises(FormatError, match=message):
        check_spec(replace(SPEC, **changes), "m")
