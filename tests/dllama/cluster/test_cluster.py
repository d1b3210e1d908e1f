"""Several nodes against one: the same text, the same bits, the same sampler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

import dllama
from dllama import transports
from dllama.cluster import root
from dllama.cluster.layout import node_threads
from dllama.errors import TransportError
from dllama.model.file import ModelWriter
from dllama.model.spec import Arch, ModelSpec
from dllama.model.weight_types import WeightType

PROMPT, GENERATED = 200, 64
NEAR_TIE = 0.05
UNEVEN = (3, 7, 4)


@pytest.fixture(scope="module")
def macbeth(data):
    """The first 200 tokens of a scene, and what one node makes of them."""
    with dllama.LLM(threads=1) as llm:
        text = (data / "macbeth-prompt.txt").read_text(encoding="utf-8")
        prompt = llm.tokenizer.encode(text)[:PROMPT]
        ids = greedy(llm, prompt)
        llm.reset()
        logits = llm.eval([*prompt, *ids])
    assert len(prompt) == PROMPT
    return prompt, ids, logits


def greedy(llm, prompt, count=GENERATED):
    """Ids of a greedy text."""
    tokens = llm.generate(prompt, count, temperature=0.0, ignore_eos=True)
    return [token.id for token in tokens]


def same_up_to_near_ties(ids, logits, found):
    """Whether found are the ids up to the first choice between logits that are nearly the same.

    logits: of all tokens of the prompt and of ids.
    """
    for index, (a, b) in enumerate(zip(ids, found, strict=True)):
        if a != b:
            row = logits[PROMPT - 1 + index]
            return row[a] - row[b] < NEAR_TIE
    return True


@pytest.mark.slow
@pytest.mark.parametrize("all_reduce", ["exchange", "two-step"])
@pytest.mark.parametrize("nodes", range(2, 9))
@pytest.mark.parametrize("transport", transports.BUILTIN)
def test_the_text_of_one_node(standing, macbeth, monkeypatch, transport, nodes, all_reduce):
    if nodes == 2:  # polls, while more nodes leave the processors to others
        monkeypatch.delenv("OMP_WAIT_POLICY")
    prompt, ids, logits = macbeth
    options = {"transport": transport, "all_reduce": all_reduce, "buffer": "f32", "threads": 1}
    with dllama.LLM(workers=standing(nodes - 1, transport), **options) as llm:
        found = greedy(llm, prompt)
        llm.reset()
        result = llm.eval(prompt)
    np.testing.assert_array_equal(result, logits[:PROMPT])
    assert found == ids


@pytest.mark.parametrize(
    ("policy", "nodes", "crowded"),
    [("passive", 2, True), ("PASSIVE", 2, True), ("active", 2, False), ("active", 3, True)],
)
def test_nodes_that_share_processors(monkeypatch, policy, nodes, crowded):
    seen = []

    def form(*_, crowded, **__):
        seen.append(crowded)
        raise TransportError("no cluster")

    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    monkeypatch.setattr(root.cpu, "cores", lambda: [0, 1])
    monkeypatch.setattr(root, "LocalWorkers", lambda *_: Mock(addresses=["unix:/x"]))
    monkeypatch.setattr(root, "form_cluster", form)
    with pytest.raises(TransportError, match="no cluster"):
        dllama.LLM(nodes=nodes, threads=1)
    assert seen == [crowded]


@pytest.mark.parametrize(("buffer", "most"), [("q80", 0.001), ("q60", 0.02), ("f16", 0.001)])
@pytest.mark.parametrize("nodes", [2, 3, 4, 8])
def test_short_buffers_change_little(standing, macbeth, nodes, buffer, most):
    prompt, ids, logits = macbeth
    results = []
    workers = standing(nodes - 1)
    for all_reduce in ("exchange", "two-step"):
        with dllama.LLM(workers=workers, threads=1, buffer=buffer, all_reduce=all_reduce) as llm:
            assert same_up_to_near_ties(ids, logits, greedy(llm, prompt))
            llm.reset()
            results.append(llm.eval([*prompt, *ids]))
    for result in results:
        assert divergence(logits, result).mean() < most


def divergence(logits, others):
    """Kullback-Leibler divergence of the softmax of each row, in nats."""
    p, q = (log_softmax(x.astype(np.float64)) for x in (logits, others))
    return (np.exp(p) * (p - q)).sum(axis=1)


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def uneven(macbeth):
    """Logits of three nodes with a thread each, whose borders are not those of an even split."""

    @cache
    def logits(buffer):
        with dllama.LLM(nodes=3, shares=UNEVEN, threads=1, buffer=buffer) as llm:
            return llm.eval(macbeth[0][:50])

    return logits


@pytest.mark.parametrize("transport", transports.BUILTIN)
@pytest.mark.parametrize("buffer", ["q80", "q60", "f32"])
def test_the_same_bits_on_every_transport_and_thread_count(macbeth, uneven, transport, buffer):
    options = {"nodes": 3, "shares": UNEVEN, "threads": 2, "buffer": buffer}
    with dllama.LLM(transport=transport, **options) as llm:
        np.testing.assert_array_equal(llm.eval(macbeth[0][:50]), uneven(buffer))


@pytest.mark.parametrize("cuts", [[1], [7, 90, 91, 92], [128]])
def test_the_same_bits_however_a_prompt_is_cut(macbeth, cuts):
    prompt, _, logits = macbeth
    with dllama.LLM(nodes=2, threads=1, buffer="f32", batch_size=50) as llm:
        found = [llm.eval(ids) for ids in np.split(np.array(prompt), cuts)]
    np.testing.assert_array_equal(np.concatenate(found), logits[:PROMPT])


@pytest.mark.parametrize("buffer", ["q80", "q60", "f16"])
def test_short_buffers_give_the_same_bits_however_a_prompt_is_cut(standing, macbeth, buffer):
    """Few rows are exchanged and many take two steps; both round alike."""
    ids = macbeth[0][:64]
    with dllama.LLM(workers=standing(2), threads=1, buffer=buffer) as llm:
        whole = llm.eval(ids)
        llm.reset()
        np.testing.assert_array_equal(np.concatenate([llm.eval([one]) for one in ids]), whole)


@pytest.mark.parametrize("name", ["llama-gqa", "llama-mha-odd", "llama31-tied", "mistral"])
@pytest.mark.parametrize("weights", ["f32", "q40"])
def test_more_nodes_than_kv_heads(standing, converted, fixtures, name, weights):
    stored = np.load(fixtures / name / "reference.npz")
    tokens, reference = stored["tokens"].ravel(), stored["logits"]
    folder = converted(name, weights)
    with dllama.LLM(folder, threads=1) as llm:
        expected, heads = llm.eval(tokens), llm.spec.n_heads
    for nodes in range(2, heads + 1):
        with dllama.LLM(folder, workers=standing(nodes - 1), threads=1, buffer="f32") as llm:
            result = llm.eval(tokens)
        close = 0.05 if weights == "q40" else 1e-4
        assert np.abs(result - expected).max() < close * expected.std()
        if weights == "f32":
            error = np.abs(result - reference.reshape(result.shape)).max()
            assert error < 1e-3 * reference.std()


@pytest.mark.parametrize("shares", [(3, 1), (1, 2, 5), (0.5, 6)])
def test_uneven_shares(macbeth, shares):
    prompt, ids, logits = macbeth
    with dllama.LLM(nodes=len(shares), shares=shares, threads=1, buffer="f32") as llm:
        assert same_up_to_near_ties(ids, logits, greedy(llm, prompt))
        weights = [llm.memory(rank)["weights"] for rank in range(len(shares))]
    assert np.argsort(weights).tolist() == np.argsort(shares).tolist()


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory):
    """Random weights of a shape in which heads are not whole blocks, and blocks are few."""
    spec = ModelSpec(
        arch=Arch.LLAMA, dim=64, hidden_dim=64, n_layers=2, n_heads=6, n_kv_heads=2, head_dim=16,
        vocab_size=40, seq_len=300, weight_type=WeightType.Q40,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("odd") / "model.m"
    with ModelWriter(path, spec) as writer:
        for info in writer.tensors.values():
            x = rng.standard_normal(info.shape).astype(np.float32)
            writer.write_rows(info.name, 1 + x / 10 if x.ndim == 1 else x / 4)
        writer.commit()
    return path


def test_heads_that_are_not_whole_blocks(standing, odd_model):
    """More nodes than blocks of hidden units too, and more positions than a KV block has."""
    ids = np.random.default_rng(2).integers(0, 40, 290)
    with dllama.LLM(odd_model, threads=2) as llm:
        expected = [llm.eval(some) for some in (ids[:280], ids[280:281], ids[281:])]
    for nodes in range(2, 7):
        workers = standing(nodes - 1)
        with dllama.LLM(odd_model, workers=workers, threads=1, buffer="f32") as llm:
            for some, logits in zip((ids[:280], ids[280:281], ids[281:]), expected, strict=True):
                error = np.abs(llm.eval(some) - logits)
                assert np.median(error) < 0.06 * logits.std()


SAMPLERS = (
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 1.2, "top_k": 40, "top_p": 0.95},
    {"temperature": 0.7, "min_p": 0.05},
    {"temperature": 0.9, "repetition_penalty": 1.3},
    {"temperature": 0.0, "repetition_penalty": 1.3},
)


@pytest.mark.parametrize("nodes", [2, 4])
def test_the_sampler_of_one_node(nodes):
    """Its f32 logits are the same bits, so its tokens are the same."""
    with dllama.LLM(threads=1) as llm, dllama.LLM(nodes=nodes, threads=1, buffer="f32") as many:
        for seed, config in enumerate(SAMPLERS):
            texts = []
            for model in (llm, many):
                model.reset()
                tokens = model.generate("KING:\n", 24, seed=seed, ignore_eos=True, **config)
                texts.append([token.id for token in tokens])
            assert texts[0] == texts[1], config


def test_sampling_sends_little():
    with dllama.LLM(nodes=4, threads=1, all_reduce="two-step") as llm:
        for config in SAMPLERS:
            llm.reset()
            list(llm.generate("KING:\n", 8, seed=1, ignore_eos=True, **config))
            step = llm.stats.steps[-1]
            all_reduces = 2 * llm.spec.n_layers * 2 * 3 * 272 // 4
            penalty = 500 if "repetition_penalty" in config else 0
            assert all_reduces <= step.sent_bytes < all_reduces + 2000 + penalty
            assert all_reduces <= step.received_bytes < all_reduces + 3500


@pytest.mark.parametrize("nodes", [2, 3, 4, 8])
def test_bytes_of_a_token(nodes):
    """Within 2 % of the least that an all-reduce can send, and 2 kB for all else."""
    with dllama.LLM(nodes=nodes, threads=1, all_reduce="two-step") as llm:
        list(llm.generate("MACBETH:\n", 8, temperature=0.0, ignore_eos=True))
        summary = llm.stats.summary()
    least = 2 * llm.spec.n_layers * 2 * (nodes - 1) / nodes * (llm.spec.dim // 32 * 34)
    for name in ("avg_sent_bytes", "avg_received_bytes"):
        assert 0.98 * least <= summary[name] <= 1.02 * least + 2000


def test_times_of_stages_add_up_to_those_of_the_step():
    with dllama.LLM(nodes=3, threads=1, trace=True) as llm:
        list(llm.generate("MACBETH:\n", 5, temperature=0.0, ignore_eos=True))
        assert len(llm.timelines) == 3 * len(llm.stats.steps) == 15
        own = [one for one in llm.timelines if one.rank == 0]
        for one, step in zip(own, llm.stats.steps, strict=True):
            inference = sum(ms for _, kind, ms in one.stages if kind == "inference")
            transfer = sum(ms for _, kind, ms in one.stages if kind == "transfer")
            assert inference == pytest.approx(step.inference_ms)
            assert transfer == pytest.approx(step.transfer_ms)
            assert inference + transfer + step.sample_ms <= step.total_ms
        begins = [one.began for one in llm.timelines[:3]]
        assert max(begins) - min(begins) < 1e9


def test_memory_of_a_node_is_its_share():
    with dllama.LLM(threads=1) as llm:
        alone = llm.memory()
    with dllama.LLM(nodes=4, threads=1) as llm:
        for rank in range(4):
            memory = llm.memory(rank)
            assert memory["kv_cache"] == alone["kv_cache"] // 4
            assert memory["weights"] < alone["weights"] / 4 + 20_000  # norms are everywhere


def test_a_text_goes_on_between_calls(macbeth):
    prompt, ids, logits = macbeth
    with dllama.LLM(nodes=2, threads=1, buffer="f32") as llm:
        np.testing.assert_array_equal(llm.eval(prompt[:9]), logits[:9])
        assert greedy(llm, prompt[9:], 5) == ids[:5]
        np.testing.assert_array_equal(llm.eval([ids[5]]), logits[PROMPT + 5 : PROMPT + 6])
        llm.reset()
        np.testing.assert_array_equal(llm.eval(prompt[:9]), logits[:9])


def test_a_cluster_that_is_not_closed_ends_with_its_process(tmp_path):
    code = (
        "import dllama\n"
        "llm = dllama.LLM(nodes=3, threads=1)\n"
        "print(*llm._runner.root.worker_pids)\n"
        "next(llm.generate('A', 1))\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-c", code]
    result = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True,
                            timeout=60, check=True)  # fmt: skip
    for pid in map(int, result.stdout.split()):
        assert not Path(f"/proc/{pid}").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def workers(tmp_path):
    """Addresses of two workers that are started by hand."""
    processes = []
    for rank in (1, 2):
        words = ["-m", "dllama", "worker", "--threads", "1", "--listen"]
        address = "127.0.0.1:0" if rank == 1 else "localhost:0"
        log = (tmp_path / f"{rank}.log").open("w")
        processes.append(
            subprocess.Popen([sys.executable, *words, address], stdout=subprocess.PIPE,
                             stderr=log, text=True)
        )  # fmt: skip
        log.close()
    lines = [process.stdout.readline().strip() for process in processes]
    yield [line.removeprefix("listening at ") for line in lines]
    for process in processes:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()


def wait_until(holds, limit=30.0):
    """Wait for a condition."""
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_workers_serve_one_root_after_another(macbeth, workers, tmp_path):
    prompt, ids, _ = macbeth
    for transport in ("nonblocking", "blocking", None):
        with dllama.LLM(workers=workers, transport=transport, threads=1) as llm:
            assert (llm.nodes, llm.transport) == (3, transport or "blocking")
            greedy(llm, prompt, 4)
    with dllama.LLM(workers=workers[:1], threads=1, buffer="f32") as llm:
        assert greedy(llm, prompt) == ids
    with dllama.LLM(workers=workers[::-1], threads=1) as llm:
        llm.eval([1, 2, 3])
    sessions = {1: 5, 2: 4}
    for rank, count in sessions.items():
        log = tmp_path / f"{rank}.log"
        wait_until(lambda log=log, count=count: log.read_text().count("left after") == count)
        assert "warning" not in log.read_text()


def test_the_command_line_and_a_file(workers, tmp_path):
    file = tmp_path / "cluster.yaml"
    entries = "".join(f"  - address: {worker}\n    share: 1\n" for worker in workers)
    file.write_text(
        f"transport: nonblocking\nbuffer: f32\ntemperature: 0\nsteps: 8\n"
        f"nodes:\n  - threads: 1\n    share: 2\n{entries}"
    )
    words = ["run", "--config", str(file), "--json", str(tmp_path / "out.json"), "--trace",
             str(tmp_path / "trace.json")]  # fmt: skip
    subprocess.run([sys.executable, "-m", "dllama", *words], check=True, timeout=60,
                   capture_output=True)  # fmt: skip
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["nodes"], result["transport"], result["buffer"]) == (3, "nonblocking", "f32")
    assert all(step["transfer_ms"] > 0 and step["sent_bytes"] > 0 for step in result["steps"])
    with dllama.LLM(threads=1) as llm:
        tokens = llm.generate("MACBETH:\n", 8, temperature=0.0)
        assert result["tokens"] == [token.id for token in tokens]
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["pid"] for event in trace} == {0, 1, 2}
    assert {event["cat"] for event in trace if event["ph"] == "X"} == {"inference", "transfer"}


def test_threads_of_nodes():
    assert node_threads([1, 1], 2, True) == [1, 1]
    assert node_threads([1, None, 3], 3, False) == [1, 0, 3]
    assert node_threads(1, 3, False) == [1, 0, 0]
    assert len(set(node_threads(None, 2, True))) == 1
