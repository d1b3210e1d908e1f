"""Configs of multi-head latent attention: what they say, and what they cannot."""

from __future__ import annotations

import json
import math
import shutil
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dllama.converter import convert
from dllama.converter.convert import read_spec
from dllama.errors import DllamaError
from dllama.model.file import ModelFile
from dllama.model.spec import RopeType
from dllama.model.weight_types import WeightType

NAMES = ("deepseek_v2", "deepseek_v3")
COMMON = {
    "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1,
    "hidden_act": "silu", "initializer_range": 0.02, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1,
    "pretraining_tp": 1, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-6,
    "rope_theta": 10000, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1", "use_cache": True, "v_head_dim": 128,
    "aux_loss_alpha": 0.001, "seq_aux": True,
}  # fmt: skip
YARN = {
    "beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096,
    "type": "yarn",
}  # fmt: skip
# Fields as in published files.
LITE = {
    **COMMON, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config",
                 "AutoModel": "modeling_deepseek.DeepseekV2Model",
                 "AutoModelForCausalLM": "modeling_deepseek.DeepseekV2ForCausalLM"},
    "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944,
    "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2,
    "norm_topk_prob": False, "num_attention_heads": 16, "num_experts_per_tok": 6,
    "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": None,
    "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    "routed_scaling_factor": 1.0, "scoring_func": "softmax", "topk_method": "greedy",
    "vocab_size": 102400,
}  # fmt: skip
V3 = {
    **COMMON, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "auto_map": {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"}, "ep_size": 1,
    "first_k_dense_replace": 3, "hidden_size": 7168, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
    "norm_topk_prob": True, "num_attention_heads": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536, "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_group": 4,
    "topk_method": "noaux_tc", "vocab_size": 129280,
}  # fmt: skip


def spec_of(config):
    return read_spec(config, WeightType.F32, "config.json")[1]


def test_published_configs():
    lite, large = spec_of(LITE), spec_of(V3)
    for spec in (lite, large):
        assert (spec.head_dim, spec.rope_dim, spec.value_dim) == (192, 64, 128)
        assert (spec.kv_latent_dim, spec.n_kv_heads, spec.rope_factor) == (512, 1, 1.0)
    assert (lite.q_latent_dim, large.q_latent_dim) == (0, 1536)
    for spec, mscale in ((lite, 0.707), (large, 1.0)):
        factor = 0.1 * mscale * math.log(40) + 1
        assert spec.attention_scale == pytest.approx(factor**2 / math.sqrt(192))
    assert (lite.shared_hidden_dim, large.shared_hidden_dim) == (2816, 2048)
    assert (lite.router_sigmoid, lite.topk_normalised, lite.expert_groups) == (False, False, 0)
    assert (large.expert_groups, large.expert_groups_taken, large.expert_group_best) == (8, 4, 2)
    grouped = spec_of(
        {**LITE, "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3}
    )
    assert (grouped.expert_groups, grouped.expert_groups_taken) == (8, 3)
    assert grouped.expert_group_best == 1


def test_without_yarn_and_with_halves():
    spec = spec_of({**V3, "rope_scaling": None, "rope_interleave": False})
    assert (spec.attention_scale, spec.rope_type) == (0.0, RopeType.FALCON)
    assert spec_of(V3).rope_type is RopeType.LLAMA


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 192}, "head_dim is 192, expected 64"),
        ({"qk_head_dim": 128}, "qk_head_dim is 128, expected 192"),
        ({"num_key_value_heads": 8}, "num_key_value_heads is 8, expected 128"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"moe_layer_freq": 2}, "moe_layer_freq 2 is not supported"),
        ({"kv_lora_rank": 0}, "kv_lora_rank is 0"),
        ({"kv_lora_rank": 544}, "kv_latent_dim and rope_dim is 544 and 64"),
        ({"q_lora_rank": 0}, "q_lora_rank is 0"),
        ({"scoring_func": "softmax"}, "scoring_func 'softmax' is not supported"),
        ({"topk_method": "greedy"}, "topk_method 'greedy' is not supported"),
        ({"auto_map": {"AutoModelForCausalLM": "m.M"}}, "auto_map names 'm.M'"),
        ({"auto_map": "m.M"}, "auto_map names 'm.M'"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(DllamaError, match=message):
        spec_of({**V3, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_topk_prob": True}, "norm_topk_prob True"),
        ({"topk_method": "noaux_tc"}, "topk_method 'noaux_tc' is not supported, only greedy"),
        ({"scoring_func": "sigmoid"}, "scoring_func 'sigmoid'"),
    ],
)
def test_refuses_of_deepseek_v2(changes, message):
    with pytest.raises(DllamaError, match=message):
        spec_of({**LITE, **changes})


@pytest.mark.parametrize("name", NAMES)
def test_matrices_of_heads(fixtures, tmp_path, name):
    """Whatever runs of rows they are written in: that of keys is transposed for each head."""
    with mock.patch("dllama.converter.convert.RUN", 1000):
        folder = convert(fixtures / name, tmp_path / "out", "f32", progress=False).output
    whole = load_file(fixtures / name / "model.safetensors")
    with ModelFile.open(folder / "model.m") as model:
        for layer in range(2):
            kv_b = whole[f"model.layers.{layer}.self_attn.kv_b_proj.weight"].astype(np.float32)
            heads = kv_b.reshape(4, 64, 32)
            for tensor, expected in (
                ("k_b", heads[:, :32].transpose(0, 2, 1).reshape(-1, 32)),
                ("v_b", heads[:, 32:].reshape(-1, 32)),
            ):
                rows = model.rows(f"layers.{layer}.{tensor}").view("<f4")
                np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v_head_dim": 16}, r"shape of .*kv_b_proj.* expected a matrix of 192 rows, 48 of each"),
        ({"kv_lora_rank": 64}, r"shape of .*kv_a_proj"),
        ({"q_lora_rank": None}, "q_proj.* is missing"),
    ],
)
def test_shapes_that_do_not_fit(fixtures, tmp_path, changes, message):
    source = shutil.copytree(fixtures / "deepseek_v3", tmp_path / "source")
    config = {**json.loads((source / "config.json").read_text()), **changes}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(DllamaError, match=message):
        convert(source, tmp_path / "out", progress=False)


def test_matrices_that_are_apart_already(fixtures, tmp_path):
    """As in GGUF files: those of keys are transposed for each head."""
    expected = convert(fixtures / "deepseek_v3", tmp_path / "a", progress=False).output
    source = shutil.copytree(fixtures / "deepseek_v3", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    for layer in range(2):
        at = f"model.layers.{layer}.self_attn"
        heads = tensors.pop(f"{at}.kv_b_proj.weight").reshape(4, 64, 32)
        keys = heads[:, :32].transpose(0, 2, 1).reshape(-1, 32)
        tensors[f"{at}.k_b_proj.weight"] = np.ascontiguousarray(keys)
        tensors[f"{at}.v_b_proj.weight"] = np.ascontiguousarray(heads[:, 32:]).reshape(-1, 32)
    save_file(tensors, source / "model.safetensors")
    found = convert(source, tmp_path / "b", progress=False).output
    assert (found / "model.m").read_bytes() == (expected / "model.m").read_bytes()
