"""The memory of a model that is not loaded, against that of the loaded one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import dllama
from dllama.cluster.layout import thread_count
from dllama.converter.recipe import WEIGHTS
from dllama.model.file import ModelFile, ModelWriter
from dllama.model.spec import Arch, ModelSpec
from dllama.model.weight_types import WeightType
from dllama.model_path import open_model
from dllama.run_config import RunConfig
from dllama.runtime.footprint import footprint


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", ["llama-gqa", "llama-mha-odd"])
@pytest.mark.parametrize("kv_cache", ["q80", "f16", "f32"])
def test_equals_the_memory_of_the_loaded_model(converted, name, weights, kv_cache):
    folder = converted(name, weights)
    with dllama.LLM(folder, threads=3, max_seq_len=50, kv_cache=kv_cache) as llm:
        expected = llm.memory()
    threads = thread_count(3)
    with ModelFile.open(folder / "model.m") as file:
        config = RunConfig.of(file.spec, 1, max_seq_len=50, kv_cache=kv_cache)
        assert footprint(file, config, threads=threads) == expected


@pytest.mark.parametrize("all_reduce", ["auto", "exchange", "two-step"])
def test_equals_the_memory_of_every_node(all_reduce):
    with dllama.LLM(nodes=3, threads=1, shares=(2, 1, 1), all_reduce=all_reduce) as llm:
        expected = [llm.memory(rank) for rank in range(3)]
    with open_model(None) as file:
        config = RunConfig.of(file.spec, 3, shares=(2, 1, 1), all_reduce=all_reduce, halves=False)
        found = [footprint(file, config, threads=1, rank=rank) for rank in range(3)]
    assert found == expected


def resident(pid: int, key: str) -> int:
    """Bytes of a process: VmRSS now, VmHWM at the most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(rf"{key}:\s+(\d+) kB", status)[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
def test_a_worker_takes_no_more_than_it_says(tmp_path):
    """With a large vocabulary, so that a copy of the logits would be seen."""
    spec = ModelSpec(
        arch=Arch.LLAMA, dim=64, hidden_dim=64, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=32,
        vocab_size=32768, seq_len=512, weight_type=WeightType.Q40,
    )  # fmt: skip
    with ModelWriter(tmp_path / "model.m", spec) as writer:
        for info in writer.tensors.values():
            writer.write_rows(info.name, np.ones(info.shape, np.float32))
        writer.commit()
    with dllama.LLM(tmp_path / "model.m", nodes=2, threads=1) as llm:
        (pid,) = llm._runner.root.worker_pids
        before = resident(pid, "VmRSS")
        llm.eval(range(256))
        memory = llm.memory(1)
        taken = resident(pid, "VmHWM") - before
    assert memory["buffers"] > 16_000_000
    assert taken <= memory["buffers"] + memory["kv_cache"] + 3_000_000
