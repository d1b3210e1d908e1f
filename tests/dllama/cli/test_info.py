"""`dllama info`."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from windowed import write_windowed

from dllama import __version__
from dllama._kernels import cpu
from dllama.cli import main
from dllama.model.file import ModelFile, ModelWriter
from dllama.model.tensors import with_types
from dllama.model.weight_types import WeightType
from dllama.model_path import DEMO


@pytest.fixture
def info(capsys):
    """The rows that the command prints: first word (or words before two spaces) and rest."""

    def info(*words: str) -> dict[str, str]:
        assert main(["info", *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        rows = [line.strip().split("  ", 1) for line in lines if line]
        return {row[0]: row[-1].strip() for row in rows}

    return info


def test_of_the_machine(info):
    rows = info()
    assert rows["dllama"] == __version__
    assert rows["cpu features"].split() == cpu.features()
    assert rows["kernels"].startswith(cpu.isa())
    assert rows["threads"].split()[0] == str(cpu.default_threads())
    assert {"python", "openmp"} <= set(rows)


def test_of_a_model(info):
    rows = info(str(DEMO))
    assert rows["file"] == str(DEMO / "model.m")
    assert (rows["arch"], rows["dim"], rows["weight_type"]) == ("llama", "256", "q40")
    assert rows["tokenizer"].startswith("2048 tokens, bos 2043, eos 2044")
    assert rows["layers.*.down"].split() == ["q40", "256", "x", "768", "6", "0.66", "MB"]
    assert rows["KV cache"].endswith("512 positions in f16")


def test_of_a_shorter_context(info):
    rows = info(str(DEMO), "--max-seq-len", "64", "--kv-cache", "f32", "--nodes", "1")
    assert rows["KV cache"].endswith("64 positions in f32")


def test_of_files_by_other_names(info, tmp_path):
    shutil.copy(DEMO / "model.m", tmp_path / "dllama_model_bard_q40.m")
    shutil.copy(DEMO / "tokenizer.t", tmp_path / "dllama_tokenizer_bard.t")
    assert info(str(tmp_path))["tokenizer"].startswith("2048 tokens, bos 2043, eos 2044")
    shutil.copy(DEMO / "model.m", tmp_path / "another.m")
    assert info(str(tmp_path / "another.m"))["tokenizer"] == "none"


def test_lists_are_cut(info, converted):
    rows = info(str(converted("llama-yarn", "f32")), "--nodes", "1")
    assert rows["rope_frequencies"].startswith("1, ")
    assert rows["rope_frequencies"].endswith(", ... (16)")


def test_of_a_mixture_of_experts(info, converted):
    rows = info(str(converted("qwen3-moe", "q40")), "--nodes", "2")
    assert (rows["n_experts"], rows["n_active_experts"], rows["qk_norm"]) == ("8", "2", "head")
    assert not {"no_rope", "window", "post_norms", "attention_cap"} & rows.keys()
    assert rows["layers.*.experts.*.gate"].split() == ["q40", "64", "x", "128", "16", "0.07", "MB"]
    assert rows["hidden units"] == "32 to 63"


def test_of_a_shared_expert_and_layers_without_experts(info, converted):
    rows = info(str(converted("glm4_moe", "f32")), "--nodes", "2")
    names = ("hidden units", "of shared expert", "without experts")
    assert [rows[name] for name in names] == ["0 to 31", "0 to 31", "64 to 95"]


def test_of_layers_with_other_heads_and_widths(info, converted):
    rows = info(str(converted("gemma4", "f32")), "--nodes", "2")
    assert (rows["KV heads"], rows["with others' keys"]) == ("1 to 1", "96 to 191")
    assert not {"without a window", "without experts", "beside experts"} & rows.keys()
    rows = info(str(converted("gemma4-moe", "f32")), "--nodes", "2")
    assert (rows["KV heads"], rows["without a window"]) == ("1 to 1", "0 to 0")
    names = ("hidden units", "beside experts")
    assert [rows[name] for name in names] == ["0 to 31", "64 to 95"]


def test_of_linear_attention(info, converted):
    """Texts have fewer positions than two blocks, so one state is enough."""
    model = str(converted("qwen3_5", "f32"))
    rows = info(model, "--nodes", "3", "--kv-cache", "f16")
    assert rows["value heads"] == "3 to 3"
    assert rows["KV cache"].endswith("256 positions in f16, 1 states of linear attention in f32")
    rows = info(str(converted("falcon-h1", "f32")), "--nodes", "3")
    assert (rows["query heads"], rows["value heads"]) == ("3 to 3", "3 to 3")
    assert (rows["ssm"], rows["ssm_most_step"]) == ("yes", "1000.0")


def test_of_a_model_without_a_tokenizer(info, converted):
    rows = info(str(converted("llama31-tied", "f32") / "model.m"))
    assert rows["tokenizer"] == "none"
    assert rows["rope_type"] == "llama31"
    assert rows["rope_scaling"].startswith("factor ")


def test_memory_of_nodes_without_a_model_is_that_of_the_demo(info):
    rows = info("--nodes", "2")
    assert rows["file"] == str(DEMO / "model.m")
    assert {"memory of node 0", "memory of node 1"} <= set(rows)


def test_each_type_of_a_tensor_has_a_row(tmp_path, capsys):
    with ModelFile.open(DEMO / "model.m") as demo:
        spec = with_types(demo.spec, {"layers.2.down": WeightType.F16, "output": WeightType.Q80})
    with ModelWriter(tmp_path / "model.m", spec) as writer:
        for one in writer.tensors.values():
            writer.write_rows(one.name, np.zeros(one.shape, np.float32))
        writer.commit()
    assert main(["info", str(tmp_path / "model.m")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    down = [(row[1], row[5]) for row in rows if row[:1] == ["layers.*.down"]]
    assert down == [("q40", "5"), ("f16", "1")]
    assert [row[1] for row in rows if row[:1] == ["output"]] == ["q80"]


def test_layers_with_a_window_take_less(info, tmp_path):
    """There is room for contexts + 1 times 3 blocks of 256 positions, for 3 of 6 layers."""
    path = str(write_windowed(tmp_path / "model.m", seq_len=8192))
    rows = info(path, "--max-seq-len", "8192", "--contexts", "2", "--kv-cache", "f16")
    place, _, words = rows["KV cache"].partition(", ")
    assert words == "2 x 8192 positions, 2304 of layers with a window in f16"
    assert place == f"{(2 * 8192 + 2304) * 3 * 2 * 4 * 32 * 2 / 1e6:.2f} MB"
    assert rows["window"] == "20"
