"""What a config.json and the names of tensors say about quantised weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import quantisers
from safetensors.numpy import load_file, save_file

from dllama.converter import convert
from dllama.converter.sources.huggingface import HuggingFaceFolder
from dllama.converter.sources.quantised import read_scheme
from dllama.errors import DllamaError, FormatError, UnsupportedError

FILES = ("model.safetensors",)
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
Q = "model.layers.1.self_attn.q_proj"


# As in published files.
PUBLISHED = {
    "Qwen2.5 GPTQ": {
        "batch_size": 1, "bits": 4, "block_name_to_quantize": None, "cache_block_outputs": True,
        "damp_percent": 0.01, "dataset": None, "desc_act": False, "exllama_config": {"version": 1},
        "group_size": 128, "max_input_length": None, "model_seqlen": None,
        "module_name_preceding_first_block": None, "modules_in_block_to_quantize": None,
        "pad_token_id": None, "quant_method": "gptq", "sym": True, "tokenizer": None,
        "true_sequential": True, "use_cuda_fp16": False, "use_exllama": True,
    },
    "AutoGPTQ": {
        "bits": 4, "damp_percent": 0.1, "desc_act": True, "group_size": 128, "sym": True,
        "model_file_base_name": "model", "model_name_or_path": None, "quant_method": "gptq",
        "true_sequential": True, "checkpoint_format": "gptq", "static_groups": False,
    },
    "GPTQModel": {
        "bits": 4, "checkpoint_format": "gptq", "desc_act": False, "dynamic": None,
        "group_size": 128, "lm_head": False, "meta": {"damp_percent": 0.05, "mse": 0.0},
        "pack_dtype": "int32", "quant_method": "gptq", "sym": True,
    },
    "Qwen2.5 AWQ": {
        "bits": 4, "group_size": 128, "modules_to_not_convert": None, "quant_method": "awq",
        "version": "gemm", "zero_point": True,
    },
    "Qwen3 FP8": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "AutoFP8": {"activation_scheme": "static", "ignored_layers": ["lm_head"],
                "quant_method": "fp8"},
    "llm-compressor": {
        "config_groups": {"group_0": {
            "format": "float-quantized", "output_activations": None, "targets": ["Linear"],
            "input_activations": {"dynamic": True, "num_bits": 8, "strategy": "token"},
            "weights": {"actorder": None, "block_structure": None, "dynamic": False,
                        "group_size": None, "num_bits": 8, "observer": "minmax",
                        "observer_kwargs": {}, "scale_dtype": None, "strategy": "channel",
                        "symmetric": True, "type": "float", "zp_dtype": None}}},
        "format": "float-quantized", "global_compression_ratio": 1.2, "ignore": ["lm_head"],
        "kv_cache_scheme": None, "moe_sparsity_config": None, "version": "0.12.0",
        "quant_method": "compressed-tensors", "quantization_status": "compressed",
        "sparsity_config": {}, "transform_config": {},
    },
}  # fmt: skip


@pytest.fixture
def folder(fixtures, tmp_path):
    """A folder with GPTQ weights."""

    def module(weight):
        matrix = quantisers.grouped(weight, 4, 32, False)
        return quantisers.gptq(matrix, 4), matrix.decoded()

    target = tmp_path / "source"
    quantisers.write_folder(fixtures / "llama-gqa", target, {**GPTQ, "sym": False}, module)
    return target


def scheme_of(config, *files):
    return read_scheme(config, files, "config.json")


def test_there_is_none():
    for config in ({}, {"quantization_config": None}, {"quantization_config": {}}):
        assert scheme_of(config) is None


@pytest.mark.parametrize("name", PUBLISHED)
def test_takes_what_published_configs_contain(name):
    scheme = scheme_of({"quantization_config": PUBLISHED[name]}, *FILES)
    assert scheme.weights == (
        "mixed" if name in ("Qwen3 FP8", "AutoFP8", "llm-compressor") else None
    )


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("quantization_config", {"quant_method": "hqq", "bits": 4}, "'hqq'"),
        ("quantization_config", {"quant_method": "bitsandbytes"}, "'bitsandbytes'"),
        ("quantization_config", {"quant_method": "quark"}, "'quark'"),
        ("quantization_config", {"quant_method": ["gptq"]}, r"\['gptq'\]"),
        ("quantization_config", {"quant_method": "bitnet", "quantization_mode": "online"},
         "'bitnet'"),
        ("quantization_config", {"load_in_8bit": True}, "load_in_8bit"),
        ("quantization_config", "gptq", "'gptq'"),
        ("compression_config", {"format": "pack-quantized"}, "pack-quantized"),
        ("quantization", {"group_size": 64, "bits": 4}, "group_size"),
    ],
)  # fmt: skip
def test_refuses_methods_by_name(key, value, shown):
    with pytest.raises(UnsupportedError, match=f"json: {key} .*{shown}.* is not supported, only g"):
        scheme_of({key: value}, *FILES)


def test_refuses_two_fields():
    with pytest.raises(UnsupportedError, match="compression_config and quantization_config"):
        scheme_of({"quantization_config": GPTQ, "compression_config": GPTQ}, *FILES)
    with pytest.raises(UnsupportedError, match=r"quantization .* is not supported"):
        scheme_of({"quantization_config": GPTQ, "quantization": {"bits": 4}}, *FILES)


@pytest.mark.parametrize(
    "name", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"]
)
def test_refuses_other_files_that_describe_a_quantisation(name):
    for config in ({}, {"quantization_config": FP8}):
        with pytest.raises(UnsupportedError, match=name):
            scheme_of(config, name, *FILES)


def test_a_file_of_the_same_method_may_be_there():
    assert scheme_of({"quantization_config": GPTQ}, "quantize_config.json", *FILES)
    assert scheme_of({"quantization_config": AWQ}, "quant_config.json", *FILES)
    with pytest.raises(UnsupportedError, match=r"quant_config\.json beside it"):
        scheme_of({"quantization_config": GPTQ}, "quant_config.json", *FILES)


def test_tensors_must_be_in_safetensors():
    assert scheme_of({"quantization_config": FP8}, "model.safetensors.index.json")
    with pytest.raises(UnsupportedError, match=r"there is no model\.safetensors or"):
        scheme_of({"quantization_config": FP8}, "pytorch_model.bin")


@pytest.mark.parametrize("method", [GPTQ, AWQ, FP8])
def test_refuses_weights_that_are_not_quantised(fixtures, tmp_path, method):
    source = tmp_path / "source"
    quantisers.write_folder(
        fixtures / "llama-gqa", source, method, lambda weight: ({"weight": weight}, weight)
    )
    with pytest.raises(UnsupportedError, match="no tensor is quantised in this way"):
        convert(source, tmp_path / "out", progress=False)


def test_modules_may_stay_floats(folder, fixtures, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: t for name, t in tensors.items() if not name.startswith(f"{Q}.")}
    plain = load_file(fixtures / "llama-gqa" / "model.safetensors")
    save_file(tensors | {f"{Q}.weight": plain[f"{Q}.weight"]}, folder / "model.safetensors")
    spec = convert(folder, tmp_path / "out", progress=False).spec
    types = dict(spec.tensor_types)
    assert spec.weight_type.name == "Q50"
    assert types["layers.1.q"].name == plain[f"{Q}.weight"].dtype.name.replace("float", "F")


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_names_an_absent_file(folder, tmp_path, part):
    """The error names the file of the index that is not there."""
    tensors = load_file(folder / "model.safetensors")
    gone = tensors.pop(f"{Q}.{part}")
    assert gone.size
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model-00001-of-00002.safetensors")
    places = dict.fromkeys(tensors, "model-00001-of-00002.safetensors")
    index = {"weight_map": places | {f"{Q}.{part}": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DllamaError, match=rf"model-00002-of-00002\.safetensors.*{Q}\.{part}"):
        convert(folder, tmp_path / "out", progress=False)


def test_a_matrix_can_be_divided(folder):
    matrix = HuggingFaceFolder(folder).tensors[f"{Q}.weight"]
    whole = matrix.rows(0, 128)
    parts = [matrix.part(i, 4) for i in range(4)]
    np.testing.assert_array_equal(np.concatenate([p.rows(0, 32) for p in parts]), whole)
    np.testing.assert_array_equal(parts[3].part(1, 2).rows(3, 5), whole[115:120])
    assert sum(part.nbytes for part in parts) == matrix.nbytes > 128 * 128 // 2
    with pytest.raises(FormatError, match="equal parts"):
        matrix.part(0, 3)


def test_nothing_else_is_taken_for_a_part(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, f"{Q}.scales.more": np.ones(3, np.float32)},
              folder / "model.safetensors")  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"1 tensor is not used .*scales\.more"):
        convert(folder, tmp_path / "out", progress=False)
