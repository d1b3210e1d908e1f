"""Configs of shared experts and routers: what they say, and what they cannot."""

from __future__ import annotations

import json
import shutil

import pytest

from dllama.converter import convert
from dllama.converter.families import glm4_moe
from dllama.errors import DllamaError
from dllama.model.spec import QKNorm
from dllama.model.weight_types import WeightType


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_group": 3}, "n_group is 3, expected a divisor of 8 experts"),
        ({"topk_group": 5}, "topk_group is 5, expected up to 4 groups"),
        ({"topk_group": 1, "num_experts_per_tok": 3}, "topk_group is 1, .* at least 3 experts"),
        ({"first_k_dense_replace": 2}, "first_k_dense_replace is 2, expected 0 to 1"),
        ({"first_k_dense_replace": True}, "first_k_dense_replace is True"),
        ({"n_routed_experts": None}, "n_routed_experts is None"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9, expected at most 8"),
        ({"n_shared_experts": 2}, r"shape of .*shared_experts\.gate_proj"),
        ({"num_nextn_predict_layers": 0}, r"1 tensor is not used .*layers\.2\.eh_proj"),
    ],
)
def test_routers_that_cannot_be(fixtures, tmp_path, changes, message):
    source = shutil.copytree(fixtures / "glm4_moe", tmp_path / "source")
    config = {**json.loads((source / "config.json").read_text()), **changes}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(DllamaError, match=message):
        convert(source, tmp_path / "out", progress=False)


def test_says_that_layers_are_left_out(fixtures, tmp_path, caplog):
    convert(fixtures / "glm4_moe", tmp_path / "out", progress=False)
    assert "layers that predict further tokens are left out" in caplog.text


def test_glm_without_norms_of_heads_or_biases(fixtures):
    config = json.loads((fixtures / "glm4_moe" / "config.json").read_text())
    config |= {"use_qk_norm": None, "attention_bias": False, "n_group": 1, "topk_group": 1}
    spec = glm4_moe.read_config(config, WeightType.Q40, "config.json")
    assert (spec.qk_norm, spec.qkv_bias, spec.o_bias) == (QKNorm.NONE, False, False)
    assert (spec.expert_groups, spec.rope_dim, spec.dense) == (0, 16, (0,))
