"""GPTQ: what its numbers become, and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import quantisers
from quantised_checks import check_decoded, check_logits
from safetensors.numpy import load_file, save_file

import dllama
from dllama.converter import convert
from dllama.errors import FormatError, UnsupportedError

CONFIG = {
    "quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True,
    "damp_percent": 0.1, "true_sequential": True, "model_file_base_name": "model", "lm_head": False,
    "dynamic": {}, "modules_in_block_to_quantize": None, "meta": {"quantizer": ["gptqmodel:1.7"]},
}  # fmt: skip


@pytest.fixture
def write(fixtures, tmp_path):
    """Writes a folder, and returns it with its decoded copy."""

    def write(name="llama-gqa", bits=4, group=32, sym=True, version=1, order=None, **changes):
        def module(weight):
            size = weight.shape[1] if group == -1 else min(group, weight.shape[1])
            groups = None if order is None else order(weight.shape[1], size)
            matrix = quantisers.grouped(weight, bits, size, sym, groups)
            with_order = version == 1  # the second version may leave it out as well
            return quantisers.gptq(matrix, bits, version, with_order), matrix.decoded()

        config = CONFIG | {"bits": bits, "group_size": group, "sym": sym} | changes
        target = tmp_path / "source"
        return target, quantisers.write_folder(fixtures / name, target, config, module)

    return write


Q = "model.layers.1.self_attn.q_proj"


def shuffled(columns, group):
    """Groups whose columns are not neighbours, as in act order."""
    return np.random.default_rng(3).permutation(np.arange(columns) // group)


@pytest.mark.parametrize(
    ("bits", "sym", "kind"), [(4, True, "Q40"), (4, False, "Q50"), (8, True, "Q80")]
)
@pytest.mark.parametrize("group", [32, 64, -1, 10**30])
def test_numbers_and_scales_are_kept(write, tmp_path, bits, sym, kind, group):
    quantised, decoded = write(bits=bits, group=group, sym=sym)
    report = check_decoded(quantised, decoded, tmp_path, kind)
    assert report.warnings == (f"{quantised}: has no tokenizer, the model accepts only ids",)


@pytest.mark.parametrize("name", ["qwen2", "qwen3-moe", "mixtral"])
def test_other_families(write, tmp_path, name):
    check_decoded(*write(name, sym=False), tmp_path, "Q50")


def test_the_second_version_stores_zero_points_as_they_are(write, tmp_path):
    folders = write(sym=False, version=2, checkpoint_format="gptq_v2")
    check_decoded(*folders, tmp_path, "Q50")


def test_act_order_needs_weights(write, tmp_path):
    """Columns of a group are not neighbours, so no block holds them."""
    quantised, decoded = write(sym=False, order=shuffled, desc_act=True)
    with pytest.raises(UnsupportedError, match=r"4 bits of GPTQ in act order.*--weights says"):
        convert(quantised, tmp_path / "out", progress=False)
    report = convert(quantised, tmp_path / "out", "f32", progress=False)
    assert len(report.warnings) == 1
    check_logits(tmp_path / "out", decoded, 1e-5)
    report = convert(quantised, tmp_path / "out", "q80", progress=False)
    assert "14 tensors lose accuracy from 4 bits of GPTQ in act order to q80" in report.warnings[1]
    check_logits(tmp_path / "out", decoded)


def test_act_order_must_be_stored(write, tmp_path):
    folder, _ = write()
    quantisers.edit_tensor(folder, f"{Q}.g_idx", lambda order: None)
    convert(folder, tmp_path / "out", progress=False)
    quantisers.edit_config(folder, desc_act=True)
    with pytest.raises(FormatError, match=rf"{Q}\.g_idx is missing, expected it beside {Q}"):
        convert(folder, tmp_path / "out", progress=False)


def test_act_order_must_be_announced(write, tmp_path):
    folder, _ = write(order=shuffled)
    with pytest.raises(FormatError, match=r"g_idx is not ascending.*\(desc_act is false\)"):
        convert(folder, tmp_path / "out", "f32", progress=False)


def test_8_bits_with_zero_points_need_weights(write, tmp_path):
    quantised, decoded = write(bits=8, sym=False)
    with pytest.raises(UnsupportedError, match="8 bits of GPTQ, which model files do not have"):
        convert(quantised, tmp_path / "out", progress=False)
    convert(quantised, tmp_path / "out", "f32", progress=False)
    check_logits(tmp_path / "out", decoded, 1e-5)


def test_the_output_matrix_may_be_quantised(fixtures, tmp_path):
    def module(weight):
        matrix = quantisers.grouped(weight, 4, 32, True)
        return quantisers.gptq(matrix, 4), matrix.decoded()

    folder, names = tmp_path / "source", re.compile(r"(lm_head|.*down_proj)\.weight")
    config = {**CONFIG, "lm_head": True}
    decoded = quantisers.write_folder(fixtures / "llama-gqa", folder, config, module, names)
    spec = convert(folder, tmp_path / "out", progress=False).spec
    assert dict(spec.tensor_types)["output"].name == "Q40"
    check_logits(tmp_path / "out", decoded)


def test_other_weights_lose_accuracy(write, tmp_path):
    quantised, decoded = write()
    report = convert(quantised, tmp_path / "out", "q80", progress=False)
    assert report.warnings[1] == f"{quantised}: 14 tensors lose accuracy from q40 to q80"
    check_logits(tmp_path / "out", decoded)
    convert(quantised, tmp_path / "same", progress=False, output_weights="q80")
    with dllama.LLM(tmp_path / "same") as llm:
        assert llm.spec.weight_type.name == "Q40"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 3}, r"'gptq': bits 3 is not supported, only 4 or 8"),
        ({"bits": None}, "bits is missing"),
        ({"group_size": None}, "group_size is missing"),
        ({"group_size": 0}, "group_size 0 is not supported"),
        ({"sym": "yes"}, "sym 'yes'"),
        ({"desc_act": 1}, "desc_act 1 is not supported, only True or False"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format 'marlin' is not supported, only"),
        ({"format": "bitblas"}, "format 'bitblas'"),
        ({"is_marlin_format": True}, "is_marlin_format True"),
        ({"pack_dtype": "int8"}, "pack_dtype 'int8'"),
        ({"dynamic": {"-:lm_head": {}}}, "dynamic"),
        ({"adapter": {"name": "lora"}}, "adapter"),
        ({"rotation": "hadamard"}, "rotation 'hadamard' is not known"),
    ],
)
def test_refuses_settings_by_name(write, tmp_path, changes, message):
    folder, _ = write()
    quantisers.edit_config(folder, **changes)
    with pytest.raises(UnsupportedError, match=rf"config\.json: quantization_config .*{message}"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("qweight", lambda t: None, rf"{Q}\.qweight is missing"),
        ("scales", lambda t: None, rf"{Q}\.scales is missing"),
        ("qzeros", lambda t: None, rf"{Q}\.qzeros is missing"),
        ("qweight", lambda t: t.astype(np.float32), rf"type of {Q}\.qweight is F32, expected I32"),
        ("qweight", lambda t: t[0], rf"shape of {Q}\.qweight"),
        ("qweight", lambda t: t[:-4].copy(), rf"shape of {Q}\.qzeros"),
        ("qweight", lambda t: np.concatenate([t, t]), rf"shape of {Q}\.qzeros"),
        ("scales", lambda t: t[:, :-1].copy(), rf"shape of {Q}\.scales"),
        ("scales", lambda t: t.astype(np.int32), rf"type of {Q}\.scales"),
        ("scales", lambda t: np.inf * t, rf"a number of {Q}\.qweight is not finite"),
        ("scales", lambda t: 1e8 * t.astype(np.float32), rf"a number of {Q}\.qweight"),
        ("qzeros", lambda t: t[:1].copy(), rf"shape of {Q}\.qzeros"),
        ("qzeros", lambda t: t + 1, r"a zero point .* is 9, expected 8 \(sym is true\)"),
        ("g_idx", lambda t: t[:-1].copy(), rf"shape of {Q}\.g_idx"),
        ("g_idx", lambda t: 0 * t, rf"{Q}\.g_idx is no order of the columns"),
        ("g_idx", lambda t: t - 1, rf"{Q}\.g_idx is no order"),
        ("g_idx", lambda t: t + 1, rf"{Q}\.g_idx is no order"),
    ],
)  # fmt: skip
def test_refuses_broken_modules_by_name(write, tmp_path, part, change, message):
    folder, _ = write()
    quantisers.edit_tensor(folder, f"{Q}.{part}", change)
    with pytest.raises(FormatError, match=message):
        convert(folder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_refuses_a_zero_point_that_programs_read_in_different_ways(write, tmp_path):
    folder, _ = write(sym=False)
    quantisers.edit_tensor(folder, f"{Q}.qzeros", lambda t: t | 0xF0)
    with pytest.raises(FormatError, match=r"a zero point .* is 16, expected at most 15"):
        convert(folder, tmp_path / "out", progress=False)


def test_refuses_a_weight_beside_a_quantised_one(write, tmp_path):
    folder, _ = write()
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, f"{Q}.weight": np.zeros((128, 128), np.float32)},
              folder / "model.safetensors")  # fmt: skip
    with pytest.raises(FormatError, match=rf"{Q}\.weight is there, expected no weight beside"):
        convert(folder, tmp_path / "out", progress=False)


def test_refuses_other_shapes_than_the_models(write, tmp_path):
    folder, _ = write()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 160}))
    with pytest.raises(FormatError, match=r"shape of .*gate_proj\.qweight"):
        convert(folder, tmp_path / "out", progress=False)
