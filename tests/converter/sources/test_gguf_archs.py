"""Architectures of GGUF files: the model of each fixture, written as llama.cpp's converter does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import dllama
from dllama.converter import convert
from dllama.converter.gguf_model import GgufModel
from dllama.errors import FormatError, UnsupportedError
from dllama.model.file import ModelFile
from dllama.model.header import read_header, write_header

gguf = pytest.importorskip("gguf")
ggufmodel = pytest.importorskip("ggufmodel")
ggufrandom = pytest.importorskip("ggufrandom")
Type = gguf.GGMLQuantizationType

# Fixtures of which a GGUF file can say all.
MODELS = (
    "llama-gqa", "llama-mha-odd", "llama31-tied", "llama-linear", "llama-bias", "llama-yarn",
    "mistral", "mixtral", "qwen2", "qwen3", "qwen3-moe", "granite", "phi3",
    "olmo2", "glm4", "exaone4", "granitemoe",
    "qwen2_moe", "glm4_moe", "stablelm", "gemma4", "gemma4-moe",
)  # fmt: skip
# Those with numbers that a file says otherwise: the writer puts Gemma's scale of scores into a
# matrix or a norm, the decays of Qwen3.5 are powers, and matrices have Falcon-H1's multipliers.
SCALED = ("gemma2", "gemma3", "qwen3_5", "qwen3_5_moe", "qwen3_next", "falcon-h1")
# Those whose states carry the rounding of activations on.
RECURRENT = ("qwen3_5", "qwen3_5_moe", "qwen3_next", "falcon-h1")
# Tensors without which the embedding is the output matrix, or keys are values.
INSTEAD = {"gemma4": ("blk.1.attn_v.weight",)}
# Those whose scores are not divided by the size of heads, so that rounding changes more.
UNSCALED = ("gemma4", "gemma4-moe")
# Those whose longest row is no multiple of 32.
ODD = ("llama-mha-odd",)


@pytest.fixture
def path(tmp_path):
    """Where a test writes its file."""
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("name", MODELS)
def test_gives_the_same_model_as_the_folder(path, tmp_path, fixtures, converted, name):
    """Header and all tensors: order of rows, rotation frequencies and tied embeddings."""
    ggufmodel.write_folder(path, fixtures / name, "F32")
    report = convert(path, tmp_path / "out", "f32", progress=False)
    expected = converted(name, "f32") / "model.m"
    stored, _ = read_header(write_header(report.spec, path), path)  # numbers become float32
    assert stored == ModelFile.open(expected).spec
    assert (tmp_path / "out" / "model.m").read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("name", MODELS + SCALED)
def test_gives_the_logits_of_transformers(path, fixtures, standing, name):
    """As it is, on one node and on two."""
    ggufmodel.write_folder(path, fixtures / name, "F32")
    stored = np.load(fixtures / name / "reference.npz")
    with dllama.LLM(path, threads=1, buffer="f32") as llm:
        logits = llm.eval(stored["tokens"].ravel())
    right = stored["logits"].reshape(logits.shape)
    assert np.abs(logits - right).max() < 1e-4 * right.std()
    with dllama.LLM(path, threads=1, buffer="f32", workers=standing(1)) as llm:
        np.testing.assert_array_equal(llm.eval(stored["tokens"].ravel()), logits)


@pytest.mark.parametrize("name", [name for name in MODELS + SCALED if name not in ODD])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_gives_the_logits_of_its_own_weights(path, fixtures, standing, name, kind):
    """In quantised blocks; activations are rounded to 8 bits there."""
    options = {"threads": 1, "buffer": "f32", "kv_cache": "f32"}
    ggufmodel.write_folder(path, fixtures / name, kind)
    tokens = np.load(fixtures / name / "reference.npz")["tokens"].ravel()
    with dllama.LLM(path, **options) as llm:
        logits = llm.eval(tokens)
    with dllama.LLM(path, workers=standing(1), **options) as llm:
        np.testing.assert_array_equal(llm.eval(tokens), logits)
    tensors, metadata = ggufmodel.read(path)
    arch = next(iter(metadata)).partition(".")[0]
    floats = {name: (gguf.dequantize(*stored), Type.F32) for name, stored in tensors.items()}
    ggufmodel.write(path, arch, floats, metadata)
    with dllama.LLM(path, **options) as llm:
        right = llm.eval(tokens)
    error = np.abs(logits - right)
    median, most = (0.03, 0.6) if name in RECURRENT + UNSCALED else (0.02, 0.3)
    assert np.median(error) < median * right.std()
    assert llm.spec.n_experts or error.max() < most * right.std()


def test_phi3_has_fused_matrices(path, rng):
    """Else it is Qwen2 without biases."""
    tensors = ggufrandom.random_tensors(rng, "qwen2", "Q8_0")
    for name, (array, kind) in tensors.items():
        tensors[name] = (0 * array if name.endswith(".bias") else array, kind)
    ggufmodel.write(path, "qwen2", tensors, ggufrandom.keys("qwen2"))
    with dllama.LLM(path, threads=1) as llm:
        expected = llm.eval(range(3, 40))
    for layer in range(2):
        for fused, parts in (("attn_qkv", ("attn_q", "attn_k", "attn_v")),
                             ("ffn_up", ("ffn_gate", "ffn_up"))):  # fmt: skip
            found = [tensors.pop(f"blk.{layer}.{part}.weight")[0] for part in parts]
            tensors[f"blk.{layer}.{fused}.weight"] = (np.concatenate(found), Type.Q8_0)
    tensors = {name: stored for name, stored in tensors.items() if not name.endswith(".bias")}
    ggufmodel.write(path, "phi3", tensors, ggufrandom.keys("phi3"))
    with dllama.LLM(path, threads=1) as llm:
        np.testing.assert_array_equal(llm.eval(range(3, 40)), expected)


def test_a_part_of_each_head_is_rotated(path, rng, fixtures):
    ggufmodel.write_folder(path, fixtures / "glm4", "F32")
    tensors, metadata = ggufmodel.read(path)
    key = "glm4.rope.dimension_count"
    for value, rotated in ((None, 0), (32, 0), (16, 16), (8, 8)):  # 0 stands for all
        given = {**metadata, key: value} if value else metadata.copy()
        if not value:
            del given[key]
        ggufmodel.write(path, "glm4", tensors, given)
        with GgufModel(path) as model:
            assert model.spec.rope_dim == rotated
    for wrong in (7, 34, 1):
        ggufmodel.write(path, "glm4", tensors, {**metadata, key: wrong})
        with pytest.raises(FormatError, match=f"dimension_count is {wrong}, expected an even"):
            GgufModel(path)


@pytest.mark.parametrize(
    ("pattern", "full"),
    [
        (None, (3,)),
        (3, (2,)),
        (0, ()),
        ([True, False, False, True, True], (1, 2)),
    ],
)
def test_which_layers_have_a_window(path, rng, pattern, full):
    """Of EXAONE 4, whose other layers have no RoPE."""
    tensors = ggufrandom.random_tensors(rng, "exaone4")
    for name in [name for name in tensors if name.startswith("blk.1.")]:
        for layer in (2, 3, 4):
            tensors[name.replace("blk.1.", f"blk.{layer}.")] = tensors[name]
    changes = {"attention.sliding_window": 24, "block_count": 5}
    if pattern is not None:
        changes["attention.sliding_window_pattern"] = pattern
    metadata = ggufrandom.keys("exaone4")
    metadata |= {f"exaone4.{key}": value for key, value in changes.items()}
    ggufmodel.write(path, "exaone4", tensors, metadata)
    with GgufModel(path) as model:
        windowed = tuple(layer for layer in range(5) if layer not in full)
        assert (model.spec.windowed, model.spec.no_rope) == (windowed, full)
    for wrong in ([True, False], 1.5, [1, 0, 1, 0, 1]):
        metadata["exaone4.attention.sliding_window_pattern"] = wrong
        ggufmodel.write(path, "exaone4", tensors, metadata)
        with pytest.raises(FormatError, match=r"pattern is .*, expected an integer, or 5 times"):
            GgufModel(path)


def test_layers_that_predict_further_tokens_are_left_out(path, fixtures):
    """They are the last blocks. With broken counts the file is refused."""
    ggufmodel.write_folder(path, fixtures / "glm4", "F32")
    tensors, metadata = ggufmodel.read(path)
    with GgufModel(path) as model:
        expected = model.spec, [*model.tensors]
    layers = metadata["glm4.block_count"]
    more = {name.replace("blk.0.", f"blk.{layers}."): stored for name, stored in tensors.items()
            if name.startswith("blk.0.")}  # fmt: skip
    more[f"blk.{layers}.nextn.eh_proj.weight"] = tensors["blk.0.attn_q.weight"]
    metadata |= {"glm4.block_count": layers + 1, "glm4.nextn_predict_layers": 1}
    ggufmodel.write(path, "glm4", tensors | more, metadata)
    with GgufModel(path) as model:
        assert (model.spec, [*model.tensors]) == expected
    for count in (layers + 1, "x", 1.5):
        metadata["glm4.nextn_predict_layers"] = count
        ggufmodel.write(path, "glm4", tensors | more, metadata)
        with pytest.raises(FormatError, match=r"nextn_predict_layers is .*, expected an integer"):
            GgufModel(path)
    metadata["glm4.nextn_predict_layers"] = 0
    ggufmodel.write(path, "glm4", tensors | more, metadata)
    with pytest.raises(UnsupportedError, match=rf"blk\.{layers}\.nextn\.eh_proj\.weight is not"):
        GgufModel(path)


def test_gemma_without_a_window(path, fixtures):
    """Without the key, or with 0, all layers are full and have the RoPE of such layers."""
    ggufmodel.write_folder(path, fixtures / "gemma3", "F32")
    tensors, metadata = ggufmodel.read(path)
    key = "gemma3.attention.sliding_window"
    del metadata["gemma3.attention.sliding_window_pattern"]
    for value in (None, 0):
        given = {name: one for name, one in {**metadata, key: value}.items() if one is not None}
        ggufmodel.write(path, "gemma3", tensors, given)
        with GgufModel(path) as model:
            assert (model.spec.window, model.spec.windowed) == (0, ())
            assert model.spec.window_rope_theta == 0
    ggufmodel.write(path, "gemma3", tensors, {**metadata, "gemma3.final_logit_softcapping": 0.0})
    with GgufModel(path) as model:
        assert model.spec.windowed == (0, 1, 2, 3)  # every sixth is full
        assert model.spec.logits_cap == 0


@pytest.mark.parametrize("name", ["granite", "granitemoe", "olmo2", "glm4"])
def test_windows_of_architectures_without_them_are_refused(path, fixtures, name):
    ggufmodel.write_folder(path, fixtures / name, "F32")
    tensors, metadata = ggufmodel.read(path)
    metadata[f"{name}.attention.sliding_window"] = 24
    ggufmodel.write(path, name, tensors, metadata)
    with pytest.raises(UnsupportedError, match=rf"{name}\.attention\.sliding_window 24 is not"):
        GgufModel(path)


def test_mistral3_is_llama_under_another_name(path, fixtures):
    ggufmodel.write_folder(path, fixtures / "mistral", "F32")
    tensors, metadata = ggufmodel.read(path)
    renamed = {key.replace("llama.", "mistral3.", 1): one for key, one in metadata.items()}
    with GgufModel(path) as model:
        expected = model.spec
    ggufmodel.write(path, "mistral3", tensors, renamed)
    with GgufModel(path) as model:
        assert model.spec == expected
    renamed["mistral3.attention.temperature_scale"] = 0.5
    ggufmodel.write(path, "mistral3", tensors, renamed)
    with pytest.raises(UnsupportedError, match=r"temperature_scale 0\.5 is not supported"):
        GgufModel(path)


@pytest.mark.parametrize(
    "name",
    [
        "granitemoe",
        "phi3",
        "olmo2",
        "glm4",
        "exaone4",
        "gemma3",
        "gemma4",
        "gemma4-moe",
        "gpt-oss",
        "qwen2_moe",
        "glm4_moe",
        "qwen3_5_moe",
        "qwen3_next",
        "starcoder2",
        "stablelm",
    ],
)
def test_every_tensor_counts(path, fixtures, name):
    """Without any of them the file is refused, and other numbers give other logits."""

    def logits():
        with dllama.LLM(path, threads=1) as llm:
            short = llm.eval(range(3, 13)).tobytes()
            llm.reset()
            return short, llm.eval(range(3, 43)).tobytes()

    ggufmodel.write_folder(path, fixtures / name, "F32")
    tensors, metadata = ggufmodel.read(path)
    arch = next(iter(metadata)).partition(".")[0]
    plain = logits()
    for one, (array, kind) in tensors.items():
        others = {other: stored for other, stored in tensors.items() if other != one}
        ggufmodel.write(path, arch, others, metadata)
        if one in INSTEAD.get(name, ("output.weight",)):
            assert logits() != plain
        else:
            with pytest.raises((FormatError, UnsupportedError)) as caught:
                GgufModel(path)
            assert f"{one} is missing" in str(caught.value) or one.startswith("rope")
        ggufmodel.write(path, arch, {**others, one: (array * np.float32(1.5), kind)}, metadata)
        if one == "rope_freqs.weight":
            with pytest.raises(UnsupportedError, match="factors in rope_freqs"):
                GgufModel(path)
        else:
            assert logits() != plain, one


@pytest.mark.parametrize("name", ["gpt-oss", "gpt-oss-mxfp4"])
def test_gpt_oss(path, tmp_path, fixtures, standing, name):
    """Its clamp of SwiGLU stands in no key: it is always 7."""
    source = shutil.copytree(fixtures / name, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "swiglu_limit": 7.0}))
    stored = ggufmodel.write_folder(path, source, "F32")
    for here, out in ((source, "expected"), (path, "found")):
        convert(here, tmp_path / out, "f32", progress=False)
    expected = (tmp_path / "expected" / "model.m").read_bytes()
    assert (tmp_path / "found" / "model.m").read_bytes() == expected
    options = {"threads": 1, "buffer": "f32", "kv_cache": "f32"}
    tokens = np.load(source / "reference.npz")["tokens"].ravel()
    with dllama.LLM(path, **options) as llm, dllama.LLM(tmp_path / "found", **options) as plain:
        logits, right = llm.eval(tokens), plain.eval(tokens)
    quantised = "mxfp4" in name  # activations are rounded to 8 bits there
    assert np.abs(logits - right).max() <= (0.1 if quantised else 1e-6) * right.std()
    with dllama.LLM(path, workers=standing(1), **options) as llm:
        np.testing.assert_array_equal(llm.eval(tokens), logits)
    with GgufModel(path) as model:
        raw = model.raw("layers.0.experts.1.gate")
    if quantised:
        assert raw.tobytes() == stored["blk.0.ffn_gate_exps.weight"][1].tobytes()


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3"])
def test_deepseek(path, tmp_path, fixtures, standing, name):
    """Of YaRN's two scales a file says one, which stands for both."""
    source = shutil.copytree(fixtures / name, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    rope = config["rope_parameters"]
    rope["mscale"] = rope["mscale_all_dim"]
    (source / "config.json").write_text(json.dumps(config))
    ggufmodel.write_folder(path, source, "F32")
    for here, out in ((source, "expected"), (path, "found")):
        convert(here, tmp_path / out, "f32", progress=False)
    expected = (tmp_path / "expected" / "model.m").read_bytes()
    assert (tmp_path / "found" / "model.m").read_bytes() == expected
    options = {"threads": 1, "buffer": "f32"}
    tokens = np.load(source / "reference.npz")["tokens"].ravel()
    with dllama.LLM(path, **options) as llm, dllama.LLM(tmp_path / "found", **options) as plain:
        logits = llm.eval(tokens)
        np.testing.assert_array_equal(logits, plain.eval(tokens))
    with dllama.LLM(path, workers=standing(1), **options) as llm:
        np.testing.assert_array_equal(llm.eval(tokens), logits)
    tensors, metadata = ggufmodel.read(path)
    for key, value in {"key_length": 40, "value_length": 16, "head_count_kv": 4}.items():
        given = {**metadata, f"deepseek2.attention.{key}": value}
        ggufmodel.write(path, "deepseek2", tensors, given)
        with pytest.raises(UnsupportedError, match=rf"attention\.{key} is {value}, only"):
            GgufModel(path)
    metadata["deepseek2.attention.key_length_mla"] = 16
    ggufmodel.write(path, "deepseek2", tensors, metadata)
    with pytest.raises(FormatError, match="key_length_mla is 16, expected more than 16"):
        GgufModel(path)
