"""Every field and every tensor of every fixture counts: a change of one is noticed.

Each is dropped or changed, and things are added that no fixture has. The conversion must refuse
that, or warn, or the model must give other logits.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
import pytest
from oracle import grok
from safetensors.numpy import load_file, save_file

import dllama
from dllama.converter import convert
from dllama.errors import DllamaError, UnsupportedError

MODELS = (
    "llama-gqa", "llama-mha-odd", "llama31-tied", "mistral", "mixtral", "qwen2", "qwen3",
    "qwen3-moe", "granite", "llama-linear",
    "smollm3", "mistral-window", "qwen2-window", "llama-bias", "llama-yarn", "olmo2", "glm4",
    "exaone4", "granitemoe", "qwen2_moe", "glm4_moe", "qwen3-moe-mix", "gemma2", "gemma3",
    "gemma4", "gemma4-moe", "phi3", "gpt-oss", "deepseek_v2", "deepseek_v3", "qwen3_5",
    "qwen3_5_moe", "qwen3_next", "starcoder2", "stablelm", "falcon-h1", "falcon-h1-norm", "grok",
)  # fmt: skip
# So many that every expert is used.
IDS = range(3, 90)
IDS_OF = {"glm4_moe": range(3, 120)}
DROPPED = object()
TYPES = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32", np.dtype(np.uint8): "U8"}

# Fields of the fixtures that say nothing about the logits.
SILENT = {
    "attention_dropout", "bos_token_id", "dtype", "eos_token_id", "initializer_range",
    "max_position_embeddings",  # only how many tokens the model takes
    "embd_pdrop", "output_router_logits", "pad_token_id", "pretraining_tp", "resid_pdrop",
    "router_aux_loss_coef", "router_jitter_noise", "transformers_version", "use_cache",
    "embedding_dropout", "hidden_dropout", "residual_dropout",
}  # fmt: skip
THETA = {"gpt-oss": 150000.0, "mixtral": 1e6, "smollm3": 2e6}
# These count only if use_sliding_window and sliding_window are both set.
WINDOW = {"max_window_layers", "sliding_window", "use_sliding_window"}
# Pairs are counted in whole numbers.
YARN = {"beta_fast", "beta_slow", "original_max_position_embeddings"}
# How it is computed, how many logits transformers returns, and a width that is given anyway.
HYBRID = {"mamba_chunk_size", "mamba_expand", "num_logits_to_keep"}
SILENT_IN = {"qwen2": WINDOW, "qwen3": WINDOW, "qwen3-moe": WINDOW | {"intermediate_size"},
             "qwen2_moe": WINDOW | {"intermediate_size"},  # all layers have experts
             "glm4_moe": {"num_nextn_predict_layers"},
             "deepseek_v2": YARN,
             "deepseek_v3": YARN | {"num_nextn_predict_layers"},
             "smollm3": WINDOW | {"no_rope_layer_interval"},
             "qwen2-window": {"max_window_layers"},
             # Three of four layers are dense anyway.
             "qwen3-moe-mix": WINDOW | {"decoder_sparse_step"},
             "exaone4": {"sliding_window_pattern"},  # layer_types says it
             "gemma3": {"attn_logit_softcapping", "sliding_window_pattern",
                        "_sliding_window_pattern"},
             # What says nothing about text, and the width of networks that are not there.
             "qwen3_5": {"mrope_interleaved", "mrope_section"},
             "qwen3_5_moe": {"mrope_interleaved", "mrope_section", "intermediate_size"},
             "qwen3_next": {"intermediate_size"},  # all layers have experts
             # Sizes of experts that there are not, and of per-layer inputs.
             "gemma4": {"moe_intermediate_size", "num_experts", "top_k_experts"},
             "gemma4-moe": {"use_double_wide_mlp", "vocab_size_per_layer_input"},
             "phi3": {"original_max_position_embeddings"},  # which it has twice
             "starcoder2": {"rms_norm_eps"}, "stablelm": {"rms_norm_eps"},  # another field has it
             # There is no norm, and no step is so long.
             "falcon-h1": HYBRID | {"mamba_norm_before_gate", "time_step_limit"},
             "falcon-h1-norm": HYBRID,
             "gpt-oss": {"beta_fast"},  # no pair turns so often in 32 positions
             # Pairs are counted in whole numbers.
             "llama-yarn": {"beta_fast", "original_max_position_embeddings"}}  # fmt: skip
# Values that transformers takes for a field that is absent or null, and xAI's code for Grok.
DEFAULTS = {
    "attention_bias": False, "decoder_sparse_step": 1, "hidden_act": "silu", "mlp_bias": False,
    "mlp_only_layers": [], "rms_norm_eps": 1e-6, "rope_type": "default", "sliding_window": None,
    "layer_types": ["full_attention", "full_attention"],
}  # fmt: skip
GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "num_key_value_heads": 4,
         "use_bidirectional_attention": None}  # fmt: skip
FALCON_H1 = {
    "mamba_conv_bias": True, "mamba_d_conv": 4, "mamba_d_head": 16, "mamba_n_groups": 1,
    "mamba_norm_before_gate": True, "mamba_proj_bias": False, "mamba_rms_norm": False,
    "projectors_bias": False, "rms_norm_eps": 1e-5,
}  # fmt: skip
GEMMA4 = GEMMA | {
    "attention_k_eq_v": False, "enable_moe_block": False, "num_kv_shared_layers": 0,
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional",
        },
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    },
}  # fmt: skip
DEFAULTS_OF = {
    "mixtral": {"rms_norm_eps": 1e-5, "head_dim": None},
    "granite": {"attention_multiplier": 1.0, "embedding_multiplier": 1.0, "logits_scaling": 1.0,
                "residual_multiplier": 1.0},
    "qwen2_moe": {"norm_topk_prob": False, "qkv_bias": True},
    "glm4_moe": {
        "first_k_dense_replace": 1, "n_shared_experts": 1, "norm_topk_prob": True,
        "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5,
    },
    "deepseek_v2": {
        "head_dim": 16, "norm_topk_prob": False, "num_key_value_heads": 4, "qk_head_dim": 48,
    },
    "deepseek_v3": {
        "head_dim": 16, "n_shared_experts": 1, "norm_topk_prob": True, "num_key_value_heads": 4,
        "qk_head_dim": 48, "rope_interleave": True, "routed_scaling_factor": 2.5,
    },
    "smollm3": {"layer_types": ["full_attention"] * 3},
    "qwen2-window": {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
    "qwen3-moe-mix": {"norm_topk_prob": False},
    "exaone4": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rms_norm_eps": 1e-5,
    },
    "gemma2": GEMMA | {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma3": GEMMA | {
        "final_logit_softcapping": None,
        "layer_types": [*2 * ["sliding_attention"], "full_attention", "sliding_attention"],
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
        "use_bidirectional_attention": False,
    },
    "gemma4": GEMMA4 | {"vocab_size_per_layer_input": 160},
    "gemma4-moe": GEMMA4,
    "phi3": {"rms_norm_eps": 1e-5},
    "starcoder2": {
        "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "num_key_value_heads": 2,
        "use_bias": True,
    },
    "stablelm": {
        "layer_norm_eps": 1e-5, "qk_layernorm": False, "use_parallel_residual": False,
    },
    "qwen3_5": {"linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.25},
    "qwen3_5_moe": {
        "linear_conv_kernel_dim": 4, "num_key_value_heads": 2, "partial_rotary_factor": 0.25,
    },
    "qwen3_next": {
        "linear_conv_kernel_dim": 4, "norm_topk_prob": True, "num_key_value_heads": 2,
        "partial_rotary_factor": 0.25,
    },
    "gpt-oss": {
        "attention_bias": True, "beta_fast": 32.0, "beta_slow": 1.0, "rms_norm_eps": 1e-5,
        "layer_types": ["sliding_attention", "full_attention"], "swiglu_alpha": 1.702,
    },
    "falcon-h1": FALCON_H1,
    "falcon-h1-norm": FALCON_H1,
    "glm4": {
        "partial_rotary_factor": 0.5,
        "rope_parameters": {
            "partial_rotary_factor": 0.5, "rope_theta": 1e4, "rope_type": "default",
        },
    },
    "grok": {
        "attn_output_multiplier": 0.08838834764831845, "output_multiplier_scale":
        0.5773502691896257, "embedding_multiplier_scale": 78.38367176906169,
        "max_attn_value": 30.0, "rms_norm_eps": 1e-5,
    },
}  # fmt: skip
# What no fixture has.
ADDED = {
    "attn_logit_softcapping": 50.0, "clip_qkv": 8.0, "embedding_multiplier": 12.0,
    "first_k_dense_replace": 1, "is_causal": False, "logits_scaling": 8.0, "n_shared_experts": 1,
    "no_rope_layers": [0, 1], "num_kv_shared_layers": 1, "partial_rotary_factor": 0.5,
    "quantization_config": {"quant_method": "fp8"}, "query_pre_attn_scalar": 24,
    "rope_interleaved": True, "rotary_pct": 0.25, "sliding_window_pattern": 2,
    "text_config": {"hidden_size": 64}, "use_parallel_residual": True,
    "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "rope_theta": 12345.0, "original_max_position_embeddings": 32,
    "auto_map": {"AutoModelForCausalLM": "modeling.Model"},
}  # fmt: skip
# Names of tensors beside a matrix, for what may come with it.
BESIDE = ("bias", "weight_scale", "lora_A.weight", "g_idx")


@pytest.fixture(scope="module", params=MODELS)
def model(request, fixtures, tmp_path_factory):
    """A fixture that the tests change, with the logits that it has as it is."""
    place = tmp_path_factory.mktemp("mutations")
    if request.param == "grok":
        source = grok.write_folder(place / "source", grok.tensors())
    else:
        source = shutil.copytree(fixtures / request.param, place / "source")
    ahead = {"glm4_moe": "model.layers.2.eh_proj.weight", "qwen3_5": "mtp.fc.weight"}
    ahead |= {"deepseek_v3": ahead["glm4_moe"], "qwen3_5_moe": ahead["qwen3_5"]}
    if request.param in ahead:
        tensors = load_file(source / "model.safetensors")
        del tensors[ahead[request.param]]  # it is left out, with a warning
        if request.param == "deepseek_v3":  # so that every expert is used
            tensors["model.layers.1.mlp.gate.e_score_correction_bias"] *= 0.1
        save_file(tensors, source / "model.safetensors")
    return Model(request.param, source, place / "out")


class Model:
    """A Hugging Face folder and the model folder that is made of it."""

    def __init__(self, name, source, output):
        self.name = name
        self._source, self._output = source, output
        self.config = json.loads((source / "config.json").read_text())
        self.tensors = load_file(source / "model.safetensors")
        self._there = self.config, self.tensors
        self.expected, self._warnings = self.result()

    def result(self, config=None, tensors=None):
        """Return the logits and the warnings of the conversion of what is given."""
        self._write(self.config if config is None else config, tensors or self.tensors)
        report = convert(self._source, self._output, "f32", threads=1, progress=False)
        with dllama.LLM(self._output, threads=1) as llm:
            return llm.eval(IDS_OF.get(self.name, IDS)), report.warnings

    def _write(self, config, tensors):
        """Write what differs from what the folder has."""
        if config is not self._there[0]:
            self._fresh("config.json").write_text(json.dumps(config))
        if tensors is not self._there[1]:
            write_tensors(tensors, self._fresh("model.safetensors"))
        self._there = config, tensors

    def _fresh(self, name):
        """A path with no file. ext4 waits for the disk if a file is cut to nothing instead."""
        path = self._source / name
        path.unlink()
        return path

    def is_silent(self, caplog, config=None, tensors=None):
        """Whether a change gives the same logits without an error or a warning."""
        caplog.clear()
        try:
            logits, warnings = self.result(config, tensors)
        except DllamaError:
            return False
        told = [r for r in caplog.records if r.name == "dllama.convert"]
        same = logits.shape == self.expected.shape and np.array_equal(logits, self.expected)
        return same and warnings == self._warnings and not told

    def refuses_all(self, added):
        """Whether each of the tensors is refused because nothing uses it."""
        try:
            self.result(tensors={**self.tensors, **added})
        except UnsupportedError as error:
            return f": {len(added)} tensors are not used by this model" in str(error)
        return False

    def is_default(self, key):
        """Whether a field that is dropped would have the same value."""
        c = self.config
        found = {
            **DEFAULTS,
            "architectures": c.get("architectures"),  # model_type says enough
            "head_dim": c["hidden_size"] // c["num_attention_heads"],
            "num_key_value_heads": c["num_attention_heads"],
            "rope_parameters": {"rope_theta": THETA.get(self.name, 1e4), "rope_type": "default"},
            "rope_theta": THETA.get(self.name, 1e4),
            "tie_word_embeddings": "lm_head.weight" not in self.tensors,
            **DEFAULTS_OF.get(self.name, {}),
        }
        ropes = c.get("rope_parameters", {})
        value = {**c, **ropes}
        for each in ropes.values():  # one of each kind of layers; theta is that of the last
            value |= each if isinstance(each, dict) else {}
        return key in found and found[key] == value[key]


def write_tensors(tensors, path):
    """Write a file as save_file does, which looks up the type of every tensor each time."""
    by_size = sorted(tensors.items(), key=lambda item: -item[1].itemsize)  # so all are aligned
    ends = [*accumulate(tensor.nbytes for _, tensor in by_size)]
    header = {
        name: {"dtype": TYPES[tensor.dtype], "shape": tensor.shape, "data_offsets": [begin, end]}
        for (name, tensor), begin, end in zip(by_size, [0, *ends], ends, strict=False)
    }
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.writelines([len(raw).to_bytes(8, "little"), raw, *(one for _, one in by_size)])


def others(value: object) -> Iterator[object]:
    """Other values in place of one."""
    yield DROPPED
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield value / 2 if isinstance(value, float) else value + 1
        if value:
            yield value * 2
    elif isinstance(value, str):
        yield "other"
    elif isinstance(value, list):
        yield from ([*value, "other"], ["other" for _ in value] or ["other"])
    elif value is None:
        yield from (3, "other")


def with_changes(config: dict) -> Iterator[tuple[str, object, dict]]:
    """The key, its new value, and the config, for every change of one value at any depth."""
    for key, value in config.items():
        if isinstance(value, dict):
            for inner, new, changed in with_changes(value):
                yield inner, new, {**config, key: changed}
        for new in others(value):
            changed = copy.deepcopy(config)
            if new is DROPPED:
                del changed[key]
            else:
                changed[key] = new
            yield key, new, changed


def test_every_field_of_a_config_counts(model, caplog):
    silent = [
        (key, "dropped" if new is DROPPED else new)
        for key, new, changed in with_changes(model.config)
        if key not in SILENT | SILENT_IN.get(model.name, set())
        and not (new is DROPPED and model.is_default(key))
        and model.is_silent(caplog, changed)
    ]
    assert not silent, str(silent)


def test_every_field_that_is_added_counts(model, caplog):
    there = {**model.config, **model.config.get("rope_parameters", {})}
    added = {key: value for key, value in ADDED.items() if key not in there}
    silent = [
        key for key, value in added.items() if model.is_silent(caplog, {**model.config, key: value})
    ]
    if model.name == "grok":
        silent.remove("auto_map")  # its family is that of the code
    assert not silent, str(silent)


def test_every_tensor_counts(model, caplog, rng):
    """Without it, with other numbers, without its last row, and with another axis."""
    silent = []
    for name, tensor in model.tensors.items():
        noisy = tensor + rng.uniform(0.5, 1, tensor.shape).astype(tensor.dtype)
        for changed in [None, noisy, tensor[:-1].copy(), tensor[..., None]]:
            given = {**model.tensors, name: changed}
            given = {key: value for key, value in given.items() if value is not None}
            if model.is_silent(caplog, tensors=given):
                silent.append(name)
    assert not silent, str(silent)


def test_every_tensor_that_is_added_counts(model, caplog):
    """Those of a kind are added at once. If not all are refused, each is added alone."""
    more = np.ones((4, 4), np.float32)
    silent = []
    for kind in BESIDE:
        names = {f"{name.removesuffix('.weight')}.{kind}" for name in model.tensors}
        added = dict.fromkeys(sorted(names - model.tensors.keys()), more)
        if model.refuses_all(added):
            continue
        silent += [
            name for name in added if model.is_silent(caplog, tensors={**model.tensors, name: more})
        ]
    assert not silent, str(silent)
