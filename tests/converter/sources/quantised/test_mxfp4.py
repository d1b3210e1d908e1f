"""MXFP4 folders, as gpt-oss is published."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from oracle.huggingface import read_safetensors
from safetensors.numpy import save_file

from dllama.converter import convert
from dllama.errors import FormatError, UnsupportedError
from dllama.model.file import ModelFile
from dllama.model.stored_model import decode
from dllama.model.weight_types import WeightType

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
VALUES = np.concatenate([FP4, -FP4])


@pytest.fixture
def folder(fixtures, tmp_path):
    return shutil.copytree(fixtures / "gpt-oss-mxfp4", tmp_path / "source")


def dequantised(tensors, name):
    """The numbers of a tensor, (experts, rows, columns), by the definition of the format."""
    blocks, scales = tensors[name + "_blocks"], tensors[name + "_scales"]
    numbers = np.stack([VALUES[blocks & 15], VALUES[blocks >> 4]], axis=-1)
    numbers = numbers.reshape(*blocks.shape[:-1], 32)
    exact = numbers * np.exp2(scales.astype(np.float32) - 127)[..., None]
    return exact.reshape(*blocks.shape[:2], -1)


def read(file, name):
    """The numbers of a matrix of a model file."""
    info = file.tensors[name]
    return decode(file.raw(name), info.weight_type, info.shape)


def raw_tensors(folder):
    """All tensors but those of bfloat16, which NumPy does not have."""
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    body = data[8 + size :]
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], np.uint8).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] == "U8"
    }


def test_experts_keep_their_numbers(folder, tmp_path):
    report = convert(folder, tmp_path / "out", progress=False)
    assert not [one for one in report.warnings if "accuracy" in one]
    tensors = raw_tensors(folder)
    with ModelFile.open(report.output / "model.m") as file:
        spec = file.spec
        assert spec.type_of("layers.0.experts.0.gate") is WeightType.MXFP4
        assert spec.type_of("layers.0.q") is WeightType.Q80
        assert spec.type_of("embedding") is WeightType.BF16
        for layer in range(spec.n_layers):
            mlp = f"model.layers.{layer}.mlp.experts."
            both, down = (dequantised(tensors, mlp + n) for n in ("gate_up_proj", "down_proj"))
            for expert in range(spec.n_experts):
                at = f"layers.{layer}.experts.{expert}."
                np.testing.assert_array_equal(read(file, at + "gate"), both[expert, 0::2])
                np.testing.assert_array_equal(read(file, at + "up"), both[expert, 1::2])
                np.testing.assert_array_equal(read(file, at + "down"), down[expert])


def test_other_types_lose_accuracy(folder, tmp_path):
    report = convert(folder, tmp_path / "out", "q40", progress=False)
    assert any("lose accuracy from mxfp4 to q40" in one for one in report.warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, n: t.pop(n + "_scales"), "down_proj_scales is missing, expected it beside"),
        (lambda t, n: t.update({n + "_scales": t[n + "_scales"][:, :-1]}),
         r"shape of .*down_proj_scales is \(4, 63, 3\), expected \(4, 64, 3\)"),
        (lambda t, n: t.update({n + "_blocks": t[n + "_blocks"].reshape(4, 64, 48)}),
         r"shape of .*down_proj_blocks is \(4, 64, 48\), expected \(experts, rows, blocks, 16\)"),
        (lambda t, n: t.update({n + "_blocks": t[n + "_blocks"].astype(np.int32)}),
         "type of .*down_proj_blocks is I32, expected U8"),
    ],
)  # fmt: skip
def test_broken_tensors_are_named(folder, tmp_path, change, message):
    name = "model.layers.0.mlp.experts.down_proj"
    path = folder / "model.safetensors"
    tensors = {**read_safetensors(path, ("BF16", "F16", "F32")), **raw_tensors(folder)}
    change(tensors, name)
    save_file({one: np.ascontiguousarray(tensor) for one, tensor in tensors.items()}, path)
    with pytest.raises(FormatError, match=message):
        convert(folder, tmp_path / "out", progress=False)


def test_other_settings_are_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["bits"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="bits"):
        convert(folder, tmp_path / "out", progress=False)


def test_a_folder_without_blocks_is_refused(fixtures, tmp_path):
    source = shutil.copytree(fixtures / "gpt-oss", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="no tensor is quantised in this way"):
        convert(source, tmp_path / "out", progress=False)
