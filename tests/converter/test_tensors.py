"""Every tensor of a checkpoint is used, or named in an error."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dllama.converter import convert
from dllama.errors import DllamaError, FormatError, ModelError, UnsupportedError
from dllama.model.file import ModelFile

INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00001.safetensors"


class Folder:
    """A copy of a fixture whose tensors and config a test may change."""

    def __init__(self, fixture, place):
        self.path = shutil.copytree(fixture, place / "source")
        self.tensors = load_file(self.path / WHOLE)
        self._output = place / "out"

    def set(self, **fields):
        config = json.loads((self.path / "config.json").read_text())
        (self.path / "config.json").write_text(json.dumps({**config, **fields}))

    def convert(self):
        """Save the tensors, and return the model and the warnings."""
        if (self.path / WHOLE).is_file():
            save_file(self.tensors, self.path / WHOLE)
        report = convert(self.path, self._output, "f32", progress=False)
        return (report.output / "model.m").read_bytes(), report.warnings

    def write_index(self, **more):
        """Make one shard with an index of it, and of other places."""
        save_file(self.tensors, self.path / SHARD)
        (self.path / WHOLE).unlink()
        weight_map = {**dict.fromkeys(self.tensors, SHARD), **more}
        (self.path / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def folder(fixtures, tmp_path):
    return Folder(fixtures / "llama-gqa", tmp_path)


@pytest.fixture
def tied(fixtures, tmp_path):
    return Folder(fixtures / "llama31-tied", tmp_path)


def test_shapes_are_checked_before_anything_is_written(folder, monkeypatch):
    monkeypatch.setattr(sys.modules["dllama.converter.convert"], "ModelWriter", None)
    folder.tensors["model.norm.weight"] = folder.tensors["model.norm.weight"][:-1].copy()
    with pytest.raises(FormatError, match=r"shape of model\.norm\.weight is \(127,\)"):
        folder.convert()


@pytest.mark.parametrize(
    ("count", "names", "shown"),
    [
        (6, ["q_proj.bias", "k_proj.bias", "v_proj.bias"], r"self_attn\.\w_proj\.bias, .*, \.\.\."),
        (4, ["q_norm.weight", "k_norm.weight"], r"\w_norm\.weight, .*, \.\.\."),
        (4, ["q_proj.lora_A.default.weight", "q_proj.lora_B.default.weight"], "lora_A"),
        (2, ["q_proj.weight_scale"], r"layers\.0.*q_proj\.weight_scale, model\.layers\.1"),
    ],
)
def test_refuses_tensors_that_nothing_uses(folder, count, names, shown):
    for layer in range(2):
        for name in names:
            at = f"model.layers.{layer}.self_attn.{name}"
            folder.tensors[at] = np.ones(8, np.float32)
    with pytest.raises(UnsupportedError, match=f"source: {count} tensors are not used .*{shown}"):
        folder.convert()


def test_refuses_layers_that_the_config_does_not_count(folder):
    folder.set(num_hidden_layers=1)
    with pytest.raises(UnsupportedError, match=r"9 tensors are not used .*model\.layers\.1\."):
        folder.convert()


def test_names_a_single_tensor(folder):
    folder.tensors["score.weight"] = np.ones((2, 128), np.float32)
    with pytest.raises(
        UnsupportedError, match=r"1 tensor is not used by this model: score\.weight"
    ):
        folder.convert()


@pytest.mark.parametrize("name", [INV_FREQ, "rotary_emb.cos_cached", "h.0.attn.masked_bias"])
def test_harmless_tensors_are_ignored(folder, name):
    expected = folder.convert()
    folder.tensors[name] = np.ones(3, np.float32)
    assert folder.convert() == expected


def test_an_own_output_matrix_wins_over_a_tie_flag(folder):
    expected, _ = folder.convert()
    folder.set(tie_word_embeddings=True)
    model, warnings = folder.convert()
    assert any("tie_word_embeddings is true, but lm_head.weight differs" in w for w in warnings)
    assert model == expected
    folder.tensors["lm_head.weight"] = folder.tensors["model.embed_tokens.weight"].copy()
    assert not any("tie_word" in warning for warning in folder.convert()[1])


@pytest.mark.parametrize("flag", [True, None])
def test_an_own_output_matrix_of_a_tied_model(tied, flag, rng):
    tied.set(tie_word_embeddings=flag)
    expected, _ = tied.convert()
    tied.tensors["lm_head.weight"] = tied.tensors["model.embed_tokens.weight"].copy()
    assert tied.convert()[0] == expected
    head = rng.standard_normal(tied.tensors["lm_head.weight"].shape).astype(np.float32)
    tied.tensors["lm_head.weight"] = head
    tied.convert()
    with ModelFile.open(tied._output / "model.m") as file:
        np.testing.assert_array_equal(file.f32("output"), head)


def test_an_index_may_list_what_no_model_needs(folder):
    expected = folder.convert()
    folder.write_index(**{INV_FREQ: SHARD, "model.old.weight": "gone.safetensors"})
    assert folder.convert() == expected


def test_an_index_must_have_what_the_model_needs(folder):
    norm = folder.tensors.pop("model.norm.weight")
    folder.write_index(**{"model.norm.weight": SHARD})
    with pytest.raises(FormatError, match=rf"{INDEX}: model\.norm\.weight is not in {SHARD}"):
        folder.convert()
    other = {**dict.fromkeys(folder.tensors, SHARD), "model.norm.weight": "gone.safetensors"}
    (folder.path / INDEX).write_text(json.dumps({"weight_map": other}))
    with pytest.raises(ModelError, match=r"'gone\.safetensors' for model\.norm\.weight"):
        folder.convert()
    save_file({"model.norm.weight": norm}, folder.path / "gone.safetensors")
    folder.convert()


def test_an_index_does_not_hide_an_output_matrix(tied):
    """A listed output matrix that is missing is no reason to take the embedding."""
    tied.write_index(**{"lm_head.weight": "gone.safetensors"})
    with pytest.raises(ModelError, match=r"gone\.safetensors"):
        tied.convert()


def test_tensors_of_a_shard_that_the_index_leaves_out(folder):
    """transformers reads all tensors of the files that an index names."""
    expected = folder.convert()
    folder.tensors["extra.weight"] = np.ones(3, np.float32)
    folder.write_index()
    weight_map = dict.fromkeys(folder.tensors, SHARD)
    del weight_map["extra.weight"], weight_map["model.norm.weight"]
    (folder.path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UnsupportedError, match=r"1 tensor is not used .*extra\.weight"):
        folder.convert()
    del folder.tensors["extra.weight"]
    save_file(folder.tensors, folder.path / SHARD)
    assert folder.convert() == expected
    save_file({"model.norm.weight": np.ones(128, np.float32)}, folder.path / "b.safetensors")
    weight_map["other"] = "b.safetensors"
    (folder.path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(DllamaError, match=r"model\.norm\.weight is in several files"):
        folder.convert()


def test_a_file_with_all_tensors_comes_before_an_index(folder):
    """As in transformers: the index may be left from before tensors were merged."""
    expected = folder.convert()
    stale = {"weight_map": {"model.norm.weight": "model-00001-of-00009.safetensors"}}
    (folder.path / INDEX).write_text(json.dumps(stale))
    assert folder.convert() == expected


def test_refuses_an_adapter_beside_the_model(folder):
    (folder.path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match=r"adapter_config\.json: an adapter \(LoRA\)"):
        folder.convert()


@pytest.mark.parametrize("pattern", ["quantize_config.json", "hf_quant_config.json"])
def test_refuses_a_quantised_folder(folder, pattern):
    (folder.path / pattern).write_text("{}")
    with pytest.raises(UnsupportedError, match=pattern):
        folder.convert()
