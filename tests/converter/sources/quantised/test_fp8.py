"""FP8: floats of 8 bits are read as floats."""

from __future__ import annotations

import numpy as np
import pytest
import quantisers
from quantised_checks import check_logits
from quantisers import Typed

import dllama
from dllama.converter import convert
from dllama.converter.sources.quantised.fp8 import E4M3
from dllama.errors import FormatError, UnsupportedError
from dllama.model.file import ModelFile

BLOCKS = {
    "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
    "weight_block_size": [32, 48], "modules_to_not_convert": ["lm_head", "model.norm"],
}  # fmt: skip
WHOLE = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
Q = "model.layers.1.self_attn.q_proj"


def largest(weight, rows, columns):
    """The largest magnitude of each block, (O / rows, I / columns), rounded up."""
    tops = np.maximum.reduceat(np.abs(weight), range(0, weight.shape[0], rows), axis=0)
    return np.maximum.reduceat(tops, range(0, weight.shape[1], columns), axis=1)


def spread(scales, shape, rows, columns):
    """A scale for each number of a matrix."""
    if scales.size == 1:
        return np.full(shape, scales.ravel()[0])
    scales = scales.reshape(-(-shape[0] // rows), -1)
    return np.repeat(np.repeat(scales, rows, 0), columns, 1)[: shape[0], : shape[1]]


@pytest.fixture
def write(fixtures, tmp_path):
    """Writes a folder, and returns it with its decoded copy.

    config: the quantization_config.
    block: rows and columns that share a scale; None for all.
    name: of the scales.
    scale: from numbers to the tensor of scales.
    """

    def write(config, block, name="weight_scale_inv", scale=np.float32, fixture="llama-gqa"):
        def module(weight):
            rows, columns = block or weight.shape
            rows, columns = min(rows, weight.shape[0]), min(columns, weight.shape[1])
            stored = scale(largest(weight, rows, columns) / 448)
            scales = spread(quantisers.value_of(stored), weight.shape, rows, columns)
            bits, numbers = quantisers.e4m3(weight / scales)
            tensors = {"weight": Typed(bits, "F8_E4M3"), name: stored}
            if config["activation_scheme"] == "static":
                tensors["input_scale"] = np.float32(0.5).reshape(())
            return tensors, numbers * scales

        target = tmp_path / "source"
        return target, quantisers.write_folder(fixtures / fixture, target, config, module)

    return write


def check_floats(folders, tmp_path):
    """The same bytes as from decoded floats, in the types of floats, and the right logits."""
    check_bytes(folders, tmp_path)
    quantised, decoded = folders
    convert(quantised, tmp_path / "f32", "f32", progress=False)
    check_logits(tmp_path / "f32", decoded, 1e-5)


def check_bytes(folders, tmp_path):
    """The same bytes as from decoded floats, in the types of floats."""
    for weights in (None, "f32", "q80"):
        ours, right = (convert(f, tmp_path / f"{f.name}-out", weights, progress=False)
                       for f in folders)  # fmt: skip
        assert len(ours.warnings) == len(right.warnings) == 1
        with (
            ModelFile.open(ours.output / "model.m") as left,
            ModelFile.open(right.output / "model.m") as other,
        ):
            assert left.spec == other.spec
            for name in other.tensors:
                np.testing.assert_array_equal(left.raw(name), other.raw(name), err_msg=name)


def test_the_values_of_the_bytes():
    """Of the paper's table 1: the largest number 448, the least normal one 2^-6, then 2^-9."""
    assert [E4M3[b] for b in (0x00, 0x01, 0x08, 0x38, 0x3C, 0x7E, 0xFE, 0xB8)] == [
        0, 2**-9, 2**-6, 1, 1.5, 448, -448, -1,
    ]  # fmt: skip
    assert np.isnan(E4M3[[0x7F, 0xFF]]).all()
    assert np.isfinite(E4M3).sum() == 254
    assert (np.diff(E4M3[:127]) > 0).all()


@pytest.mark.parametrize("fixture", ["llama-gqa", "qwen2", "qwen3-moe"])
@pytest.mark.parametrize("scale", [np.float32, quantisers.bf16])
def test_scales_of_blocks(write, tmp_path, fixture, scale):
    check_floats(write(BLOCKS, (32, 48), scale=scale, fixture=fixture), tmp_path)


@pytest.mark.parametrize("block", [(128, 128), (1, 64), (10**30, 10**30)])
def test_blocks_that_do_not_divide_the_matrix(write, tmp_path, block):
    check_floats(write({**BLOCKS, "weight_block_size": [*block]}, block), tmp_path)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_scale(write, tmp_path, shape):
    def scale(tops):
        return np.float32(tops.max()).reshape(shape)

    check_floats(write(WHOLE, None, "weight_scale", scale), tmp_path)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_scale_for_each_row(write, tmp_path, shape):
    def scale(tops):
        return tops.astype(np.float32).reshape(shape)

    check_floats(write(WHOLE, (1, 1 << 20), "weight_scale", scale), tmp_path)


def test_the_default_is_that_of_floats(write, tmp_path):
    convert(write(BLOCKS, (32, 48))[0], tmp_path / "out", progress=False)
    with dllama.LLM(tmp_path / "out") as llm:
        assert llm.spec.weight_type.name == "Q50"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fmt": "e5m2"}, "fmt 'e5m2' is not supported, only 'e4m3'"),
        ({"weight_block_size": 128}, "weight_block_size 128 is not supported"),
        ({"weight_block_size": [128, 0]}, r"weight_block_size \[128, 0\]"),
        ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({"modules_to_not_convert": ["mlp"]}, r"mlp is said not to be quantised, but .*mlp"),
    ],
)  # fmt: skip
def test_refuses_settings_by_name(write, tmp_path, changes, message):
    folder, _ = write(BLOCKS, (32, 48))
    quantisers.edit_config(folder, **changes)
    with pytest.raises(UnsupportedError, match=rf"config\.json: quantization_config .*{message}"):
        convert(folder, tmp_path / "out")


def edit(folder, change):
    """Change the tensors of a module, by the last words of their names."""
    path = folder / "model.safetensors"
    tensors = quantisers.read_safetensors(path)
    parts = {n.removeprefix(f"{Q}."): t for n, t in tensors.items() if n.startswith(f"{Q}.")}
    others = {n: t for n, t in tensors.items() if not n.startswith(f"{Q}.")}
    quantisers.write_safetensors(path, others | {f"{Q}.{n}": t for n, t in change(parts).items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"weight": p["weight"]}, rf"the scale of {Q}\.weight is missing"),
        (lambda p: {**p, "weight_scale": p["weight_scale_inv"]}, "there twice"),
        (lambda p: {"weight_scale_inv": p["weight_scale_inv"]}, rf"{Q}\.weight is missing"),
        (lambda p: {**p, "weight": np.ones((128, 128), np.float32)}, rf"{Q}\.weight is F32"),
        (lambda p: {**p, "weight": Typed(p["weight"].bits, "F8_E5M2")}, "is F8_E5M2, expected F8"),
        (lambda p: {**p, "weight": Typed(p["weight"].bits[:64], "F8_E4M3")}, rf"shape of {Q}"),
        (lambda p: {**p, "weight_scale_inv": p["weight_scale_inv"][:-1].copy()}, rf"shape of {Q}"),
        (lambda p: {**p, "weight_scale_inv": np.ones(1, np.float32)}, rf"shape of {Q}"),
        (lambda p: {**p, "weight": Typed(p["weight"].bits | 127, "F8_E4M3")}, "is not finite"),
    ],
)  # fmt: skip
def test_refuses_broken_modules_by_name(write, tmp_path, change, message):
    folder, _ = write(BLOCKS, (32, 48))
    edit(folder, change)
    with pytest.raises(FormatError, match=message):
        convert(folder, tmp_path / "out", progress=False)


def test_matrices_of_heads(write, tmp_path):
    check_bytes(write(BLOCKS, (32, 48), fixture="deepseek_v3"), tmp_path)
