"""What conversions of quantised folders have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from oracle import llama as oracle
from oracle.huggingface import read_folder

import dllama
from dllama.converter import convert
from dllama.converter.convert import Report
from dllama.model.file import ModelFile

TOKENS = list(range(3, 40))


def check_decoded(quantised: Path, decoded: Path, out: Path, kind: str) -> Report:
    """Convert both folders: the matrices in layers must be equal number by number.

    Logits are compared with the oracle's; activations are rounded to 8 bits where weights are
    quantised.

    Args:
        quantised: a folder with quantised weights.
        decoded: the same with weights of float32.
        out: where to write.
        kind: the type that the matrices in layers must have.
    """
    with mock.patch("dllama.converter.convert.RUN", 1000):  # a few rows at a time
        report = convert(quantised, out / "quantised", threads=1, progress=False)
    convert(decoded, out / "decoded", "f32", threads=1, progress=False)
    ours, right = (ModelFile.open(out / name / "model.m") for name in ("quantised", "decoded"))
    with ours, right:
        for name in matrices(right):
            np.testing.assert_array_equal(ours.f32(name), right.f32(name), err_msg=name)
            assert ours.tensors[name].weight_type.name == kind
    check_logits(out / "quantised", decoded)
    return report


def matrices(model: ModelFile) -> list[str]:
    """Names of the quantised matrices."""
    last = ("q", "k", "v", "o", "gate", "down", "up")
    found = [name for name in model.tensors if name.rpartition(".")[2] in last]
    assert len(found) >= 14
    return found


def check_logits(model: Path, decoded: Path, bound: float = 0.02, **options: Any) -> None:
    """Compare logits of a model folder with the oracle's on decoded weights.

    A rounding may choose another expert, which changes all logits after a token.
    """
    spec, tensors = read_folder(decoded)
    right = oracle.forward(tensors, spec, TOKENS, halves=True)
    with dllama.LLM(model, threads=1, kv_cache="f32", **options) as llm:
        error = np.abs(llm.eval(TOKENS) - right)
    assert np.median(error) < bound * right.std()
    assert spec.n_experts or error.max() < 12 * bound * right.std()
