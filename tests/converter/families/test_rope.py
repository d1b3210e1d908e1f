"""RoPE in config.json, in all dialects."""

from __future__ import annotations

import numpy as np
import pytest
from oracle.ops import rope_frequencies

from dllama.converter.families.rope import read_rope
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import RopeScaling, RopeType

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
OLD = {("type" if key == "rope_type" else key): value for key, value in LLAMA3.items()}
WITHOUT = {key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"}
SCALED = {"rope_theta": 5e5, "rope_type": RopeType.LLAMA31,
          "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 8192)}  # fmt: skip
PLAIN = {"rope_theta": 10000.0}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
NEW = {"rope_type": "default", "rope_theta": 5e5}
LONGROPE = {"type": "longrope", "short_factor": 4 * [1.0], "long_factor": [1, 2, 4, 8],
            "original_max_position_embeddings": 16}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_theta": 5e5, "rope_scaling": OLD},
        {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "type": "llama3"}},
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_scaling": LLAMA3},
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_theta": 5e5},
        {"rope_parameters": {**WITHOUT, "rope_theta": 5e5},
         "original_max_position_embeddings": 8192},
        {"rope_parameters": {kind: {**LLAMA3, "rope_theta": 5e5}
                             for kind in ("full_attention", "sliding_attention")}},
        {"rope_parameters": {"full_attention": {**LLAMA3, "rope_theta": 5e5}}},
    ],
)  # fmt: skip
def test_dialects_of_llama3(config):
    assert read_rope(config, "config.json", 64) == SCALED


@pytest.mark.parametrize(
    "config",
    [
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 1e4}},
    ],
)
def test_linear_divides_all_frequencies(config):
    found = read_rope(config, "config.json", 64)
    assert found["rope_type"] is RopeType.LLAMA31
    plain = rope_frequencies(64, 10000.0)
    assert np.array_equal(rope_frequencies(64, 10000.0, found["rope_scaling"]), plain / 4)


def test_yarn_keeps_high_frequencies_and_divides_low_ones():
    found = read_rope({"rope_scaling": YARN}, "config.json", 64)
    ratio = rope_frequencies(64, 10000.0) / found["rope_frequencies"]
    assert ratio[0] == 1
    assert np.all(np.diff(ratio) >= -1e-12)
    assert ratio[-1] == pytest.approx(4)
    assert found["rope_factor"] == pytest.approx(1 + 0.1 * np.log(4))


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"attention_factor": 1.5}, 1.5),
        ({"mscale": 0.7, "mscale_all_dim": 0.7}, 1.0),
        ({"mscale": 0.7}, 1 + 0.1 * np.log(4)),
    ],
)
def test_the_factor_of_yarn(changes, factor):
    found = read_rope({"rope_scaling": {**YARN, **changes}}, "config.json", 64)
    assert found["rope_factor"] == pytest.approx(factor)


def test_the_original_context_of_yarn_is_the_context_by_default():
    given = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": None}
    config = {"rope_scaling": given, "max_position_embeddings": 64}
    expected = read_rope({"rope_scaling": YARN}, "config.json", 64)
    assert read_rope(config, "config.json", 64) == expected


def test_longrope_has_frequencies_for_short_and_for_long_texts():
    found = read_rope({"rope_scaling": LONGROPE, "max_position_embeddings": 64}, "config.json", 8)
    plain = rope_frequencies(8, 10000.0)
    np.testing.assert_allclose(found["rope_frequencies"], plain)
    np.testing.assert_allclose(found["rope_long_frequencies"], plain / [1, 2, 4, 8])
    assert found["rope_switch"] == 16
    assert found["rope_factor"] == pytest.approx(np.sqrt(1 + np.log(4) / np.log(16)))


@pytest.mark.parametrize(
    "config",
    [
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {**NEW, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 0.5},
    ],
)
def test_a_part_of_each_head(config):
    assert read_rope(config, "config.json", 64, partial=1.0)["rope_dim"] == 32
    config = {"rope_scaling": YARN, "partial_rotary_factor": 0.75}
    found = read_rope(config, "config.json", 32, partial=1.0)
    assert (found["rope_dim"], len(found["rope_frequencies"])) == (24, 12)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rope_scaling": None, "rope_parameters": None, "rope_theta": None},
        {"rope_scaling": {}, "rope_theta": 10000},
        {"rope_scaling": {"type": "default"}},
        {"rope_scaling": {"factor": 1.0}},
        {"rope_scaling": {"type": "linear", "factor": 1.0}},
        {"rope_scaling": {"type": "yarn", "factor": 1, "original_max_position_embeddings": 64}},
        {"rope_scaling": {"type": "dynamic", "factor": 1.0}},
        {"rope_scaling": {**LLAMA3, "factor": 1.0}},
        {"partial_rotary_factor": 1.0, "rope_parameters": {"partial_rotary_factor": 1}},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "rope_scaling": None},
        {"max_position_embeddings": 64, "original_max_position_embeddings": 64},
    ],
)
def test_no_scaling(config):
    assert read_rope(config, "config.json", 64) == PLAIN


def test_a_default_of_the_family():
    assert read_rope({}, "config.json", 64, 1e6) == {"rope_theta": 1e6}
    assert read_rope({"rope_parameters": NEW}, "config.json", 64, 1e6) == {"rope_theta": 5e5}
    assert read_rope({}, "config.json", 64, partial=0.25)["rope_dim"] == 16


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"rope_parameters": NEW, "rope_scaling": YARN}, UnsupportedError,
         r"rope_scaling \(yarn, factor 4, original context 64\) and rope_parameters"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, UnsupportedError, "'dynamic'"),
        ({"rope_scaling": {**YARN, "truncate": "no"}}, FormatError, "truncate is 'no'"),
        ({"rope_scaling": {**YARN, "beta_fast": -1}}, FormatError, "beta_fast is -1"),
        ({"rope_scaling": {**YARN, "short_factor": [1.0]}}, UnsupportedError, "short_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, FormatError,
         "max_position_embeddings is None"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"type": "linear", "factor": 4}},
         UnsupportedError, r"rope_scaling \(linear, factor 4\) and rope_parameters \(no scaling\)"),
        ({"rope_scaling": {"type": "linear"}}, FormatError, "factor is None"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "low_freq_factor": 1.0}},
         UnsupportedError, "low_freq_factor 1.0 is not supported for the rope type 'linear'"),
        ({"rope_scaling": {"type": "linear", "factor": 2}, "max_position_embeddings": 64,
          "original_max_position_embeddings": 16}, UnsupportedError, "no rope_scaling reads it"),
        ({"rope_parameters": NEW, "rope_scaling": LLAMA3}, UnsupportedError,
         r"rope_scaling \(llama3, factor 8, original context 8192\) and rope_parameters "
         r"\(no scaling\) contradict each other"),
        ({"rope_parameters": {"full_attention": NEW, "sliding_attention": {"rope_theta": 1e4}}},
         UnsupportedError, "differs between types of layers"),
        ({"rope_parameters": {"full_attention": NEW, "rope_theta": 1e4}},
         UnsupportedError, "differs between"),
        ({"rope_scaling": {"rope_type": "default", "type": "yarn", "factor": 8}},
         FormatError, "type is 'yarn', expected 'default'"),
        ({"rope_scaling": {"factor": 8.0}}, UnsupportedError, "factor 8.0 has no rope_type"),
        ({"rope_scaling": {"type": "linear", "factor": 1, "attention_factor": 0.5}},
         UnsupportedError, "attention_factor 0.5 is not supported for the rope type 'linear'"),
        ({"rope_scaling": LONGROPE, "max_position_embeddings": 64}, FormatError,
         "short_factor is 4 numbers, expected 32"),
        ({"rope_scaling": {**LONGROPE, "long_factor": [1, 2, 0, 4]},
          "max_position_embeddings": 64}, FormatError,
         r"long_factor is \[1, 2, 0, 4\], expected a list of positive numbers"),
        ({"rope_scaling": {**LONGROPE, "beta_fast": 3}}, UnsupportedError, "beta_fast"),
        ({"rope_scaling": {**LLAMA3, "attention_factor": 1.3}}, UnsupportedError,
         "attention_factor 1.3 is not supported"),
        ({"rope_parameters": {**NEW, "mrope_section": [2, 1, 1]}}, UnsupportedError,
         "mrope_section"),
        ({"rope_parameters": NEW, "rope_theta": 1e4}, FormatError, "500000, .* expected one value"
         "|10000, 500000 in different places"),
        ({"rope_scaling": LLAMA3, "original_max_position_embeddings": 4096}, FormatError,
         "4096 and 8192"),
        ({"rope_scaling": WITHOUT}, FormatError, "original_max_position_embeddings is None"),
        ({"max_position_embeddings": 64, "original_max_position_embeddings": 16},
         UnsupportedError, "16, but no rope_scaling reads it"),
        ({"rope_scaling": "linear"}, FormatError, "rope_scaling is 'linear', expected an object"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}, "partial_rotary_factor": 1.0},
         FormatError, "1, 0.5 in different places"),
        ({"partial_rotary_factor": 0.5}, UnsupportedError, "partial_rotary_factor is 0.5"),
    ],
)  # fmt: skip
def test_refuses_what_it_does_not_apply(config, error, message):
    with pytest.raises(error, match=message):
        read_rope(config, "config.json", 64)


@pytest.mark.parametrize("part", [1.5, 0.01, 0.05])
def test_refuses_parts_without_pairs(part):
    with pytest.raises(FormatError, match=f"partial_rotary_factor is {part}, .* of the 64 numbers"):
        read_rope({"partial_rotary_factor": part}, "config.json", 64, partial=1.0)
