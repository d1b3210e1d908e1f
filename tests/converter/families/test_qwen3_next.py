"""Qwen3-Next is Qwen3.5-MoE with fused matrices, and other defaults."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import load_file, save_file

from dllama.converter import convert, families
from dllama.model.weight_types import WeightType


def spec_of(config):
    return families.of_config(config, "config.json").read_config(
        config, WeightType.F32, "config.json"
    )


def test_apart_from_fused_matrices_it_is_qwen3_5_moe(fixtures, tmp_path):
    source = fixtures / "qwen3_next"
    config = json.loads((source / "config.json").read_text())
    heads, size = config["linear_num_key_heads"], config["linear_key_head_dim"]
    values = config["linear_num_value_heads"] // heads
    tensors = load_file(source / "model.safetensors")
    for layer in (0, 2):
        at = f"model.layers.{layer}.linear_attn.in_proj_"
        qkvz, ba = (tensors.pop(f"{at}{name}.weight") for name in ("qkvz", "ba"))
        rows = {"q": [], "k": [], "v": [], "z": [], "b": [], "a": []}
        for of_head in np.split(qkvz, heads):
            ends = np.cumsum([size, size, values * config["linear_value_head_dim"]])
            for name, part in zip("qkvz", np.split(of_head, ends), strict=True):
                rows[name].append(part)
        for of_head in np.split(ba, heads):
            rows["b"].append(of_head[:values])
            rows["a"].append(of_head[values:])
        tensors[f"{at}qkv.weight"] = np.concatenate(rows["q"] + rows["k"] + rows["v"])
        for name in "zba":
            tensors[f"{at}{name}.weight"] = np.concatenate(rows[name])
    apart = tmp_path / "apart"
    apart.mkdir()
    save_file(tensors, apart / "model.safetensors")
    del config["decoder_sparse_step"]
    config |= {"model_type": "qwen3_5_moe_text", "architectures": ["Qwen3_5MoeForCausalLM"]}
    (apart / "config.json").write_text(json.dumps(config))
    files = [
        convert(folder, tmp_path / name, "f32", progress=False).output / "model.m"
        for name, folder in {"a": source, "b": apart}.items()
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_defaults_of_qwen3_next():
    spec = spec_of({"model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 8})
    assert spec.linear == (0, 1, 2, 4, 5, 6)
    sizes = spec.linear_key_heads, spec.linear_value_heads, spec.linear_key_dim
    assert (*sizes, spec.linear_value_dim, spec.linear_taps) == (16, 32, 128, 128, 4)
    assert (spec.n_experts, spec.n_active_experts, spec.topk_normalised) == (512, 10, True)
    widths = spec.hidden_dim, spec.moe_hidden_dim, spec.shared_hidden_dim
    assert (*widths, spec.vocab_size) == (5632, 512, 512, 151936)
    heads = spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.rope_dim
    assert (*heads, spec.rope_theta) == (16, 2, 256, 64, 10000)


def test_some_layers_may_have_no_experts(fixtures):
    config = json.loads((fixtures / "qwen3_next" / "config.json").read_text())
    assert spec_of(config).dense == ()
    assert spec_of({**config, "mlp_only_layers": [1]}).dense == (1,)
    assert spec_of({**config, "decoder_sparse_step": 2}).dense == (0, 2)
