"""Models for embeddings: saved without a head, with a file that says how texts are embedded."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dllama
from dllama.converter import convert
from dllama.errors import FormatError
from dllama.options.files import pooling_default

LAST = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": False,
        "pooling_mode_lasttoken": True, "include_prompt": True}  # fmt: skip


def test_a_model_without_a_head(fixtures, converted, tmp_path):
    """As Qwen3-Embedding is saved: no name begins with `model.`, and the embedding is tied."""
    source = shutil.copytree(fixtures / "qwen3", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    assert all(not name.startswith("model.") for name in bare)
    save_file(bare, source / "model.safetensors")
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text(json.dumps(LAST))
    folder = convert(source, tmp_path / "model", "f32", progress=False).output
    expected = converted("qwen3", "f32") / "model.m"
    assert (folder / "model.m").read_bytes() == expected.read_bytes()
    ids = [[3, 5, 9], [7, 7]]
    with dllama.LLM(folder, threads=1) as llm:
        np.testing.assert_array_equal(llm.embed(ids), llm.embed(ids, "last"))
        assert (llm.embed(ids) != llm.embed(ids, "mean")).any()


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        (None, "mean"),
        ({}, "mean"),
        (LAST, "last"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_what_a_folder_says(tmp_path, config, pooling):
    if config is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert pooling_default(tmp_path) == pooling


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"pooling_mode_cls_token": True}, "cls_token"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}, "mean_tokens, last"),
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode": ["mean", "max"]}, "max"),
    ],
)
def test_refuses_what_it_does_not_know(tmp_path, config, shown):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match=r"1_Pooling/config\.json: pooling mode is") as found:
        pooling_default(tmp_path)
    assert shown in str(found.value)
