"""`dllama bench`."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec

import pytest

import dllama
from dllama.bench import COLUMNS, Case, Result, Work, cases
from dllama.cli import main
from dllama.cli.bench import HEADINGS
from dllama.cli.plot import name_of

SHORT = ["bench", "--threads", "1", "--steps", "3", "--prompt-tokens", "5", "--repeats", "2"]


def test_the_table_and_its_files(tmp_path, capsys):
    files = {name: tmp_path / f"bench.{name}" for name in ("json", "csv")}
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    words += ["--nodes", "1,2", "--transport", "unix,blocking", "--buffer", "q80,f32"]
    assert main([*SHORT, *words, "--all-reduce", "two-step"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert (err, len(lines), len({len(line) for line in lines})) == ("", 6, 1)
    assert lines[0].split()[:4] == ["nodes", "transport", "buffer", "all-reduce"]
    assert lines[1].split()[:4] == ["1", "-", "-", "-"]
    assert [line.split()[:4] for line in lines[2:]] == [
        ["2", transport, buffer, "two-step"]
        for transport in ("unix", "blocking")
        for buffer in ("q80", "f32")
    ]
    results = json.loads(files["json"].read_text())["cases"]
    assert [list(result) for result in results] == 5 * [list(COLUMNS)]
    assert results[0]["speed_up"] == 1.0
    assert results[1]["transfer_ms"] > 0 < results[1]["sent_kb"]
    with files["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["tokens_per_s"]) for row in rows] == [r["tokens_per_s"] for r in results]
    assert len(HEADINGS) == len(COLUMNS)


def test_the_options_of_a_run(tmp_path, capsys, monkeypatch):
    """Its prompt, sampling, shares and trace; lists with spaces; and a file of options."""
    seen = []
    generate = dllama.LLM.generate_many

    def spy(self, prompts, count, **options):
        seen.append((self.nodes, self._config.shares, prompts, count, options))
        return generate(self, prompts, count, **options)

    monkeypatch.setattr(dllama.LLM, "generate_many", spy)
    (tmp_path / "bench.yaml").write_text("nodes: 4\ntransport: unix\nrepeats: 1\nseed: 7\n")
    trace = tmp_path / "trace.json"
    words = ["--config", str(tmp_path / "bench.yaml"), "--nodes", "1", "2", "--shares", "2,1",
             "--prompt", "MACBETH:\n", "--steps", "3", "--temperature", "0.5", "--ignore-eos",
             "--trace", str(trace)]  # fmt: skip
    assert main(["bench", "--threads", "1", *words]) == 0
    with dllama.LLM() as llm:
        ids = llm.tokenizer.encode("MACBETH:\n")
    options = {"temperature": 0.5, "seed": 7, "ignore_eos": True}
    assert [one[:1] + one[2:] for one in seen if one[3] == 3] == [
        (1, [ids], 3, options),
        (2, [ids], 3, options),
    ]
    assert seen[-1][1] == (2.0, 1.0)
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["2", "unix", "q80"]
    events = json.loads(trace.read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1}


def test_several_texts_at_once(tmp_path):
    """Their prompts begin with different tokens, and the tokens of all count."""
    path = tmp_path / "bench.json"
    words = ["--parallel", "1,4", "--nodes", "1,2", "--transport", "unix", "--json", str(path)]
    assert main([*SHORT, *words]) == 0
    found = json.loads(path.read_text())["cases"]
    assert [(one["nodes"], one["parallel"]) for one in found] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    assert all(one["first_token_ms"] > 0 for one in found)
    assert [one["speed_up"] for one in found[:2]] == [1.0, 1.0]
    with dllama.LLM(parallel=3) as llm:
        prompts = Work(2, lambda _: [5, 6, 7, 8]).prompts(llm)
    assert prompts == [[5, 6, 7, 8], [6, 7, 8, 5], [7, 8, 5, 6]]


def test_no_speed_up_without_one_node(tmp_path, capsys):
    path = tmp_path / "bench.json"
    words = ["--nodes", "2", "--steps", "2", "--repeats", "1", "--json", str(path)]
    assert main(["bench", "--threads", "1", "--prompt", "A", "--quiet", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[-1] == "-"
    assert json.loads(path.read_text())["cases"][0]["speed_up"] is None


def test_a_file_of_nodes(tmp_path, monkeypatch):
    """--nodes says how many of them to take."""
    opened = []

    def spy(**arguments):
        opened.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("dllama.cli.bench.LLM", spy)
    (tmp_path / "cluster.yaml").write_text(
        "nodes:\n- share: 2\n- {address: 'a:1', threads: 3}\n- {address: 'b:1'}\n"
    )
    assert main(["bench", "--config", str(tmp_path / "cluster.yaml"), "--nodes", "2,3"]) == 130
    (found,) = opened
    assert (found["workers"], found["threads"], found["shares"]) == (["a:1"], [None, 3], [2.0, 1.0])


def test_cases_are_all_combinations():
    found = cases([4, 1, 2, 2], ["a", "b"], [None], ["x"])
    assert found == [Case(1), *(Case(n, t, None, "x") for n in (2, 4) for t in "ab")]
    assert cases([2], ["a"], [None], [None]) == [Case(2, "a")]
    texts = cases([1, 2], ["a"], [None], [None], [4, 1])
    assert texts == [Case(1), Case(1, parallel=4), Case(2, "a"), Case(2, "a", parallel=4)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "1,x"], "--nodes: found 'x', expected an integer"),
        (["--buffer", "q80,f64"], "--buffer: found 'f64', expected one of q80, q60, f16, f32"),
        (["--all-reduce", "ring"], "--all-reduce: found 'ring', expected one of auto"),
        (["--transport", "unix,pigeon"], "transport is 'pigeon', expected one of"),
        (["--nodes", "3", "--workers", "127.0.0.1:1"], "nodes is 3, but there are 1 workers"),
        (
            ["--nodes", "1,3", "--shares", "1,1"],
            "shares are [1.0, 1.0], expected one for each of 3",
        ),
        (["--nodes", "1", "--prompt", "A"], "the prompt has 2 tokens, expected 5"),
        (["--nodes", "1", "--steps", "600"], "5 + 600 tokens, expected at most 512"),
    ],
)
def test_what_is_wrong_is_said(words, message, capsys):
    assert main([*SHORT, *words]) == 2
    assert message in capsys.readouterr().err


def test_every_bar_of_a_picture_has_a_name_of_its_own():
    ways = ["exchange", "two-step"]
    found = cases([1, 2], ["unix", "blocking"], ["q80", "f32"], ways, [1, 2])
    figures = dict.fromkeys(COLUMNS[5:], 1.0)
    names = [name_of(Result(**vars(case), **figures)) for case in found]
    assert len(set(names)) == len(found) == 18


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_a_picture_needs_matplotlib(capsys, tmp_path):
    assert main([*SHORT, "--plot", str(tmp_path / "bench.png")]) == 2
    assert "pip install 'dllama[plot]'" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_picture(tmp_path, capsys):
    path = tmp_path / "bench.png"
    assert main([*SHORT, "--nodes", "1,2", "--transport", "unix", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
