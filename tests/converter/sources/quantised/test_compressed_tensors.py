"""compressed-tensors: what its numbers become, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import quantisers
from quantised_checks import check_decoded, check_logits
from quantisers import Typed

from dllama.converter import convert
from dllama.errors import FormatError, UnsupportedError

Q = "model.layers.1.self_attn.q_proj"
WEIGHTS = {
    "actorder": None, "block_structure": None, "dynamic": False, "group_size": None, "num_bits": 4,
    "observer": "minmax", "observer_kwargs": {}, "strategy": "group", "symmetric": True,
    "type": "int",
}  # fmt: skip


def config(form, activations=None, **weights):
    """A quantization_config as the library writes it."""
    group = {"input_activations": activations, "output_activations": None, "targets": ["Linear"],
             "weights": {**WEIGHTS, **weights}}  # fmt: skip
    return {
        "config_groups": {"group_0": group}, "format": form, "global_compression_ratio": 1.8,
        "ignore": ["lm_head", "re:.*norm"], "kv_cache_scheme": None,
        "quant_method": "compressed-tensors", "quantization_status": "compressed",
        "sparsity_config": {"format": "dense", "ignore": []}, "transform_config": {},
        "version": "0.11.0",
    }  # fmt: skip


def tensors_of(matrix, bits, form, symmetric, ordered):
    """The tensors of a module, from numbers that are not signed."""
    half = 2 ** (bits - 1)
    signed = form == "int-quantized"
    found = {"weight_scale": matrix.scales}
    if signed:
        found["weight"] = (matrix.numbers - half).astype(np.int8)
    else:
        found["weight_packed"] = quantisers.words(matrix.numbers, bits)
        found["weight_shape"] = np.array(matrix.numbers.shape)
    if not symmetric and signed:
        found["weight_zero_point"] = (matrix.zeros - half).astype(np.int8)
    elif not symmetric:
        found["weight_zero_point"] = quantisers.words(matrix.zeros.T, bits).T
    return {**found, "weight_g_idx": matrix.order.astype(np.int32)} if ordered else found


@pytest.fixture
def write(fixtures, tmp_path):
    """Writes a folder with integers, and returns it with its decoded copy."""

    def write(form="pack-quantized", name="llama-gqa", bf16=False, order=None, **weights):
        bits, symmetric = weights.setdefault("num_bits", 4), weights.get("symmetric", True)
        group = weights.get("group_size") or 0

        def module(weight):
            columns = weight.shape[1]
            groups = np.arange(columns) // (group or columns)
            groups = groups if order is None else order(groups)
            dtype = np.float32 if bf16 else np.float16
            matrix = quantisers.grouped(weight, bits, 0, symmetric, groups, dtype)
            stored = quantisers.bf16(matrix.scales) if bf16 else matrix.scales
            matrix = matrix._replace(scales=quantisers.value_of(stored))
            tensors = tensors_of(matrix, bits, form, symmetric, order is not None)
            return {**tensors, "weight_scale": stored}, matrix.decoded()

        weights.setdefault("strategy", "group" if group else "channel")
        target = tmp_path / "source"
        described = config(form, **weights)
        return target, quantisers.write_folder(fixtures / name, target, described, module)

    return write


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("group", [32, 64, None])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_4_bits(write, tmp_path, bf16, group, symmetric):
    folders = write(bf16=bf16, group_size=group, symmetric=symmetric)
    check_decoded(*folders, tmp_path, "Q40" if symmetric else "Q50")


@pytest.mark.parametrize("form", ["pack-quantized", "int-quantized"])
@pytest.mark.parametrize("group", [64, None])
def test_8_bits(write, tmp_path, form, group):
    check_decoded(*write(form, num_bits=8, group_size=group, bf16=True), tmp_path, "Q80")


@pytest.mark.parametrize("name", ["qwen2", "qwen3-moe"])
def test_other_families(write, tmp_path, name):
    folders = write(name=name, group_size=64, symmetric=False, actorder="static")
    check_decoded(*folders, tmp_path, "Q50")


def test_zero_points_need_not_be_packed(write, tmp_path):
    folder, decoded = write(group_size=64, symmetric=False)
    path = folder / "model.safetensors"
    tensors = quantisers.read_safetensors(path)
    for name, zeros in tensors.items():
        if name.endswith("weight_zero_point"):
            nibbles = zeros.view(np.uint32)[:, None] >> np.arange(0, 32, 4)[:, None] & 15
            tensors[name] = (nibbles.reshape(-1, zeros.shape[1]) - 8).astype(np.int8)
    quantisers.write_safetensors(path, tensors)
    check_decoded(folder, decoded, tmp_path, "Q50")


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("int-quantized", {"num_bits": 8, "symmetric": False}),
        ("pack-quantized", {"num_bits": 8, "symmetric": False, "group_size": 64}),
        ("pack-quantized", {"group_size": 16}),
        ("pack-quantized", {"group_size": 32, "actorder": "group",
                            "order": np.random.default_rng(3).permutation}),
        ("pack-quantized", {"group_size": 32, "actorder": "group", "symmetric": False,
                            "order": np.random.default_rng(3).permutation}),
    ],
)  # fmt: skip
def test_what_no_block_holds_needs_weights(write, tmp_path, form, changes):
    quantised, decoded = write(form, **changes)
    with pytest.raises(
        UnsupportedError, match=r"integers of \d bits of compressed-tensors.*--weig"
    ):
        convert(quantised, tmp_path / "out", progress=False)
    convert(quantised, tmp_path / "out", "f32", progress=False)
    check_logits(tmp_path / "out", decoded, 1e-5)


@pytest.mark.parametrize(
    ("strategy", "block", "shape"),
    [("tensor", None, (1,)), ("channel", (1, 192), (-1, 1)), ("block", (128, 128), None)],
)
def test_fp8(fixtures, tmp_path, strategy, block, shape):
    def module(weight):
        rows, columns = block or weight.shape
        tops = np.maximum.reduceat(np.abs(weight), range(0, len(weight), rows), axis=0)
        tops = np.maximum.reduceat(tops, range(0, weight.shape[1], columns), axis=1)
        scales = (tops / 448).astype(np.float32)
        spread = np.repeat(np.repeat(scales, rows, 0), columns, 1)[: len(weight), : weight.shape[1]]
        bits, numbers = quantisers.e4m3(weight / spread)
        stored = scales.reshape(shape) if shape else scales
        tensors = {"weight": Typed(bits, "F8_E4M3"), "weight_scale": stored}
        return {**tensors, "input_scale": np.ones(1, np.float32)}, numbers * spread

    described = config("float-quantized", {"num_bits": 8, "dynamic": False, "type": "float"},
                       num_bits=8, type="float", strategy=strategy,
                       block_structure=[128, 128] if strategy == "block" else None)  # fmt: skip
    folder = tmp_path / "source"
    decoded = quantisers.write_folder(fixtures / "llama-gqa", folder, described, module)
    left, right = (convert(f, tmp_path / f"{f.name}-out", progress=False).output
                   for f in (folder, decoded))  # fmt: skip
    assert (left / "model.m").read_bytes() == (right / "model.m").read_bytes()


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        ("top", {"format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized' is not supp"),
        ("top", {"format": "marlin-24"}, "format 'marlin-24'"),
        ("top", {"format": None}, "format is missing"),
        ("top", {"quantization_status": "calibration"}, "quantization_status 'calibration'"),
        ("top", {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ("top", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "format 'sparse-24-bitmask'"),
        ("top", {"transform_config": {"config_groups": {}}}, "transform_config"),
        ("top", {"config_groups": {}}, r"groups \[\]"),
        ("top", {"config_groups": []}, "format|groups|missing"),
        ("top", {"config_groups": {"a": {}, "b": {}}}, r"groups \['a', 'b'\] .* only one group"),
        ("top", {"ignore": [f"{Q}"]}, rf"{Q} is said not to be quantised"),
        ("group", {"output_activations": {"num_bits": 8}}, "output_activations"),
        ("group", {"format": "int-quantized"}, "format 'int-quantized'"),
        ("weights", {"num_bits": 3}, "num_bits 3 is not supported, only 4 or 8"),
        ("weights", {"num_bits": None}, "num_bits is missing"),
        ("weights", {"type": "float"}, "type 'float' is not supported, only 'int'"),
        ("weights", {"strategy": "tensor_group"}, "strategy 'tensor_group'"),
        ("weights", {"strategy": None}, "strategy is missing"),
        ("weights", {"group_size": None}, "group_size is missing"),
        ("weights", {"dynamic": True}, "dynamic True"),
        ("weights", {"actorder": "random"}, "actorder 'random'"),
        ("weights", {"block_structure": [16, 16]}, "block_structure"),
        ("weights", {"is_mx": True}, "is_mx True"),
    ],
)
def test_refuses_settings_by_name(write, tmp_path, place, changes, message):
    folder, _ = write(group_size=64)
    path = folder / "config.json"
    described = json.loads(path.read_text())
    top = described["quantization_config"]
    group = top["config_groups"]["group_0"]
    {"top": top, "group": group, "weights": group["weights"]}[place].update(changes)
    path.write_text(json.dumps(described))
    with pytest.raises(UnsupportedError, match=rf"config\.json: quantization_config .*{message}"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("weight_packed", lambda t: None, r"weight_packed is missing"),
        ("weight_packed", lambda t: t[:, :-1].copy(), r"shape of .*weight_packed"),
        ("weight_packed", lambda t: t.astype(np.int64), r"type of .*weight_packed is I64"),
        ("weight_shape", lambda t: t[::-1] - 1, r"shape of .*weight_packed"),
        ("weight_shape", lambda t: -t, r"shape of .*weight_packed"),
        ("weight_shape", lambda t: None, r"weight_shape is missing"),
        ("weight_scale", lambda t: t[:, :1].copy(), r"shape of .*weight_scale"),
        ("weight_scale", lambda t: np.nan * t, r"a number of .*weight_packed is not finite"),
        ("weight_zero_point", lambda t: None, r"weight_zero_point is missing"),
        ("weight_zero_point", lambda t: t[:-1].copy(), r"shape of .*weight_zero_point"),
    ],
)
def test_refuses_broken_modules_by_name(write, tmp_path, part, change, message):
    folder, _ = write(group_size=64, symmetric=False)
    quantisers.edit_tensor(folder, f"{Q}.{part}", change)
    with pytest.raises(FormatError, match=message):
        convert(folder, tmp_path / "out", progress=False)


@pytest.mark.parametrize("part", ["weight_zero_point", "weight_g_idx"])
def test_refuses_tensors_that_the_config_does_not_announce(write, tmp_path, part):
    order = np.random.default_rng(3).permutation
    folder, _ = write(group_size=64, symmetric=False, actorder="group", order=order)
    path = folder / "config.json"
    described = json.loads(path.read_text())
    group = described["quantization_config"]["config_groups"]["group_0"]
    group["weights"] |= {"weight_g_idx": {"actorder": None}}.get(part, {"symmetric": True})
    path.write_text(json.dumps(described))
    with pytest.raises(UnsupportedError, match=rf"14 tensors are not used .*{part}"):
        convert(folder, tmp_path / "out", progress=False)
