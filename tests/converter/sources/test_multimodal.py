"""Folders of models that take more than text: the same model as from the text part alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dllama
from dllama.converter import convert
from dllama.errors import FormatError, ModelError, UnsupportedError

# Fields that a whole model has beside text_config.
WHOLE = {
    "model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"],
    "image_token_index": 10, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
    "vision_feature_layer": -1, "vision_config": {"hidden_size": 32, "model_type": "pixtral"},
}  # fmt: skip
PREFIXES = {
    "transformers 4": ("language_model.model.", "language_model.lm_head."),
    "transformers 5": ("model.language_model.", "lm_head."),
}
VISION = ("vision_tower.ln_pre.weight", "multi_modal_projector.norm.weight")


@pytest.fixture
def wrap(tmp_path, fixtures):
    """A function that writes the mistral fixture as the text part of a model."""

    def write(prefixes=PREFIXES["transformers 4"], text=None, **changes):
        source = fixtures / "mistral"
        config = json.loads((source / "config.json").read_text()) | (text or {})
        del config["architectures"], config["model_type"]
        tensors = load_file(source / "model.safetensors")
        renamed = {
            name.replace("lm_head.", prefixes[1])
            if name.startswith("lm_head.")
            else prefixes[0] + name.removeprefix("model."): tensor
            for name, tensor in tensors.items()
        }
        start = "model." if prefixes[0].startswith("model.") else ""
        renamed |= {start + name: tensors["model.norm.weight"] for name in VISION}
        folder = tmp_path / "whole"
        folder.mkdir()
        whole = {**WHOLE, "text_config": config, **changes}
        (folder / "config.json").write_text(json.dumps(whole))
        save_file(renamed, folder / "model.safetensors")
        return folder

    return write


@pytest.mark.parametrize("style", PREFIXES)
def test_the_text_part_is_the_model(wrap, tmp_path, converted, caplog, style):
    folder = wrap(PREFIXES[style])
    convert(folder, tmp_path / "out", "f32", progress=False)
    expected = (converted("mistral", "f32") / "model.m").read_bytes()
    assert (tmp_path / "out" / "model.m").read_bytes() == expected
    message = "only text is read, without multi_modal_projector and vision_tower"
    assert message in caplog.text


@pytest.mark.parametrize("name", ["gemma3-vl", "qwen3_5-vl", "qwen3_5_moe-vl"])
def test_the_text_part_gives_the_logits_of_transformers(tmp_path, fixtures, name):
    source = fixtures / name
    convert(source, tmp_path / "out", "f32", progress=False)
    stored = np.load(source / "reference.npz")
    with dllama.LLM(tmp_path / "out", threads=1) as llm:
        logits = llm.eval(stored["tokens"].ravel())
    expected = stored["logits"].reshape(logits.shape)
    assert np.abs(logits - expected).max() < 1e-4 * expected.std()


def test_parts_for_images_and_sounds(tmp_path, fixtures, converted, caplog):
    """The layout of published Gemma 4. Shared keys and values may be there, too."""
    config = json.loads((fixtures / "gemma4" / "config.json").read_text())
    tensors = load_file(fixtures / "gemma4" / "model.safetensors")
    renamed = {
        name.replace("model.", "model.language_model.", 1): tensors[name] for name in tensors
    }
    parts = ("audio_tower", "embed_audio", "embed_vision", "vision_tower")
    norm = tensors["model.norm.weight"]
    renamed |= {f"model.{part}.norm.weight": norm for part in parts}
    renamed["model.language_model.layers.2.self_attn.k_norm.weight"] = norm
    whole = {
        "architectures": ["Gemma4ForConditionalGeneration"], "audio_config": {"hidden_size": 8},
        "audio_token_id": 5, "boa_token_id": 6, "boi_token_id": 7, "eoa_token_index": 8,
        "eoi_token_id": 9, "image_token_id": 10, "model_type": "gemma4", "text_config": config,
        "tie_word_embeddings": True, "vision_config": {"hidden_size": 8},
        "vision_soft_tokens_per_image": 280,
    }  # fmt: skip
    folder = tmp_path / "whole"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(whole))
    save_file(renamed, folder / "model.safetensors")
    convert(folder, tmp_path / "out", "f32", progress=False)
    expected = (converted("gemma4", "f32") / "model.m").read_bytes()
    assert (tmp_path / "out" / "model.m").read_bytes() == expected
    assert f"only text is read, without {' and '.join(parts)}" in caplog.text
    assert "keys and values of layers that read those of earlier ones are left out" in caplog.text


def test_a_tensor_of_no_part_is_refused(wrap, tmp_path):
    folder = wrap(("language_model.model.", "audio.lm_head."))
    with pytest.raises((FormatError, UnsupportedError), match=r"lm_head\.weight"):
        convert(folder, tmp_path / "out", "f32", progress=False)


def test_a_missing_text_tensor_is_named(wrap, tmp_path):
    """With the name that the index has."""
    folder = wrap()
    tensors = load_file(folder / "model.safetensors")
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    weight_map = {one: f"model-{2 if one == name else 1}-of-2.safetensors" for one in tensors}
    del tensors[name]
    save_file(tensors, folder / "model-1-of-2.safetensors")
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match=rf"names the file 'model-2-of-2\.safetensors' for {name}"):
        convert(folder, tmp_path / "out", "f32", progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": None}, "text_config is None, expected an object"),
        ({"architectures": ["Other"]}, "the architecture 'Other' is not supported .*only Mistral3"),
        ({"logit_scale": 0.5}, "logit_scale 0.5 is not known"),
        ({"text": {"model_type": "ministral3"}}, "model_type 'ministral3' is not supported"),
        ({"text": {"attn_logit_softcapping": 5.0}}, "attn_logit_softcapping 5.0 is not known"),
    ],
)
def test_what_is_refused(wrap, tmp_path, changes, message):
    if "text" in changes:
        folder = wrap()
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= changes["text"]
        (folder / "config.json").write_text(json.dumps(config))
    else:
        folder = wrap(**changes)
    with pytest.raises((FormatError, UnsupportedError), match=message) as caught:
        convert(folder, tmp_path / "out", "f32", progress=False)
    assert "config.json" in str(caught.value)
