"""Calibration: what matrices read, against the oracle, and what it does to a conversion."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from oracle import llama as oracle
from oracle import ops
from oracle.model_file import read_model
from safetensors.numpy import load_file, save_file

import dllama
from dllama import calibration
from dllama.calibration import second_moments
from dllama.cli import main
from dllama.converter import convert
from dllama.errors import ConfigError, ModelError
from dllama.model.spec import typed_name
from dllama.model.tensors import typed
from dllama.perplexity import divergences

MODELS = ("llama-gqa", "llama31-tied", "qwen2", "qwen3", "mixtral", "qwen3-moe", "qwen2_moe")


class Letters:
    """A tokenizer whose ids are the letters of a text."""

    bos_id = 1

    @classmethod
    def beside(cls, path) -> Letters:
        return cls()

    def encode(self, text: str, add_bos: bool) -> list[int]:
        assert not add_bos
        return [ord(letter) % 64 for letter in text]


@pytest.fixture
def letters(monkeypatch):
    monkeypatch.setattr(calibration, "Tokenizer", Letters)


def expected_moments(path, windows, monkeypatch):
    """Mean squares of what the oracle multiplies by each matrix, by the matrix's first number."""
    seen = {}
    spec, tensors = read_model(path)
    matmul = ops.matmul

    def recording(x, weight):
        seen.setdefault(id(weight), []).append(np.asarray(x))
        return matmul(x, weight)

    monkeypatch.setattr(ops, "matmul", recording)
    for window in windows:
        oracle.forward(tensors, spec, window)
    monkeypatch.undo()
    return spec, tensors, seen


@pytest.mark.parametrize("name", MODELS)
def test_second_moments_are_those_of_the_oracle(converted, letters, monkeypatch, name):
    monkeypatch.setattr(calibration, "WINDOW", 40)
    path = converted(name, "f32") / "model.m"
    text = "a quick brown fox jumps over the lazy dog, and then it does it again: over and over."
    found = second_moments(path, text, threads=2)
    ids = Letters().encode(text, False)
    windows = [[1, *ids[at : at + 39]] for at in (0, 40)]
    spec, tensors, seen = expected_moments(path, windows, monkeypatch)
    assert set(found) == {*typed(spec)} - {"embedding"} | {"output"}
    checked = 0
    for tensor, weight in tensors.items():
        if id(weight) in seen and ".experts." not in tensor and tensor != "embedding":
            rows = np.concatenate(seen[id(weight)])
            expected = (rows**2).mean(axis=0)
            np.testing.assert_allclose(found[typed_name(tensor)], expected, rtol=2e-3, atol=1e-7)
            checked += 1
    assert checked >= 4 * spec.n_layers + 1
    if spec.n_experts:  # each row goes to some of the experts, with the same input
        gate, router = (found[f"layers.1.{name}"] for name in ("experts.gate", "router"))
        np.testing.assert_allclose(gate, router, rtol=1e-4)


def test_long_texts_are_sampled(converted, letters, monkeypatch):
    monkeypatch.setattr(calibration, "WINDOW", 16)
    monkeypatch.setattr(calibration, "MOST_WINDOWS", 3)
    path, read = converted("llama-gqa", "f32") / "model.m", []
    second_moments(path, "ab" * 500, 1, read.append)
    assert read == [16, 16, 16]
    with pytest.raises(ConfigError, match="the text is empty"):
        second_moments(path, "", 1)


def test_needs_a_tokenizer(converted):
    with pytest.raises(ModelError, match="no tokenizer, which calibration needs"):
        second_moments(converted("llama31-tied", "f32") / "model.m", "text", 1)


@pytest.fixture
def uneven(fixtures, tmp_path):
    """A Hugging Face folder whose matrices read columns of very different sizes."""
    source = shutil.copytree(fixtures / "llama-gqa", tmp_path / "source")
    tensors, rng = load_file(source / "model.safetensors"), np.random.default_rng(2)
    for name, tensor in tensors.items():
        if "layernorm" in name:
            sizes = np.exp(1.5 * rng.standard_normal(tensor.shape))
            tensors[name] = (tensor * sizes).astype(np.float16)
    save_file(tensors, source / "model.safetensors")
    return source


def logits(model, ids):
    with dllama.LLM(model, kv_cache="f32") as llm:
        return llm.eval(ids)


def test_calibrated_weights_are_closer_to_the_source(letters, uneven, tmp_path):
    text = "".join(chr(97 + i) for i in np.random.default_rng(4).integers(0, 26, 3000))
    (tmp_path / "text.txt").write_text(text)
    ids = [1, *np.random.default_rng(5).integers(33, 59, 100).tolist()]
    convert(uneven, tmp_path / "f32", "f32", progress=False)
    convert(uneven, tmp_path / "plain", "q40", progress=False)
    command = ["convert", str(uneven), "--output", str(tmp_path / "q40"), "--weights", "q40"]
    assert main([*command, "--calibration", str(tmp_path / "text.txt"), "--quiet"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "source", "text.txt", "f32", "plain", "q40",
    }  # fmt: skip
    expected = logits(tmp_path / "f32", ids)
    plain = divergences(logits(tmp_path / "plain", ids), expected).mean()
    calibrated = divergences(logits(tmp_path / "q40", ids), expected).mean()
    assert calibrated < 0.7 * plain
    sizes = [(tmp_path / name / "model.m").stat().st_size for name in ("q40", "plain")]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("weights", "text", "message"),
    [
        ("f16", "a text", "--calibration does not change f16 weights, expected one of mixed, q40"),
        ("q40", None, "text.txt: No such file or directory"),
        ("q40", "", "--calibration: the text is empty"),
    ],
)
def test_what_calibration_refuses(letters, fixtures, tmp_path, capsys, weights, text, message):
    if text is not None:
        (tmp_path / "text.txt").write_text(text)
    command = ["convert", str(fixtures / "llama-gqa"), "--output", str(tmp_path / "out")]
    options = ["--weights", weights, "--calibration", str(tmp_path / "text.txt"), "--quiet"]
    assert main([*command, *options]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
