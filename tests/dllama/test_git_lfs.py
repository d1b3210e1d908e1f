"""A Git LFS pointer is called that, whatever file it stands for."""

from __future__ import annotations

import shutil

import pytest

import dllama
from dllama.cli import main
from dllama.converter import convert
from dllama.errors import ModelError

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 2471645608\n"
)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
     "tokenizer_config.json", "generation_config.json", "chat_template.jinja"],
)  # fmt: skip
def test_files_of_a_hugging_face_folder(chat_model, fixtures, tmp_path, name):
    source = shutil.copytree(fixtures / "llama-gqa", tmp_path / "source")
    if name not in ("tokenizer.json", "tokenizer.model"):
        shutil.copy(chat_model / "tokenizer.json", source)
    (source / name).write_bytes(POINTER)
    with pytest.raises(ModelError, match=rf"{name}: is a Git LFS pointer, not the file itself"):
        convert(source, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_other_checkpoints(fixtures, tmp_path):
    source = shutil.copytree(fixtures / "llama-gqa", tmp_path / "source")
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(POINTER)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: is a Git LFS pointer"):
        convert(source, tmp_path / "out", progress=False)
    meta = tmp_path / "meta"
    meta.mkdir()
    (meta / "params.json").write_text("{}")
    (meta / "consolidated.00.pth").write_bytes(POINTER)
    with pytest.raises(ModelError, match=r"consolidated\.00\.pth: is a Git LFS pointer"):
        convert(meta, tmp_path / "out", progress=False)
    (tmp_path / "model.gguf").write_bytes(POINTER)
    with pytest.raises(ModelError, match=r"model\.gguf: is a Git LFS pointer"):
        convert(tmp_path / "model.gguf", tmp_path / "out", progress=False)


@pytest.mark.parametrize("name", ["model.gguf", "model.m"])
def test_models_that_are_run(tmp_path, name, capsys):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(ModelError, match=f"{name}: is a Git LFS pointer"):
        dllama.LLM(tmp_path / name)
    assert main(["run", "--model", str(tmp_path / name)]) == 1
    assert "is a Git LFS pointer" in capsys.readouterr().err


def test_tokenizers_beside_a_model(chat_model, tmp_path):
    for name in ("tokenizer.t", "tokenizer.json"):
        folder = shutil.copytree(chat_model, tmp_path / name)
        (folder / name).write_bytes(POINTER)
        with pytest.raises(ModelError, match=f"{name}: is a Git LFS pointer"):
            dllama.LLM(folder)
