"""Every field and every tensor of quantised folders counts: a change of one is noticed.

The conversion must refuse it, or write other matrices.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import quantisers
from quantisers import Typed

from dllama.converter import convert
from dllama.errors import DllamaError

Q = "model.layers.1.self_attn.v_proj"
CONFIGS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False,
             "checkpoint_format": "gptq", "pack_dtype": "int32"},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True,
            "version": "gemm"},
    "fp8": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 32]},
    "compressed-tensors": {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "quantization_status": "compressed", "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": {
                "num_bits": 4, "type": "int", "symmetric": False, "strategy": "group",
                "group_size": 32, "dynamic": False, "actorder": None}}}},
}  # fmt: skip
# Which modules are quantised follows from their tensors.
SILENT = {"targets"}
# The values that the methods' own programs take for fields that are absent.
DEFAULTS = {
    "actorder": None, "checkpoint_format": "gptq", "dynamic": False, "fmt": "e4m3",
    "pack_dtype": "int32", "quantization_status": "compressed", "version": "gemm",
    "zero_point": True,
}  # fmt: skip


def module_of(method):
    """How a method stores a weight."""

    def module(weight):
        matrix = quantisers.grouped(weight, 4, 32, False)
        if method == "gptq":
            order = np.random.default_rng(1).permutation(matrix.order)
            matrix = quantisers.grouped(weight, 4, 32, False, order)
            return quantisers.gptq(matrix, 4), weight
        if method == "awq":
            return quantisers.awq(matrix), weight
        if method == "fp8":
            rows, columns = (size // 32 for size in weight.shape)
            bits, _ = quantisers.e4m3(weight * 1000)
            scales = np.linspace(1e-3, 2e-3, rows * columns, dtype=np.float32)
            return {"weight": Typed(bits, "F8_E4M3"),
                    "weight_scale_inv": scales.reshape(rows, columns)}, weight  # fmt: skip
        return {
            "weight_packed": quantisers.words(matrix.numbers, 4),
            "weight_shape": np.array(weight.shape),
            "weight_scale": matrix.scales,
            "weight_zero_point": quantisers.words(matrix.zeros.T, 4).T,
        }, weight

    return module


class Folder:
    """A quantised folder and the model file that is made of it."""

    def __init__(self, method, fixtures, place):
        self.method, self._place = method, place
        self._source = place / "source"
        quantisers.write_folder(
            fixtures / "llama-gqa", self._source, CONFIGS[method], module_of(method)
        )
        self._tensors = self._source / "model.safetensors"
        self.tensors = quantisers.read_safetensors(self._tensors)
        self._config = json.loads((self._source / "config.json").read_text())
        self._expected = self._model()

    def _model(self):
        out = self._place / "out"
        convert(self._source, out, "f32", threads=1, progress=False)
        return (out / "model.m").read_bytes()

    def is_silent(self, config=None, tensors=None):
        """Whether a change gives the same model without an error."""
        quantisation = CONFIGS[self.method] if config is None else config
        changed = {**self._config, "quantization_config": quantisation}
        (self._source / "config.json").write_text(json.dumps(changed))
        quantisers.write_safetensors(self._tensors, tensors or self.tensors)
        try:
            return self._model() == self._expected
        except DllamaError:
            return False


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request, fixtures, tmp_path_factory):
    """A folder that the tests change."""
    return Folder(request.param, fixtures, tmp_path_factory.mktemp("mutations"))


def others(value):
    """Other values in place of one; None for none."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [2 * value, value + 1, None]
    if isinstance(value, list):
        return [[2 * part for part in value], None]
    return ["other", None]


def changed(config):
    """Yield each field, its new value, and the config with it, at any depth."""
    for key, value in config.items():
        if isinstance(value, dict):
            for inner, new, fields in changed(value):
                yield inner, new, {**config, key: fields}
        for new in others(value):
            yield key, new, {**config, key: new}


def test_every_field_counts(folder):
    silent = [
        (key, new)
        for key, new, config in changed(CONFIGS[folder.method])
        if key not in SILENT
        and not (new is None and key in DEFAULTS)
        and folder.is_silent(config=config)
    ]
    assert not silent, str(silent)


def test_every_field_that_is_added_counts(folder):
    config = CONFIGS[folder.method]
    added = [{"kv_cache_scheme": {"num_bits": 8}}, {"modules_to_not_convert": ["v_proj"]},
             {"unknown": 1}, {"transform_config": {"x": 1}}]  # fmt: skip
    assert [fields for fields in added if folder.is_silent(config={**config, **fields})] == []


def with_bits(tensor, bits):
    """A tensor with other contents."""
    return Typed(bits, tensor.dtype) if isinstance(tensor, Typed) else bits


def test_every_tensor_counts(folder):
    """Without it, with other contents, without its last row, and with another axis."""
    silent = []
    parts = [name for name in folder.tensors if name.startswith(f"{Q}.")]
    assert len(parts) >= 2
    for name in parts:
        tensor = folder.tensors[name]
        bits = tensor.bits if isinstance(tensor, Typed) else tensor
        for new in (None, bits[::-1].copy(), bits[:-1].copy(), bits[..., None]):
            given = {n: t for n, t in folder.tensors.items() if n != name}
            if new is not None:
                given[name] = with_bits(tensor, new)
            if folder.is_silent(tensors=given):
                silent.append((name, None if new is None else new.shape))
    assert not silent, str(silent)


def test_every_tensor_that_is_added_counts(folder):
    silent = []
    for part in ("qweight", "weight", "weight_scale", "g_idx", "weight_g_idx", "weight_scale_2",
                 "weight_global_scale", "bias", "channel_scale"):  # fmt: skip
        name = f"{Q}.{part}"
        if name not in folder.tensors and folder.is_silent(
            tensors={**folder.tensors, name: np.ones((128, 1), np.float32)}
        ):
            silent.append(name)
    assert not silent, str(silent)
