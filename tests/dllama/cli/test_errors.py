"""Every wrong input: one line that names it, the right exit status, no traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dllama
from dllama import cli
from dllama.cli import main
from dllama.model_path import DEMO

SHORT = ["--steps", "1", "--quiet"]
COMMANDS = set(cli.COMMANDS)


@pytest.fixture
def fails(capsys):
    """Run a command line that fails; its exit status and the line on stderr.

    Above that line there is at most the usage of the command.
    """

    def fails(*words: str) -> tuple[int, str]:
        status = main(words)
        out, err = capsys.readouterr()
        *usage, line = err.splitlines()
        assert out == ""
        assert line.startswith("dllama: error: ")
        if usage:
            command = [word for word in words[:1] if word in COMMANDS]
            assert usage[0].startswith(" ".join(["usage: dllama", *command, ""]))
            assert status == 2
        return status, line

    return fails


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "required: COMMAND (see dllama --help)"),
        (("walk",), "invalid choice: 'walk'"),
        (
            ("run", "--step", "1"),
            "unrecognized option --step, did you mean --steps? (see dllama run",
        ),
        (("run", "--steps"), "argument --steps: expected one argument (see dllama run --help)"),
        (("run", "--steps", "-1"), "--steps: found -1, expected an integer of at least 0"),
        (("run", "--steps", "1e3"), "--steps: found '1e3', expected an integer"),
        (("run", "--temperature", "-0.5"), "--temperature: found -0.5"),
        (("run", "--temperature", "nan"), "--temperature: found nan"),
        (
            ("run", "--top-p", "0"),
            "--top-p: found 0.0, expected a number of more than 0 and",
        ),
        (("run", "--repetition-penalty", "0"), "--repetition-penalty: found 0.0"),
        (("run", "--seed", "-1"), "--seed: found -1"),
        (("run", "--seed", "18446744073709551616"), "--seed: found 18446744073709551616"),
        (("run", "--threads", "0"), "--threads: found 0"),
        (("convert", "x", "--output", "y", "--threads", "-1"), "--threads: found -1"),
        (("run", "--kv-cache", "q8"), "--kv-cache: found 'q8', expected one of auto, q80, f16"),
        (("run", "--prompt", "\udcff"), "--prompt: not UTF-8"),
        (("run", "--prompt", "a", "--prompt-file", "b"), "--prompt and --prompt-file: only one"),
        (("run", "--nodes", "9"), "nodes is 9, expected at most 8: the model has 8 query heads"),
        (("run", "--nodes", "0"), "--nodes: found 0"),
        (
            ("run", "--shares", "1,x"),
            "--shares: found 'x', expected auto or a number from 1e-06 to 1e+06",
        ),
        (("run", "--shares", "1,2"), "shares are [1.0, 2.0], expected 1"),
        (("run", "--workers", "here"), "address is 'here', expected HOST:PORT"),
        (("run", "--transport", "pigeon"), "transport is 'pigeon', expected one of blocking"),
        (("run", "--timeout", "0"), "--timeout: found 0.0"),
        (("worker", "--listen", "0.0.0.0:0"), "other machines could connect: give --secret-file"),
        (("worker", "--listen", "localhost"), "address is 'localhost', expected HOST:PORT"),
        (("worker", "--threads", "0"), "--threads: found 0, expected an integer from 1 to 1024"),
        (("run", "--max-seq-len", "513"), "max_seq_len is 513, expected an integer from 1 to 512"),
        (("run", "--stop", ""), "stop is [''], expected strings that are not empty"),
        (("info", "--nodes", "9", str(DEMO)), "nodes is 9"),
        (("perplexity",), "required: FILE"),
        (("perplexity", os.devnull), "the text has no tokens to score"),
        (("perplexity", __file__, "--context", "1"), "--context: found 1"),
        (("perplexity", __file__, "--context", "513"), "context is 513, expected 2 to 512"),
    ],
)
def test_wrong_usage(fails, words, message):
    status, line = fails(*words)
    assert message in line
    assert status == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--model", "/none"), "/none: no such model file or folder"),
        (("run", "--model", os.devnull), f"{os.devnull}"),
        (("info", "/none"), "/none: no such model file or folder"),
        (("info", "{tmp}"), "holds 0 .m files"),
        (("run", "--tokenizer", "/none"), "/none"),
        (("run", "--prompt-file", "/none"), "--prompt-file /none: No such file"),
        (("run", "--config", "/none"), "config /none: No such file"),
        (("perplexity", "/none"), "FILE /none: No such file"),
        (("run", "--json", "/none/x.json"), "/none/x.json: cannot write: /none is not a folder"),
        (("run", "--json", "{tmp}"), "is a folder, expected a file to write"),
        (("perplexity", __file__, "--json", "/none/x.json"), "/none/x.json: cannot write"),
        (("run", "--prompt", "x " * 600), "do not fit after 0 in a context of 512"),
        (("run", "--prompt", "x " * 90_000), "a text of 180000 bytes has more than 512 tokens"),
        (("run", "--steps", "600"), "do not fit after 0 in a context of 512"),
        (("convert", "/none", "--output", "{tmp}/x"), "/none"),
    ],
)
def test_a_failure(fails, tmp_path, words, message):
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    status, line = fails(*words)
    assert message in line
    assert status == 1


def test_a_wrong_line_of_the_config_file(fails, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("steps: 1\ntemprature: 0\n")
    status, line = fails("run", "--config", str(path))
    assert f"{path}, line 2: temprature: no such option" in line
    assert status == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 1\ntransport: pigeon", "line 2: transport: transport is 'pigeon', expected one"),
        ("workers: [here]", "line 1: workers: address is 'here', expected HOST:PORT"),
        ("nodes:\n- {}\n- address: 'ib://a'", "line 3: address: address is 'ib://a': no transport"),
    ],
)
def test_what_only_a_transport_knows_is_checked_with_its_line(fails, tmp_path, text, message):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    status, line = fails("run", "--config", str(path))
    assert f"{path}, {message}" in line
    assert status == 2


def test_a_broken_model_file(fails, tmp_path):
    (tmp_path / "model.m").write_bytes(b"\0" * 64)
    status, line = fails("run", "--model", str(tmp_path))
    assert "model.m: magic is" in line
    assert status == 1


def test_a_text_that_is_not_utf8(fails, tmp_path):
    (tmp_path / "text").write_bytes(b"abc\xff")
    status, line = fails("perplexity", str(tmp_path / "text"))
    assert "not UTF-8 at byte 3" in line
    assert status == 1


@pytest.mark.parametrize("prompt", ["to be", ""])
def test_a_text_for_a_model_without_a_tokenizer(fails, converted, prompt):
    folder = str(converted("llama-gqa", "f32"))
    status, line = fails("run", "--model", folder, "--prompt", prompt)
    assert "prompt is" in line
    assert status == 2


def test_perplexity_needs_a_tokenizer(fails, converted):
    folder = str(converted("llama-gqa", "f32"))
    status, line = fails("perplexity", __file__, "--model", folder)
    assert "has no tokenizer" in line
    assert status == 1


def test_a_failed_report_leaves_no_file(fails, tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    monkeypatch.setattr("dllama.cli.run._print_text", lambda *arguments: None)
    status, line = fails("run", *SHORT, "--json", str(tmp_path / "x.json"))
    assert "x.json: cannot write: No space left on device" in line
    assert status == 1
    assert list(tmp_path.iterdir()) == []


def test_a_defect_is_one_line_too(fails, monkeypatch):
    monkeypatch.setattr("dllama.cli.run.settings", lambda args: 1 / 0)
    status, line = fails("run")
    assert "unexpected ZeroDivisionError: division by zero (--debug shows where)" in line
    assert status == 1


def test_control_characters_of_an_error_are_escaped(fails, monkeypatch):
    def refuse(args):
        raise dllama.ProtocolError("a\x1b[2J\nb\x9b")

    monkeypatch.setattr("dllama.cli.run.settings", refuse)
    assert fails("run") == (1, "dllama: error: a\\x1b[2J b\\x9b")


@pytest.mark.parametrize("words", [("--debug", "run"), ("run", "--debug")])
def test_debug_shows_the_traceback(words):
    with pytest.raises(dllama.ModelError):
        main([*words, "--model", "/none"])


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("--version",)])
def test_help_is_no_error(capsys, words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert "dllama" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "convert", "perplexity", "info"])
def test_help_has_examples(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"  dllama {command}" in text.partition("\nexample")[2]


@pytest.fixture
def process(tmp_path):
    """Run the command in a process of its own; its exit status and stderr.

    Its folder is another one than this source tree, whose package it would find first.
    """

    def process(words: list[str], stdout: int) -> tuple[int, str]:
        command = [sys.executable, "-m", "dllama", *words]
        done = subprocess.run(
            command, stdout=stdout, stderr=subprocess.PIPE, cwd=tmp_path, text=True, check=False
        )
        return done.returncode, done.stderr

    return process


def test_a_reader_that_went_away(process):
    reader, writer = os.pipe()
    os.close(reader)
    assert process(["run", *SHORT], writer) == (1, "")
    os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_full(process):
    with Path("/dev/full").open("wb") as full:
        status, err = process(["run", *SHORT], full.fileno())
    assert status == 1
    assert err.startswith("dllama: error: ")
    assert "No space left on device" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [("info",), ("run", *SHORT)])
def test_an_unknown_instruction_set(fails, monkeypatch, words):
    monkeypatch.setenv("DLLAMA_ISA", "mmx")
    status, err = fails(*words)
    assert status == 2
    assert "DLLAMA_ISA is 'mmx', expected one of" in err


def test_an_unknown_instruction_set_in_the_api(monkeypatch):
    monkeypatch.setenv("DLLAMA_ISA", "mmx")
    with pytest.raises(dllama.ConfigError, match="DLLAMA_ISA is 'mmx'"):
        dllama.LLM()
