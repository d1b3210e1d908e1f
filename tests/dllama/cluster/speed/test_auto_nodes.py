"""--nodes auto takes the faster of one process and a node for each NUMA domain, and remembers."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

import dllama
from dllama.cli import main
from dllama.cluster import domains
from dllama.cluster.layout import Layout
from dllama.cluster.speed import auto_nodes
from dllama.cluster.speed.auto_nodes import Rates
from dllama.errors import ConfigError

PROMPT = "MACBETH:\n"


@pytest.fixture
def two(monkeypatch, tmp_path):
    """Pretends that this machine has two domains of one core, and an empty cache folder."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two processors")
    halves = cpus[: len(cpus) // 2], cpus[len(cpus) // 2 :]
    for number, own in enumerate(halves):
        folder = tmp_path / "nodes" / f"node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(",".join(map(str, own)))
    monkeypatch.setattr(domains, "NODES", tmp_path / "nodes")
    monkeypatch.setattr(domains.cpu, "cores", lambda: [[own[0]] for own in halves])
    monkeypatch.setattr(domains.cpu, "default_threads", lambda: 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return halves


@pytest.fixture
def rates(monkeypatch):
    """Rates of a node for each domain and of one process, instead of measured ones."""
    given = {2: 30.0, 1: 20.0}
    asked = []

    def rate(model, layout, config, nodes, threads):
        asked.append((nodes, threads))
        return given[nodes]

    monkeypatch.setattr(auto_nodes, "_rate", rate)
    return given, asked


def test_both_ways_are_measured_with_the_model_once(two, caplog, tmp_path):
    with dllama.LLM(nodes="auto", buffer="f32") as llm:
        chosen = llm.nodes
        tokens = [token.id for token in llm.generate(PROMPT, 8, temperature=0.0)]
    (kept,) = (tmp_path / "cache" / "dllama").glob("nodes-*.json")
    found = Rates.from_json(json.loads(kept.read_text()))
    assert chosen == (2 if found.nodes > 1.03 * found.alone else 1)
    assert f"{found.nodes:.1f}" in caplog.text
    assert f"{found.alone:.1f}" in caplog.text
    with dllama.LLM(threads=1) as llm:
        assert tokens == [token.id for token in llm.generate(PROMPT, 8, temperature=0.0)]


def test_pinned_nodes_where_they_are_faster(two, rates, caplog):
    before = os.sched_getaffinity(0)
    with dllama.LLM(nodes="auto") as llm:
        assert (llm.nodes, llm.threads, llm.transport) == (2, 1, "unix")
        (pid,) = llm._runner.root._local.pids()
        assert os.sched_getaffinity(0) == {two[0][0]}
        for task in Path(f"/proc/{pid}/task").iterdir():  # all threads, libraries' too
            assert os.sched_getaffinity(int(task.name)) == {two[1][0]}
    assert os.sched_getaffinity(0) == before
    assert "nodes: 2, one per NUMA domain: 30.0 tokens/s, one process 20.0" in caplog.text


def test_one_process_where_it_is_as_fast(two, rates, caplog):
    rates[0][1] = 29.5
    for _ in range(2):
        with dllama.LLM(nodes="auto", transport="nonblocking") as llm:
            assert (llm.nodes, llm.threads, llm.transport) == (1, 2, None)
    assert rates[1] == [(2, 1), (1, 2)]  # the second start measures nothing
    said = "nodes: 1, one process on 2 NUMA domains: 29.5 tokens/s, a node for each 30.0"
    levels = [record.levelno for record in caplog.records if record.getMessage() == said]
    assert levels[0] == logging.WARNING


def test_other_threads_and_buffers_are_measured_anew(two, rates):
    rates[0][1] = 40.0
    for options in ({}, {"buffer": "f32"}, {"kv_cache": "f32"}, {"transport": "blocking"}):
        dllama.LLM(nodes="auto", **options).close()
    assert len(rates[1]) == 8


def test_a_way_that_fails_is_not_taken_nor_kept(two, monkeypatch, caplog, tmp_path):
    real = auto_nodes._run

    def run(words):
        real([*words[:1], "--buffer", "none"])

    monkeypatch.setattr(auto_nodes, "_run", run)
    with dllama.LLM(nodes="auto") as llm:
        assert llm.nodes == 1
    assert "2 nodes cannot be measured: dllama: error: argument --buffer" in caplog.text
    assert not list((tmp_path / "cache").rglob("nodes-*"))


def test_a_broken_file_is_measured_anew(two, rates, tmp_path):
    rates[0][1] = 40.0
    dllama.LLM(nodes="auto").close()
    (kept,) = (tmp_path / "cache" / "dllama").glob("nodes-*.json")
    kept.write_text('{"nodes": 1, "alone": 0}')
    dllama.LLM(nodes="auto").close()
    assert len(rates[1]) == 4
    assert Rates.from_json(json.loads(kept.read_text())) == Rates(30.0, 40.0)


def test_fewer_threads_than_domains_are_one_process(two, rates):
    with dllama.LLM(nodes="auto", threads=1) as llm:
        assert (llm.nodes, llm.threads, rates[1]) == (1, 1, [])


def test_threads_are_those_of_all_nodes(two):
    layout = Layout.of("auto", (), None, 5, None)
    assert (layout.threads, layout.alone) == ((1, 1), 5)  # of one core each


def test_one_domain_is_one_process_at_once(rates, monkeypatch, tmp_path):
    monkeypatch.setattr(domains, "NODES", tmp_path)
    with dllama.LLM(nodes="auto") as llm:
        assert (llm.nodes, rates[1]) == (1, [])


def test_the_command_line_and_a_file_take_the_word(rates, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(domains, "NODES", tmp_path)
    (tmp_path / "auto.yaml").write_text("nodes: auto\nsteps: 1\n")
    for words in (["--config", str(tmp_path / "auto.yaml")], ["--nodes", "auto", "--steps", "1"]):
        assert main(["run", *words]) == 0
    assert main(["run", "--nodes", "two"]) == 2
    assert "found 'two', expected auto or an integer from 1 to 256" in capsys.readouterr().err
    assert main(["bench", "--config", str(tmp_path / "auto.yaml")]) == 2
    assert "nodes is auto, expected numbers to compare" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": ["10.0.0.2:9999"]}, "nodes is auto, which is for this machine alone"),
        ({"discover": True}, "nodes is auto, which is for this machine alone"),
        ({"threads": [1, 1]}, "threads are .1, 1., expected one number for all nodes"),
        ({"shares": [1.0, 1.0]}, "nodes is auto, so shares cannot be given"),
    ],
)
def test_what_does_not_go_with_it(two, options, message):
    with pytest.raises(ConfigError, match=message):
        dllama.LLM(nodes="auto", **options)
