"""The memory of a model that is not loaded, against that of the loaded one."""

from __future__ import annotations

import pytest

import dllama
from dllama import settings
from dllama.footprint import footprint
from dllama.modelfile import ModelFile


@pytest.mark.parametrize("weights", ["f32", "f16", "q80", "q40"])
@pytest.mark.parametrize("name", ["llama-gqa", "llama-mha-odd"])
@pytest.mark.parametrize(("kv_cache", "half"), [("f16", True), ("f32", False)])
def test_equals_the_memory_of_the_loaded_model(converted, name, weights, kv_cache, half):
    folder = converted(name, weights)
    with dllama.LLM(folder, threads=3, max_seq_len=50, kv_cache=kv_cache) as llm:
        expected = llm.memory()
    threads = settings.thread_count(3)
    with ModelFile.open(folder / "model.m") as file:
        assert footprint(file, threads=threads, seq_len=50, half=half) == expected
