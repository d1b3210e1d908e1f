"""The memory of a model that is not loaded, against that of the loaded one."""

from __future__ import annotations

import pytest

import dllama
from dllama import settings
from dllama.footprint import footprint
from dllama.modelfile import ModelFile


@pytest.mark.parametrize("weights", ["f32", "f16", "q80", "q40"])
@pytest.mark.parametrize("name", ["llama-gqa", "llama-mha-odd"])
@pytest.mark.parametrize("kv_cache", ["f16", "f32"])
def test_equals_the_memory_of_the_loaded_model(converted, name, weights, kv_cache):
    folder = converted(name, weights)
    with dllama.LLM(folder, threads=3, max_seq_len=50, kv_cache=kv_cache) as llm:
        expected = llm.memory()
    threads = settings.thread_count(3)
    with ModelFile.open(folder / "model.m") as file:
        plan = settings.plan_of(file.spec, 1, max_seq_len=50, kv_cache=kv_cache)
        assert footprint(file, plan, threads=threads) == expected


@pytest.mark.parametrize("all_reduce", ["auto", "exchange", "two-step"])
def test_equals_the_memory_of_every_node(all_reduce):
    with dllama.LLM(nodes=3, threads=1, shares=(2, 1, 1), all_reduce=all_reduce) as llm:
        expected = [llm.memory(rank) for rank in range(3)]
    with ModelFile.open(settings.model_file(None)) as file:
        plan = settings.plan_of(file.spec, 3, shares=(2, 1, 1), all_reduce=all_reduce)
        found = [footprint(file, plan, threads=1, rank=rank) for rank in range(3)]
    assert found == expected
