"""`dllama nodes`: the table, and what --json writes. What it finds is made up."""

from __future__ import annotations

import json

import pytest

from dllama.cli import main
from dllama.cluster.about import About
from dllama.cluster.finding import discovery, interfaces
from dllama.cluster.finding.found import ANOTHER_SECRET, BUSY, FREE, Found
from dllama.cluster.finding.interfaces import Interface

PI = About("pi-1", "1.2.3", 4, 4, 8 * 10**9, 7 * 10**9, "neon", 9.04e9, False, "")


@pytest.fixture
def found(monkeypatch):
    """The list of workers that are found."""
    workers = []
    eth = Interface("eth0", 2, ("10.0.0.1",))
    monkeypatch.setattr(interfaces, "interfaces", lambda: [eth])
    monkeypatch.setattr(discovery, "listen", lambda *_: workers)
    return workers


def test_a_line_for_each_worker_with_the_speed_that_it_has_measured(found, capsys, tmp_path):
    new = About(**{**vars(PI), "name": "pi-2", "bandwidth": 0.0, "busy": True, "root": "desk"})
    found += [
        Found("pi-1", "10.0.0.2:9999", FREE, about=PI),
        Found("pi-2", "10.0.0.3:9999", BUSY, about=new),
        Found("pi-3", "10.0.0.4:9999", ANOTHER_SECRET, why="pi-3 has another secret"),
    ]
    assert main(["nodes", "--json", str(tmp_path / "nodes.json")]) == 0
    heading, first, second, third, why = capsys.readouterr().out.splitlines()
    words = "name address state cores memory available bandwidth kernels version"
    assert heading.split() == words.split()
    cells = "pi-1 10.0.0.2:9999 free 4 8.00 GB 7.00 GB 9.0 GB/s neon 1.2.3"
    assert " ".join(first.split()) == cells
    assert second.split()[-3:] == ["-", "neon", "1.2.3"]
    assert third.split()[-6:] == ["-"] * 6
    assert why == "pi-3 has another secret"
    written = json.loads((tmp_path / "nodes.json").read_text())["nodes"]
    assert [one["about"] and one["about"]["bandwidth"] for one in written] == [9.04e9, 0.0, None]
