"""GGUF files: same model as from a Hugging Face folder, and unchanged blocks."""

from __future__ import annotations

import json
import re
import shutil
import sys

import numpy as np
import pytest
from oracle.huggingface import paired, read_safetensors

from dllama.converter import convert
from dllama.converter.gguf_model import GgufModel
from dllama.converter.own_types import own_type
from dllama.converter.sources.gguf import GgufFile
from dllama.errors import DllamaError, FormatError, UnsupportedError
from dllama.model.file import ModelFile
from dllama.model.weight_types import WeightType

gguf = pytest.importorskip("gguf")
ggufarchs = pytest.importorskip("ggufarchs")
ggufmodel = pytest.importorskip("ggufmodel")
ggufrandom = pytest.importorskip("ggufrandom")
Type = gguf.GGMLQuantizationType


@pytest.fixture
def path(tmp_path):
    """Where a test writes its file."""
    return tmp_path / "model.gguf"


def run(path, tmp_path, weights=None):
    return convert(path, tmp_path / "out", weights, progress=False)


def test_every_fourth_layer_of_smollm3_has_no_rope(path, tmp_path, fixtures):
    """No key says so. The third layer of the fixture has none, so here all three have RoPE."""
    source = shutil.copytree(fixtures / "smollm3", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "no_rope_layers": [1, 1, 1]}))
    ggufmodel.write_folder(path, source, "F32")
    run(path, tmp_path, "f32")
    convert(source, tmp_path / "expected", "f32", progress=False)
    expected = (tmp_path / "expected" / "model.m").read_bytes()
    assert (tmp_path / "out" / "model.m").read_bytes() == expected
    rng = np.random.default_rng(3)
    tensors = ggufrandom.random_tensors(rng, "smollm3")
    for name in [name for name in tensors if name.startswith("blk.1.")]:
        for layer in (2, 3, 4):
            tensors[name.replace("blk.1.", f"blk.{layer}.")] = tensors[name]
    keys = ggufrandom.keys("smollm3", False) | {"smollm3.block_count": 5}
    ggufmodel.write(path, "smollm3", tensors, keys)
    with GgufModel(path) as model:
        assert model.spec.no_rope == (3,)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_half_floats(path, tmp_path, fixtures, kind):
    stored = ggufmodel.write_folder(path, fixtures / "llama-gqa", kind)
    run(path, tmp_path, "f32")
    with ModelFile.open(tmp_path / "out" / "model.m") as file:
        expected = gguf.dequantize(stored["blk.1.ffn_down.weight"], Type[kind])
        np.testing.assert_array_equal(file.f32("layers.1.down"), expected)


NAMES = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate",
         "down": "ffn_down", "up": "ffn_up"}  # fmt: skip


@pytest.mark.parametrize(("kind", "weights"), [("Q4_0", "q40"), ("Q8_0", "q80")])
def test_blocks_are_copied(path, tmp_path, fixtures, kind, weights):
    stored = ggufmodel.write_folder(path, fixtures / "llama-gqa", kind)
    report = run(path, tmp_path)
    assert report.spec.weight_type is WeightType[weights.upper()]
    assert not [line for line in report.warnings if "accuracy" in line]
    with ModelFile.open(tmp_path / "out" / "model.m") as file:
        for layer in range(2):
            for ours, theirs in NAMES.items():
                expected = stored[f"blk.{layer}.{theirs}.weight"].tobytes()
                assert file.raw(f"layers.{layer}.{ours}").tobytes() == expected, ours
        assert file.raw("output").tobytes() == stored["output.weight"].tobytes()
        embedding = gguf.dequantize(stored["token_embd.weight"], Type[kind])
        np.testing.assert_array_equal(file.f32("embedding"), embedding)


def test_every_tensor_keeps_its_type(path, tmp_path, fixtures):
    """A mixed file, whose header names the commonest type."""
    kinds = {"token_embd": "F16", "ffn_down": "Q4_0", "attn_v": "Q8_0", "output": "Q8_0"}
    chosen = {f"blk.1.{name}.weight": kind for name, kind in kinds.items()}
    chosen |= {f"{name}.weight": kinds[name] for name in ("token_embd", "output")}
    ggufmodel.write_folder(path, fixtures / "llama-gqa", "F16")
    tensors, metadata = ggufmodel.read(path)
    for name, kind in chosen.items():
        if name in tensors:
            array = gguf.dequantize(*tensors[name])
            tensors[name] = (gguf.quantize(array, Type[kind]), Type[kind])
    ggufmodel.write(path, "llama", tensors, metadata)
    report = run(path, tmp_path)
    assert report.spec.weight_type is WeightType.F16
    assert dict(report.spec.tensor_types) == {
        "embedding": WeightType.F16, "layers.1.v": WeightType.Q80, "layers.1.down": WeightType.Q40,
        "output": WeightType.Q80,
    }  # fmt: skip
    assert not [line for line in report.warnings if "accuracy" in line]
    with ModelFile.open(tmp_path / "out" / "model.m") as file:
        for ours, theirs in {"layers.1.down": "blk.1.ffn_down", "embedding": "token_embd",
                             "output": "output", "layers.0.k": "blk.0.attn_k"}.items():  # fmt: skip
            assert file.raw(ours).tobytes() == tensors[f"{theirs}.weight"][0].tobytes()


def test_a_type_that_cannot_be_kept_is_named(path, tmp_path):
    """Nothing is requantised unless --weights says so."""
    array = np.zeros((32, 66), np.uint8)
    tensors = {"token_embd.weight": (array, Type.IQ2_XXS)}
    ggufmodel.write(path, "llama", tensors, ggufmodel.keys("llama"))
    stored = GgufFile(path).tensors["model.embed_tokens.weight"]
    assert own_type(stored) is None
    assert stored.lossy == "IQ2_XXS"


def test_other_quantisations_are_requantised_with_a_warning(path, tmp_path, fixtures):
    stored = ggufmodel.write_folder(path, fixtures / "llama-gqa", "Q5_1")
    (warning,) = (w for w in run(path, tmp_path, "q80").warnings if "accuracy" in w)
    assert re.search(r"model\.gguf: 15 tensors lose accuracy from (q51|Q5_1) to q80", warning)
    with ModelFile.open(tmp_path / "out" / "model.m") as file:
        numbers = gguf.dequantize(stored["blk.0.attn_k.weight"], Type.Q5_1)
        found = file.f32("layers.0.k")
        np.testing.assert_array_equal(file.f32("embedding")[3], gguf.dequantize(
            stored["token_embd.weight"], Type.Q5_1)[3])  # fmt: skip
    blocks = np.abs(numbers).reshape(-1, 32).max(axis=1)
    assert (np.abs(found - numbers).reshape(-1, 32).max(axis=1) <= blocks / 127 * 0.57).all()
    assert not [w for w in run(path, tmp_path, "f16").warnings if "accuracy" in w]
    ggufmodel.write_folder(path, fixtures / "llama-gqa", "Q8_0")
    assert "lose accuracy from q80 to q40" in run(path, tmp_path, "q40").warnings[-1]


def experts(rng, module, names):
    """Tensors of a router and three experts with Hugging Face's names."""
    shapes = {names[0]: (32, 64), names[1]: (64, 32), names[2]: (32, 64)}
    found = {f"{module}.gate.weight": rng.random((3, 64), np.float32)}
    for expert in range(3):
        for name, shape in shapes.items():
            key = f"{module}.experts.{expert}.{name}.weight"
            found[key] = rng.random(shape, np.float32)
    return found


def stacked(tensors, module, names, theirs):
    """The same with all experts in one tensor, as in GGUF."""
    found = {f"{theirs}_inp.weight": tensors[f"{module}.gate.weight"]}
    for name, kind in zip(names, ("gate", "down", "up"), strict=True):
        parts = [tensors[f"{module}.experts.{expert}.{name}.weight"] for expert in range(3)]
        found[f"blk.0.ffn_{kind}_exps.weight"] = np.stack(parts)
    return found


@pytest.mark.parametrize(
    ("arch", "model_type", "module", "names"),
    [
        ("llama", "mixtral", "block_sparse_moe", ("w1", "w2", "w3")),
        ("qwen3moe", "qwen3_moe", "mlp", ("gate_proj", "down_proj", "up_proj")),
    ],
)
def test_experts(path, rng, arch, model_type, module, names):
    module = f"model.layers.0.{module}"
    tensors = experts(rng, module, names)
    stored = stacked(tensors, module, names, "blk.0.ffn_gate")
    stored["token_embd.weight"] = rng.random((8, 64), np.float32)
    counts = {"expert_count": 3, "expert_used_count": 2, "expert_feed_forward_length": 32}
    metadata = ggufmodel.keys(arch, **counts)
    ggufmodel.write(path, arch, {n: (t, Type.F32) for n, t in stored.items()}, metadata)
    file = GgufFile(path)
    assert file.config["model_type"] == model_type
    assert (file.config["num_experts"], file.config["num_experts_per_tok"]) == (3, 2)
    assert file.config["intermediate_size"] == 32
    assert set(file.tensors) == {*tensors, "model.embed_tokens.weight"}
    for name, expected in tensors.items():
        np.testing.assert_array_equal(file.tensors[name].rows(0, len(expected)), expected)


@pytest.mark.parametrize("arch", ["qwen2", "qwen3"])
def test_names_and_settings_of_qwen(path, rng, arch):
    layer = {f"self_attn.{name}_proj.weight": (64, 64) for name in "qkvo"}
    layer |= {f"mlp.{name}_proj.weight": (64, 64) for name in ("gate", "down", "up")}
    layer |= {"input_layernorm.weight": (64,), "post_attention_layernorm.weight": (64,)}
    if arch == "qwen2":
        layer |= {f"self_attn.{name}_proj.bias": (64,) for name in "qkv"}
    else:
        layer |= {"self_attn.q_norm.weight": (16,), "self_attn.k_norm.weight": (16,)}
    shapes = {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": (8, 64), "model.norm.weight": (64,)}
    tensors = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    stored = ggufarchs.rename(tensors, ggufarchs.WRITERS[arch].arch, 2)
    changes = {"attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1e6}
    metadata = ggufmodel.keys(arch, **changes)
    ggufmodel.write(path, arch, {n: (t, Type.F32) for n, t in stored.items()}, metadata)
    file = GgufFile(path)
    assert not file.paired
    assert file.config["model_type"] == arch
    assert (file.config["rms_norm_eps"], file.config["rope_theta"]) == (1e-6, 1e6)
    assert file.config["tie_word_embeddings"] is True
    assert (file.config["vocab_size"], file.config["rope_scaling"]) == (8, None)
    assert set(file.tensors) == set(tensors)
    for name, expected in tensors.items():
        np.testing.assert_array_equal(file.tensors[name].rows(0, len(expected)), expected)


@pytest.mark.parametrize(
    ("arch", "name", "message"),
    [
        ("gemma", "blk.0.attn_q.weight", "architecture 'gemma' is not supported, only llama"),
        ("llama", "blk.0.ssm_a", "the tensor blk.0.ssm_a is not supported"),
        ("llama", "blk.0.ffn_gate_exps.weight", "expected a matrix"),
    ],
)
def test_tensors_it_does_not_know(path, arch, name, message):
    array = (np.zeros((32, 32), np.float32), Type.F32)
    tensors = {"token_embd.weight": array, name: array}
    ggufmodel.write(path, arch, tensors, ggufmodel.keys(arch))
    with pytest.raises(DllamaError, match=message):
        GgufFile(path)


def test_biases_are_not_dropped(path, tmp_path, fixtures):
    ggufmodel.write_folder(path, fixtures / "llama-gqa", "F32")
    tensors = {t.name: (np.array(t.data), t.tensor_type) for t in gguf.GGUFReader(path).tensors}
    fields = gguf.GGUFReader(path).fields
    metadata = {k: f.contents() for k, f in fields.items() if k.startswith("llama.")}
    tensors["blk.0.attn_q.bias"] = (np.zeros(128, np.float32), Type.F32)
    ggufmodel.write(path, "llama", tensors, metadata)
    with pytest.raises(UnsupportedError, match=r"not used by this model: blk\.0\.attn_q\.bias"):
        run(path, tmp_path)
    tensors["blk.0.attn_output.bias"] = (np.zeros(128, np.float32), Type.F32)
    ggufmodel.write(path, "llama", tensors, metadata)
    with pytest.raises(FormatError, match=r"blk\.0\.attn_k\.bias is missing"):
        run(path, tmp_path)


def test_frequency_factors_of_another_kind(path, tmp_path, fixtures, monkeypatch):
    right = ggufarchs.frequency_factors
    for factors, message in {
        lambda rope, size: np.linspace(1, 9, size // 2, dtype=np.float32): "are not Llama 3",
        lambda rope, size: right(rope, 2 * size): "rope_freqs.weight is 32 factors, expected 16",
    }.items():
        monkeypatch.setattr(ggufarchs, "frequency_factors", factors)
        ggufmodel.write_folder(path, fixtures / "llama31-tied", "F32")
        with pytest.raises((FormatError, UnsupportedError), match=message):
            run(path, tmp_path)
    ones = np.ones(16, np.float32)
    monkeypatch.setattr(ggufarchs, "frequency_factors", lambda rope, size: ones)
    ggufmodel.write_folder(path, fixtures / "llama31-tied", "F32")
    assert run(path, tmp_path).spec.rope_scaling is None


def test_without_the_package(path, tmp_path, fixtures, monkeypatch):
    """Types of model files do not need it."""
    ggufmodel.write_folder(path, fixtures / "llama-gqa", "Q4_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    run(path, tmp_path)


def test_blocks_that_are_not_finite(path, tmp_path, fixtures):
    stored = ggufmodel.write_folder(path, fixtures / "llama-gqa", "Q4_0")
    data = path.read_bytes()
    block = stored["blk.1.ffn_up.weight"].tobytes()[:18]
    path.write_bytes(data.replace(block, b"\x00\x7c" + block[2:]))
    with pytest.raises(FormatError, match=r"blk\.1\.ffn_up\.weight is not finite"):
        run(path, tmp_path)


def test_values_are_those_that_were_written(fixtures):
    """The files of these tests do not depend on what the converter expects."""
    tensors = read_safetensors(fixtures / "llama-gqa" / "model.safetensors")
    rows = tensors["model.layers.0.self_attn.q_proj.weight"]
    turned = paired(rows, 4)
    np.testing.assert_array_equal(turned[:4], rows[[0, 16, 1, 17]])
