"""`dllama plan`."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec

import pytest
from hostile import Served

from dllama.cli import main
from dllama.cluster import worker
from dllama.cluster.finding import discovery
from dllama.cluster.finding.found import FREE, Found
from dllama.cluster.finding.interfaces import Interface
from dllama.converter import convert

NODE = "  - {name: pi-%d, memory: 8 GB, bandwidth: 9 GB/s, compute: 34 GMAC/s, threads: 1}\n"
LINK = "link: {rate: 1 Gbit/s, latency: 80 us}\n"
KEYS = {"tokens_per_s", "prompt_tokens_per_s", "bound", "prompt_bound", "memory", "fits"}


@pytest.fixture
def cluster(tmp_path):
    """A description of three nodes."""
    path = tmp_path / "cluster.yaml"
    path.write_text("nodes:\n" + "".join(NODE % rank for rank in range(1, 4)) + LINK)
    return path


def planned(folder, *words):
    """The figures of a plan."""
    path = folder / "plan.json"
    assert main(["plan", *map(str, words), "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_figures(cluster, tmp_path, capsys):
    found = planned(tmp_path, "--cluster", cluster)
    others = {"nodes", "ms", "prompt_ms", "table", "changes", "assumes", "sources"}
    assert found.keys() == KEYS | others
    assert [one["name"] for one in found["nodes"]] == ["pi-1", "pi-2", "pi-3"]
    assert {"memory", "share", "ms", "prompt_ms"} <= found["nodes"][0].keys()
    assert sum(one["share"] for one in found["nodes"]) == pytest.approx(1)
    assert [one["nodes"] for one in found["table"]] == [1, 2, 3]
    assert sum(one["best"] for one in found["table"]) == 1
    assert found["table"][2]["tokens_per_s"] == found["tokens_per_s"]
    assert found["bound"] == "latency"
    changes = found["changes"]
    assert changes.keys() == {"one more node", "a switch of 2.5 Gbit/s", "half the latency"}
    assert found["sources"]["rate"] == "given"
    assert changes["half the latency"]["tokens_per_s"] > 1.3 * found["tokens_per_s"]
    out = capsys.readouterr().out
    assert "with half the latency: +" in out
    assert re.search(r"^1 .* best$", out, re.M)


def test_memory_is_what_info_says(cluster, tmp_path, capsys):
    found = planned(tmp_path, "--cluster", cluster, "--max-seq-len", "100")
    capsys.readouterr()
    assert main(["info", "--nodes", "3", "--threads", "1", "--max-seq-len", "100"]) == 0
    said = re.findall(r"memory of node \d +(\S+) MB", capsys.readouterr().out)
    assert said == [f"{one['memory'] / 1e6:.2f}" for one in found["nodes"]]


def test_a_config_is_planned_like_the_model_that_it_becomes(cluster, fixtures, tmp_path):
    for name in ("llama-gqa", "gemma3", "qwen3-moe"):
        convert(fixtures / name, tmp_path / name, "q80", progress=False)
        config = tmp_path / f"{name}.json"
        config.write_text((fixtures / name / "config.json").read_text())
        words = ("--cluster", cluster, "--prompt-tokens", "10", "--steps", "4")
        made = planned(tmp_path, tmp_path / name, *words)
        assert planned(tmp_path, config, "--weights", "q80", *words) == made


def test_too_little_memory(cluster, tmp_path, capsys):
    cluster.write_text(cluster.read_text().replace("8 GB", "1 MB", 1))
    found = planned(tmp_path, "--cluster", cluster)
    assert found["fits"] is False
    assert "does not fit: too little memory on pi-1" in capsys.readouterr().out


def test_slow_nodes_get_less(cluster, tmp_path):
    cluster.write_text(cluster.read_text().replace("9 GB/s", "3 GB/s", 1))
    shares = [one["share"] for one in planned(tmp_path, "--cluster", cluster)["nodes"]]
    assert shares[0] < 0.8 * shares[1]
    given = planned(tmp_path, "--cluster", cluster, "--shares", "2,1,1")
    assert [one["share"] for one in given["nodes"]] == [0.5, 0.25, 0.25]


@pytest.mark.usefixtures("quick_speed")
def test_this_machine(tmp_path):
    found = planned(tmp_path, "--nodes", "2", "--threads", "1", "--prompt-tokens", "8")
    assert [one["nodes"] for one in found["table"]] == [1, 2]
    assert found["ms"]["latency"] > 0


def test_this_machine_is_not_measured_again(tmp_path, monkeypatch):
    def measure(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("dllama.runtime.kept_speed.measure", measure)
    found = planned(tmp_path, "--nodes", "1", "--threads", "1", "--prompt-tokens", "8")
    assert found["tokens_per_s"] > 0


@pytest.fixture
def workers(caplog, monkeypatch):
    """Two workers in this process that discovery finds."""
    monkeypatch.setattr(worker, "TICK", 0.02)
    started = [Served(caplog, name=f"pi-{number}") for number in (1, 2)]
    found = [Found("pi", one.address, FREE) for one in started]
    monkeypatch.setattr(discovery, "find_workers", lambda _secret, wanted, *_: found[:wanted])
    yield
    for one in started:
        one.stop()


@pytest.mark.usefixtures("workers")
def test_workers_that_are_found(tmp_path, capsys):
    short = ("--discover", "--threads", "2", "--prompt-tokens", "8")
    found = planned(tmp_path, *short)
    nodes = found["nodes"]
    assert [one["threads"] for one in nodes] == [2, 1, 1]
    assert [one["name"] for one in nodes] == ["root", "pi-1", "pi-2"]
    assert [one["nodes"] for one in found["table"]] == [1, 2, 3]
    assert {one["rate"] for one in nodes} == {125e6}
    assert all(0 < one["latency_ms"] < 50 for one in nodes)
    out = capsys.readouterr().out
    assert re.search("^rate +1 Gbit/s, assumed$", out, re.M)
    assert re.search(r"^latency .* us, measured: half of TCP's round trip", out, re.M)
    assert not re.search(r"^root .* - ", out, re.M)  # its memory is known
    slow = planned(tmp_path, *short, "--nodes", "2", "--rate", "10 Mbit/s", "--latency", "1 ms")
    assert {(one["rate"], one["latency_ms"]) for one in slow["nodes"]} == {(1.25e6, 1.0)}
    assert slow["sources"]["rate"] == "0.01 Gbit/s, given"
    assert slow["sources"]["latency"] == "1000 us, given"
    assert slow["tokens_per_s"] < found["table"][1]["tokens_per_s"]


def test_no_workers_are_found(monkeypatch, capsys):
    monkeypatch.setattr(discovery, "interfaces", lambda: [Interface("eth0", 2, ("10.0.0.1",))])
    monkeypatch.setattr(discovery, "listen", lambda *_: [])
    said = []
    for command in ("run", "plan"):
        assert main([command, "--discover"]) == 1
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert said[0].startswith("dllama: error: no workers found: listened 2.5 s for _dllama._tcp")


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_a_picture_needs_matplotlib(cluster, tmp_path, capsys):
    assert main(["plan", "--cluster", str(cluster), "--plot", str(tmp_path / "plan.png")]) == 2
    assert "pip install 'dllama[plot]'" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_picture(cluster, tmp_path, capsys):
    path = tmp_path / "plan.png"
    assert main(["plan", "--cluster", str(cluster), "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected either --cluster FILE, --nodes N or --discover"),
        (["--nodes", "2", "--cluster", "x"], "expected either --cluster FILE, --nodes N or"),
        (["--discover", "--cluster", "x"], "--cluster and --discover: only one of the two"),
        (["--nodes", "2", "--rate", "1 Gbit/s"], "--rate goes with --discover alone"),
        (["--nodes", "2", "--plain"], "--plain goes with --discover alone"),
        (["--discover", "--rate", "1 MB"], "expected e.g. 1 Gbit/s"),
        (["--discover", "--nodes", "300"], "expected an integer"),
        (["--cluster", "nothing.yaml"], "cluster description nothing.yaml: No such file"),
        (["--nodes", "2", "--weights", "q40"], "weights is for a config.json"),
        (["--nodes", "2", "--prompt-tokens", "0"], "expected an integer"),
    ],
)
def test_errors(words, said, capsys):
    assert main(["plan", *words]) != 0
    assert said in capsys.readouterr().err
