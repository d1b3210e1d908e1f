"""Fields of config.json: read, harmless, or refused by their names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dllama.converter.convert import read_spec
from dllama.errors import FormatError, UnsupportedError
from dllama.model.weight_types import WeightType

FIXTURES = Path(__file__).parents[2] / "fixtures"
MODELS = (
    "llama-gqa", "llama-mha-odd", "llama31-tied", "mistral", "mixtral", "qwen2", "qwen3",
    "qwen3-moe", "glm4_moe",
)  # fmt: skip
# What published configs have beside the fields that describe the model.
BESIDE = {
    "_name_or_path": "owner/name", "attention_dropout": 0.1, "bos_token_id": 1,
    "eos_token_id": [2, 3], "initializer_range": 0.02, "pad_token_id": 0, "pretraining_tp": 2,
    "torch_dtype": "bfloat16", "transformers_version": "4.31.0.dev0", "use_cache": False,
    "unsloth_version": "2024.9", "max_sequence_length": 2048, "quantization_config": None,
    "transformers.js_config": {"dtype": "q4"}, "id2label": {"0": "LABEL_0"}, "temperature": 1.0,
}  # fmt: skip
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
    "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "hidden_act": "silu", "max_position_embeddings": 131072, "vocab_size": 128256,
}  # fmt: skip
QWEN = {
    **LLAMA, "max_window_layers": 28, "sliding_window": 32768, "use_sliding_window": False,
    "rope_theta": 1e6, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
GEMMA = {
    **LLAMA, "attention_bias": False, "cache_implementation": "hybrid", "head_dim": 256,
    "hidden_act": None, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
}  # fmt: skip
# Fields as in published files.
PUBLISHED = {
    "llama 1": {**LLAMA, "architectures": ["LLaMAForCausalLM"], "max_sequence_length": 2048,
                "pad_token_id": -1, "rms_norm_eps": 1e-6},
    "llama 3.2": {**LLAMA, "attention_bias": False, "head_dim": 64, "mlp_bias": False,
                  "num_key_value_heads": 8, "rope_theta": 5e5, "tie_word_embeddings": True,
                  "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0,
                                   "low_freq_factor": 1.0, "rope_type": "llama3",
                                   "original_max_position_embeddings": 8192}},
    "smollm2": {**LLAMA, "is_llama_config": True, "rope_interleaved": False, "rope_theta": 100000,
                "rope_scaling": None, "transformers.js_config": {"kv_cache_dtype": {}}},
    "falcon 3": {**LLAMA, "activation": "swiglu", "head_dim": 256, "rope_theta": 1000042},
    "mistral": {**LLAMA, "architectures": ["MistralForCausalLM"], "model_type": "mistral",
                "sliding_window": 4096, "attention_dropout": 0.0},
    "qwen2.5": {**QWEN, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
                "use_mrope": False, "attention_dropout": 0.0},
    "qwen3": {**QWEN, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
              "attention_bias": False, "head_dim": 128, "sliding_window": None},
    "qwen3-coder": {**QWEN, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
                    "decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": 768,
                    "norm_topk_prob": True, "num_experts": 128, "num_experts_per_tok": 8,
                    "output_router_logits": False, "qkv_bias": False, "use_qk_norm": True,
                    "router_aux_loss_coef": 0.0, "shared_expert_intermediate_size": 0,
                    "rope_scaling": None, "sliding_window": None},
    "qwen1.5-moe": {**QWEN, "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe",
                    "attention_dropout": 0.0, "decoder_sparse_step": 1, "norm_topk_prob": False,
                    "moe_intermediate_size": 1408, "num_experts": 60, "num_experts_per_tok": 4,
                    "output_router_logits": False, "router_aux_loss_coef": 0.001,
                    "shared_expert_intermediate_size": 5632},
    "glm 4.5": {**LLAMA, "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe",
                "attention_bias": True, "attention_dropout": 0.0, "first_k_dense_replace": 3,
                "head_dim": 128, "moe_intermediate_size": 1536, "n_group": 1, "topk_group": 1,
                "n_routed_experts": 160, "n_shared_experts": 1, "norm_topk_prob": True,
                "num_experts_per_tok": 8, "num_nextn_predict_layers": 1, "pad_token_id": 151329,
                "partial_rotary_factor": 0.5, "rope_scaling": None, "rope_theta": 1000000,
                "routed_scaling_factor": 2.5, "use_qk_norm": True},
    "gemma 2": {**GEMMA, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
                "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
                "hidden_act": "gelu_pytorch_tanh", "rope_theta": 10000.0, "sliding_window": 4096,
                "sliding_window_size": 4096},
    "gemma 3": {**GEMMA, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
                "attn_logit_softcapping": None, "final_logit_softcapping": None,
                "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000,
                "sliding_window": 512, "sliding_window_pattern": 6},
    "mixtral": {**LLAMA, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
                "num_experts_per_tok": 2, "num_local_experts": 8, "output_router_logits": False,
                "router_aux_loss_coef": 0.02, "router_jitter_noise": 0.0, "sliding_window": None},
}  # fmt: skip


def spec_of(config, *files):
    return read_spec(config, WeightType.F32, "config.json", files)[1]


@pytest.fixture(params=MODELS)
def config(request, fixtures):
    return json.loads((fixtures / request.param / "config.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_takes_what_published_configs_contain(name):
    assert spec_of(PUBLISHED[name]).n_layers == 16


def test_harmless_fields_change_nothing(config):
    assert spec_of({**BESIDE, **config, **BESIDE}) == spec_of(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("residual_multiplier", 0.22), ("final_logit_softcapping", 30.0), ("alibi", True),
        ("no_rope_layers", [1, 0]), ("rope_local_base_freq", 1e4), ("is_causal", False),
        ("use_rope", False), ("activation", "relu"), ("weight_bits", 1), ("logit_scale", 0.0625),
        ("text_config", {"hidden_size": 64}), ("shared_expert_intermediate_size", 64),
        ("is_encoder_decoder", True), ("vision_config", {"depth": 1}), ("rms_norm_epsilon", 1e-5),
    ],
)  # fmt: skip
def test_refuses_fields_that_it_does_not_know(config, key, value):
    with pytest.raises(UnsupportedError, match=rf"config\.json: {key} "):
        spec_of({**config, key: value})
    if value is not False:
        assert spec_of({**config, key: None}) == spec_of(config)


@pytest.mark.parametrize(
    "name",
    ["BitnetForCausalLM", "LlamaForSequenceClassification", "LlamaModel", "LlavaForCausalLM",
     "Grok1ModelForCausalLM", "Qwen2ForRewardModel"],
)  # fmt: skip
def test_refuses_other_architectures(config, name):
    with pytest.raises(UnsupportedError, match=f"architecture '{name}'"):
        spec_of({**config, "architectures": [name]})


def test_architectures_may_be_absent_but_not_broken(config):
    for absent in (None, []):
        assert spec_of({**config, "architectures": absent}) == spec_of(config)
    for broken in ("LlamaForCausalLM", [7], {"a": 1}):
        with pytest.raises(FormatError, match="architectures is"):
            spec_of({**config, "architectures": broken})


def test_refuses_models_with_code_of_their_own(config):
    for auto_map in ({"AutoConfig": "c.C"}, {"AutoModelForSequenceClassification": "m.M"}):
        assert spec_of({**config, "auto_map": auto_map}) == spec_of(config)
    with pytest.raises(UnsupportedError, match=r"auto_map names 'm\.M'"):
        spec_of({**config, "auto_map": {"AutoModelForCausalLM": "m.M"}})


def test_gemma_says_its_window_twice():
    with pytest.raises(FormatError, match="sliding_window_size is 100, expected 4096 as well"):
        spec_of({**PUBLISHED["gemma 2"], "sliding_window_size": 100})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
         "scaled RoPE in layers with a window is not supported"),
        ({"rope_parameters": {"sliding_attention": {"rope_theta": 5.0}}},
         "rope_local_base_freq is 10000, expected 5 as in rope_parameters"),
        ({"_sliding_window_pattern": 5}, "_sliding_window_pattern is 5, expected 6 as in slid"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention True is not supp"),
        ({"final_logit_softcapping": -1}, "final_logit_softcapping is -1, expected a positive"),
    ],
)  # fmt: skip
def test_what_gemma_3_cannot_be(changes, error):
    with pytest.raises((FormatError, UnsupportedError), match=error):
        spec_of({**PUBLISHED["gemma 3"], **changes})


def test_gemma_3_has_two_kinds_of_layers():
    spec = spec_of(PUBLISHED["gemma 3"])
    assert spec.windowed == tuple(layer for layer in range(16) if layer not in (5, 11))
    ropes = [spec.layer(layer).attention.rope.frequencies[1] for layer in (0, 5)]
    assert ropes == [1e4 ** (-2 / 256), 1e6 ** (-2 / 256)]
    assert spec.layer(0).attention.window == 512


@pytest.mark.parametrize("kinds", [["full_attention"], "full_attention", 3 * ["full_attention"]])
def test_layer_types_must_fit(config, kinds):
    with pytest.raises(FormatError, match="layer_types is"):
        spec_of({**config, "layer_types": kinds})


def test_refuses_other_types_of_layers(config):
    kinds = ["full_attention", "chunked_attention"]
    with pytest.raises(UnsupportedError, match="layer_types has 'chunked_attention'"):
        spec_of({**config, "layer_types": kinds})
    kinds = ["full_attention", "sliding_attention"]
    with pytest.raises(UnsupportedError, match="sliding_attention, but no window"):
        spec_of({**config, "layer_types": kinds})


def test_a_window_of_none_or_0_is_none(config):
    for window in (None, 0):
        assert spec_of({**config, "sliding_window": window}) == spec_of(config)


def test_every_layer_of_a_mistral_has_the_window(fixtures):
    """transformers reads neither layer_types nor use_sliding_window in this family."""
    config = json.loads((fixtures / "mistral" / "config.json").read_text())
    config |= {"sliding_window": 100, "layer_types": 2 * ["full_attention"]}
    spec = spec_of({**config, "use_sliding_window": False})
    assert (spec.window, spec.windowed) == (100, (0, 1))


@pytest.mark.parametrize(
    ("model_type", "changes", "windowed"),
    [
        ("ministral", {}, (0, 1)),
        ("ministral", {"layer_types": ["full_attention", "sliding_attention"]}, (1,)),
        ("ministral", {"layer_types": 2 * ["full_attention"]}, ()),
        ("qwen2", {}, ()),
        ("qwen2", {"use_sliding_window": True}, ()),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}, (0, 1)),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 1}, (1,)),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 2}, ()),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1,
                   "layer_types": ["sliding_attention", "full_attention"]}, (0,)),
        ("smollm3", {"use_sliding_window": True, "no_rope_layers": [1, 0]}, (1,)),
    ],
)  # fmt: skip
def test_which_layers_have_the_window(fixtures, model_type, changes, windowed):
    config = json.loads((fixtures / "mistral" / "config.json").read_text())
    config |= {"model_type": model_type, "architectures": [], "sliding_window": 100}
    spec = spec_of({**config, **changes})
    assert spec.windowed == windowed
    assert spec.window == (100 if windowed else 0)


def test_two_numbers_of_experts_must_be_the_same(fixtures):
    config = json.loads((fixtures / "mixtral" / "config.json").read_text())
    assert spec_of({**config, "num_experts": 4}) == spec_of(config)
    with pytest.raises(FormatError, match="num_local_experts is 4, expected 8"):
        spec_of({**config, "num_experts": 8})


DIALECTS = sorted(path.parent.name for path in FIXTURES.glob("*/config.v4.json"))


@pytest.mark.parametrize("name", DIALECTS)
def test_the_config_of_older_versions_says_the_same(name):
    """transformers 4 has rope_theta outside of rope_parameters, and no layer_types."""
    both = [json.loads((FIXTURES / name / f"config{old}.json").read_text()) for old in ("", ".v4")]
    for config in both:
        config.pop("quantization_config", None)  # it needs the files beside it
    assert both[0] != both[1]
    assert spec_of(both[0]) == spec_of(both[1])
