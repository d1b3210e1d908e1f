"""AWQ: what its numbers become, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import quantisers
from quantised_checks import check_decoded, check_logits

from dllama.converter import convert
from dllama.errors import FormatError, UnsupportedError

CONFIG = {
    "quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm",
    "modules_to_not_convert": ["lm_head"], "backend": "autoawq", "do_fuse": False,
    "exllama_config": {"version": 1}, "modules_to_fuse": None,
}  # fmt: skip
Q = "model.layers.1.self_attn.q_proj"


@pytest.fixture
def write(fixtures, tmp_path):
    """Writes a folder, and returns it with its decoded copy."""

    def write(name="llama-gqa", group=64, dtype=np.float16):
        def module(weight):
            size = weight.shape[1] if group == -1 else group
            matrix = quantisers.grouped(weight, 4, size, False, dtype=dtype)
            return quantisers.awq(matrix), matrix.decoded()

        target = tmp_path / "source"
        config = {**CONFIG, "group_size": group}
        return target, quantisers.write_folder(fixtures / name, target, config, module)

    return write


def test_outputs_are_in_the_order_of_the_formats_authors():
    """AutoAWQ: word j has the outputs 8 j + (0, 2, 4, 6, 1, 3, 5, 7), from the lowest bits up."""
    packed = quantisers.awq(
        quantisers.Grouped(np.arange(8)[:, None], np.ones((8, 1)), np.ones((8, 1), int),
                           np.zeros(1, int))
    )  # fmt: skip
    assert packed["qweight"].view(np.uint32).item() == 0x75316420


@pytest.mark.parametrize("group", [32, 64, -1])
def test_numbers_and_scales_are_kept(write, tmp_path, group):
    check_decoded(*write(group=group), tmp_path, "Q50")


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "mixtral"])
def test_other_families(write, tmp_path, name):
    check_decoded(*write(name), tmp_path, "Q50")


def test_short_groups_need_weights(write, tmp_path):
    quantised, decoded = write(group=16)
    with pytest.raises(UnsupportedError, match=r"qweight is 4 bits of AWQ, .*--weights says"):
        convert(quantised, tmp_path / "out", progress=False)
    convert(quantised, tmp_path / "out", "f32", progress=False)
    check_logits(tmp_path / "out", decoded, 1e-5)


def test_scales_of_float32_are_rounded(write, tmp_path):
    quantised, decoded = write(dtype=np.float32)
    convert(quantised, tmp_path / "out", progress=False)
    check_logits(tmp_path / "out", decoded)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 8}, "bits 8 is not supported, only 4"),
        ({"bits": None, "w_bit": 4}, "bits is missing"),
        ({"version": "gemv"}, "version 'gemv' is not supported, only 'gemm'"),
        ({"version": "marlin"}, "version 'marlin'"),
        ({"zero_point": False}, "zero_point False"),
        ({"group_size": "64"}, "group_size '64'"),
        ({"modules_to_not_convert": "lm_head"}, "modules_to_not_convert 'lm_head'"),
        ({"modules_to_not_convert": ["self_attn"]}, r"self_attn is said .* there is model\.layers"),
        ({"modules_to_not_convert": ["model.layers.1"]}, r"model\.layers\.1 is said"),
        ({"scale_dtype": "x"}, "scale_dtype 'x'"),
    ],
)
def test_refuses_settings_by_name(write, tmp_path, changes, message):
    folder, _ = write()
    quantisers.edit_config(folder, **changes)
    with pytest.raises(UnsupportedError, match=rf"config\.json: quantization_config .*{message}"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("qweight", lambda t: t[:, :-1].copy()),
        ("qweight", lambda t: t[0].copy()),
        ("qweight", lambda t: t[:0].copy()),
        ("qweight", lambda t: t.astype(np.int64)),
        ("qzeros", lambda t: t[:-1].copy()),
        ("scales", lambda t: t.T),
        ("scales", lambda t: None),
    ],
)
def test_refuses_broken_modules_by_name(write, tmp_path, part, change):
    folder, _ = write()
    quantisers.edit_tensor(folder, f"{Q}.{part}", change)
    with pytest.raises(FormatError, match=rf"{Q}\.(qzeros|{part}) is"):
        convert(folder, tmp_path / "out", progress=False)
