"""GGUF files run as they are: every type, on one node and several, against the oracle."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from oracle import llama as oracle

import dllama
from dllama.cli import main
from dllama.converter import convert
from dllama.converter.gguf_model import GgufModel
from dllama.converter.sources.gguf_types import NAMES
from dllama.errors import DllamaError, FormatError, ModelError, UnsupportedError
from dllama.model.file import ModelFile
from dllama.model.spec import RopeType
from dllama.model.weight_types import WeightType
from dllama.run_config import RunConfig
from dllama.runtime.footprint import footprint

gguf = pytest.importorskip("gguf")
ggufmodel = pytest.importorskip("ggufmodel")
ggufrandom = pytest.importorskip("ggufrandom")
Type = gguf.GGMLQuantizationType

NATIVE = [name for name in NAMES.values() if name.replace("_", "") in WeightType.__members__]
TOKENS = list(range(3, 40))
ONE = {"threads": 1, "kv_cache": "f32"}


@pytest.fixture
def path(tmp_path):
    """Where a test writes its file."""
    return tmp_path / "model.gguf"


def expected(path, tensors):
    """The oracle's logits, with weights as the package gguf decodes them."""
    with GgufModel(path) as model:
        spec = model.spec
    return oracle.forward(ggufrandom.decoded(tensors), spec, TOKENS)


def check(logits, right, kinds, experts=False):
    """Compare logits; activations are rounded to 8 bits where weights are quantised.

    A rounding may also choose another expert, which changes all logits after a token.
    """
    error, scale = np.abs(logits - right), right.std()
    floats = {kinds} if isinstance(kinds, str) else {*kinds.values()}
    bound = 1e-4 if floats <= {"F32", "F16", "BF16"} else 0.02
    assert np.median(error) < bound * scale
    assert experts or error.max() < 12 * bound * scale


@pytest.mark.parametrize("kind", NATIVE)
def test_every_type_equals_the_oracle(path, rng, kind):
    tensors = ggufrandom.write(path, rng, kinds=kind)
    with dllama.LLM(path, **ONE) as llm:
        check(llm.eval(TOKENS), expected(path, tensors), kind)
        assert llm.spec.weight_type.name == kind.replace("_", "")


def mixture(rng):
    """A type for each kind of tensor, and others in the second layer."""
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down", "ffn_up",
             "blk.1.attn_v", "blk.1.ffn_down", "token_embd", "output.weight")  # fmt: skip
    return {"": "F32"} | {part: str(rng.choice(NATIVE)) for part in parts}


@pytest.mark.parametrize(
    ("arch", "experts", "tied"),
    [("llama", False, True), ("llama", True, False), ("qwen2", False, True),
     ("qwen3", False, False), ("qwen3moe", True, True)],
)  # fmt: skip
@pytest.mark.parametrize("nodes", [1, 3])
def test_mixed_types_on_several_nodes(path, rng, standing, arch, experts, tied, nodes):
    kinds = mixture(rng)
    tensors = ggufrandom.write(path, rng, arch, kinds=kinds, experts=experts, tied=tied)
    right = expected(path, tensors)
    options = {**ONE, "buffer": "f32"}
    with dllama.LLM(path, **options, workers=standing(nodes - 1)) as llm:
        check(llm.eval(TOKENS), right, kinds, experts)
        assert llm.spec.tied is tied


@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_gives_the_bits_of_the_converted_model(path, tmp_path, rng, arch):
    ggufrandom.write(path, rng, arch, kinds=mixture(rng), tied=True)
    convert(path, tmp_path / "out", progress=False)
    with dllama.LLM(path, **ONE) as llm, dllama.LLM(tmp_path / "out", **ONE) as other:
        assert llm.spec == other.spec
        np.testing.assert_array_equal(llm.eval(TOKENS), other.eval(TOKENS))


def test_nothing_is_copied_or_written(path, rng, tmp_path):
    """Matrices are views of the file; no other file appears."""
    before = ggufrandom.write(path, rng, kinds="Q8_0", tied=True)
    with GgufModel(path) as model:
        q, embedding = model.raw("layers.0.q"), model.stored("embedding").rows
        assert q.tobytes() == before["blk.0.attn_q.weight"][0].tobytes()
        assert not q.flags.owndata
        assert not q.flags.writeable
        assert np.shares_memory(embedding, model.raw("output"))
        model.release("output")
        assert model.f32("layers.1.attention_norm").dtype == np.float32
    with dllama.LLM(path, **ONE) as llm:
        found = llm.memory()
        assert llm.name == "model"
    with GgufModel(path) as model:
        assert footprint(model, RunConfig.of(model.spec, 1, kv_cache="f32"), threads=1) == found
    assert found["weights"] <= 1.03 * path.stat().st_size
    assert [*tmp_path.iterdir()] == [path]


def test_rows_of_qwen2_stay_in_the_order_of_the_file(path, rng):
    before = ggufrandom.write(path, rng, "qwen2", kinds="Q8_0")
    with GgufModel(path) as model:
        assert model.spec.rope_type is RopeType.FALCON
        assert model.raw("layers.0.k").tobytes() == before["blk.0.attn_k.weight"][0].tobytes()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_vectors_are_floats_whatever_the_file_stores(path, rng, kind):
    tensors = ggufrandom.random_tensors(rng, "qwen2", "F16")
    for name, (array, _) in tensors.items():
        if array.ndim == 1:
            tensors[name] = (gguf.quantize(array, Type[kind]), Type[kind])
    ggufmodel.write(path, "qwen2", tensors, ggufrandom.keys("qwen2"))
    if kind == "Q8_0":
        with pytest.raises(FormatError, match=r"shape of blk\.0\.attn_norm\.weight \(Q8_0\)"):
            GgufModel(path)
        return
    with dllama.LLM(path, **ONE) as llm:
        check(llm.eval(TOKENS), expected(path, tensors), "F16")


def test_a_foreign_type_is_named(path, rng, monkeypatch):
    """It is refused without the package, and the message says what helps."""
    ggufrandom.write(path, rng, kinds={"": "Q8_0", "blk.1.ffn_down": "IQ2_XXS"}, experts=True)
    monkeypatch.setitem(sys.modules, "gguf", None)
    message = r"model\.gguf: blk\.1\.ffn_down_exps\.weight is IQ2_XXS, .*--requantise"
    with pytest.raises(UnsupportedError, match=message):
        dllama.LLM(path)
    with pytest.raises(UnsupportedError, match=r"down_exps\.weight.*pip install 'dllama\[gguf\]'"):
        dllama.LLM(path, requantise=True)
    with pytest.raises(UnsupportedError, match=r"down_exps\.weight is IQ2_XXS.*--weights"):
        convert(path, path.with_name("out"), progress=False)


@pytest.mark.parametrize("experts", [False, True])
def test_requantised_tensors_are_q80(path, rng, standing, experts):
    kinds = {"": "Q8_0", "ffn_down": "IQ2_XXS", "token_embd": "IQ2_XXS"}
    tensors = ggufrandom.write(path, rng, kinds=kinds, experts=experts, tied=True)
    right = expected_of_requantised(path, tensors)
    with dllama.LLM(path, requantise=True, **ONE) as llm:
        assert llm.spec.type_of("embedding") is llm.spec.type_of("layers.0.down") is WeightType.Q80
        logits = llm.eval(TOKENS)
        check(logits, right, kinds, experts)
    with dllama.LLM(path, requantise=True, workers=standing(1), buffer="f32", **ONE) as llm:
        np.testing.assert_array_equal(llm.eval(TOKENS), logits)


def expected_of_requantised(path, tensors):
    with GgufModel(path, requantise=True) as model:
        return oracle.forward(ggufrandom.decoded(tensors), model.spec, TOKENS)


def test_unknown_types_are_refused(path, rng):
    tensors = ggufrandom.write(path, rng, kinds={"": "Q8_0", "blk.1.ffn_down": "Q8_1"})
    assert tensors["blk.1.ffn_down.weight"][1] is Type.Q8_1
    with pytest.raises(UnsupportedError, match=r"ffn_down\.weight is Q8_1, which cannot be read"):
        dllama.LLM(path, requantise=True)
    data = path.read_bytes()
    name = b"blk.1.ffn_down.weight"
    at = data.index(name) + len(name) + 4 + 16
    path.write_bytes(data[:at] + (999).to_bytes(4, "little") + data[at + 4 :])
    for requantise in (False, True):
        with pytest.raises(UnsupportedError, match=r"ffn_down\.weight is of the unknown type 999"):
            dllama.LLM(path, requantise=requantise)


def test_a_tensor_that_is_cut_off_is_named(path, rng):
    ggufrandom.write(path, rng, kinds={"": "Q8_0", "output.weight": "Q4_0"})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FormatError, match=r"model\.gguf: output\.weight \(Q4_0\) is bytes"):
        dllama.LLM(path)
    ggufrandom.write(path, rng, kinds={"": "Q8_0", "output.weight": "IQ2_XXS"})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FormatError, match=r"model\.gguf: output\.weight \(IQ2_XXS\) is bytes"):
        dllama.LLM(path, requantise=True)


def test_numbers_that_are_not_finite_cannot_be_requantised(path, rng):
    tensors = ggufrandom.random_tensors(rng, "llama", {"": "Q8_0", "blk.0.ffn_up": "IQ2_XXS"})
    tensors["blk.0.ffn_up.weight"][0].reshape(-1, 66)[5, :2] = (0, 0x7C)
    ggufmodel.write(path, "llama", tensors, ggufrandom.keys())
    with pytest.raises(FormatError, match=r"a number of blk\.0\.ffn_up\.weight \(IQ2_XXS\)"):
        dllama.LLM(path, requantise=True)


@pytest.mark.parametrize(
    ("name", "kind", "part", "at", "high"),
    [
        ("blk.1.ffn_down.weight", "Q4_1", "scale", 3, 0x7E),
        ("blk.0.attn_v.weight", "Q6_K", "scale", 209, 0xFC),
        ("output.weight", "Q8_0", "scale", 1, 0x7C),
        ("blk.1.attn_output.weight", "F32", "number", 7, 0x7F),
        ("blk.1.ffn_up.weight", "F16", "number", 5, 0xFE),
        ("blk.0.attn_k.weight", "BF16", "number", 3, 0x7F),
        ("blk.1.ffn_norm.weight", "F32", "number", 11, 0xFF),
        ("output_norm.weight", "F32", "number", 3, 0x7F),
    ],
)
def test_numbers_that_are_not_finite_are_named(path, rng, name, kind, part, at, high):
    """They would vanish where activations are rounded to blocks, and leave wrong logits."""
    tensors = ggufrandom.random_tensors(rng, "llama", {"": "Q4_0", name: kind})
    flat = tensors[name][0].reshape(-1).view(np.uint8)
    flat[at - 1 : at + 1] = (0xC0, high)
    ggufmodel.write(path, "llama", tensors, ggufrandom.keys())
    name, kind = re.escape(name), re.escape(kind)
    with pytest.raises(FormatError, match=rf"a {part} of {name} \({kind}\) is not finite"):
        dllama.LLM(path)
    with pytest.raises(DllamaError, match=rf"a {part} of .* is not finite"):  # of either node
        dllama.LLM(path, nodes=2)


def test_an_embedding_that_is_not_finite_is_noticed_when_it_is_read(path, rng):
    """A token reads one row of the file. A bad one makes all logits NaN, which no sampler takes."""
    tensors = ggufrandom.random_tensors(rng, "llama", "Q8_0")
    tensors["token_embd.weight"][0][5, :2] = (0, 0x7E)
    ggufmodel.write(path, "llama", tensors, ggufrandom.keys())
    with dllama.LLM(path) as llm:
        assert np.isfinite(llm.eval([1, 2])).all()
        with pytest.raises(ModelError, match="logit 0 is nan"):
            list(llm.generate([5], max_tokens=1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blk.2.attn_q.weight", "not used by this model: blk.2.attn_q.weight"),
        ("blk.0.attn_q.lora_a", "the tensor blk.0.attn_q.lora_a is not supported"),
        ("blk.0.attn_q_norm.weight", "not used by this model: blk.0.attn_q_norm.weight"),
        ("blk.0.attn_q.bias", "not used by this model: blk.0.attn_q.bias"),
        ("blk.0.attn_norm.bias", "blk.0.attn_norm.bias: this bias is not supported"),
        ("blk.1.nextn.eh_proj.weight", "the tensor blk.1.nextn.eh_proj.weight is not supported"),
        ("blk.1.ffn_gate_shexp.weight", "ffn_gate_shexp.weight is not supported"),
        ("blk.0.ffn_gate_inp.weight", "not used by this model: blk.0.ffn_gate_inp.weight"),
        ("rope_factors_long.weight", "rope_factors_long.weight is not supported"),
        ("blk.0.attn_rot_embd.weight", None),
    ],
)
def test_no_tensor_is_ignored(path, rng, name, message):
    extra = (rng.random(256).astype(np.float32), Type.F32)
    ggufmodel.write(path, "llama", {**ggufrandom.random_tensors(rng), name: extra},
                    ggufrandom.keys())  # fmt: skip
    if message is None:
        GgufModel(path).close()
        return
    with pytest.raises(UnsupportedError, match=f"model.gguf: .*{message}"):
        GgufModel(path)


def test_experts_of_different_types(path, rng):
    """Old files have a tensor for each expert."""
    tensors = ggufrandom.random_tensors(rng, "llama", "Q8_0", experts=True)
    for name in [name for name in tensors if "_exps" in name]:
        array, kind = tensors.pop(name)
        for expert in range(3):
            tensors[name.replace("_exps", f".{expert}")] = (array[expert], kind)
    ggufmodel.write(path, "llama", tensors, ggufrandom.keys(experts=True))
    with GgufModel(path) as model:
        assert model.spec.n_experts == 3
    array = gguf.dequantize(*tensors["blk.1.ffn_up.2.weight"])
    tensors["blk.1.ffn_up.2.weight"] = (array, Type.F32)
    ggufmodel.write(path, "llama", tensors, ggufrandom.keys(experts=True))
    message = r"blk\.1\.ffn_up\.2\.weight is F32, other experts of the layer are Q80"
    with pytest.raises(UnsupportedError, match=message):
        GgufModel(path)


def test_closed_models_and_missing_files(path, rng):
    ggufrandom.write(path, rng)
    model = GgufModel(path)
    rows = model.rows("layers.0.q")
    model.close()
    model.release("layers.0.q")
    assert np.isfinite(rows.view("<f4")).all()
    with pytest.raises(ModelError, match=r"none\.gguf"):
        GgufModel(path.with_name("none.gguf"))


def test_conversion_keeps_a_tied_output_once(path, tmp_path, rng):
    before = ggufrandom.write(path, rng, kinds={"": "Q4_0", "token_embd": "Q8_0"}, tied=True)
    convert(path, tmp_path / "out", progress=False)
    with ModelFile.open(tmp_path / "out" / "model.m") as file:
        assert file.raw("output").tobytes() == before["token_embd.weight"][0].tobytes()
        assert file.files[0].stat().st_size < 1.01 * path.stat().st_size


def test_settings_beside_the_file_are_not_its_own(path, rng, capsys):
    """A model folder has generation defaults; a GGUF file may lie anywhere."""
    ggufrandom.write(path, rng, kinds="Q8_0")
    broken = '{"do_sample": true, "temperature": "hot"}'
    path.with_name("generation_config.json").write_text(broken)
    words = ["--prompt", "1 5 9", "--steps", "3", "--seed", "1", "--quiet"]
    assert main(["run", "--model", str(path), *words]) == 0
    assert len(capsys.readouterr().out.split()) == 3
