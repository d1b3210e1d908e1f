"""`dllama worker`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref

import pytest
from made_speeds import keep_speeds

import dllama
from dllama.cli import launched, main, worker
from dllama.cli.signals import ENDING
from dllama.transports import is_public

LIMIT = 60


def start(*words, **environment):
    """A worker, and the address it listens at."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dllama", "worker", "--threads", "1", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    line = process.stdout.readline().strip()
    assert line.startswith("listening at "), process.communicate(timeout=LIMIT)
    return process, line.removeprefix("listening at ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_removes_its_socket(number, tmp_path):
    process, address = start("--listen", f"unix:{tmp_path}/socket")
    assert address == f"unix:{tmp_path}/socket"
    process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out, err) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("where", ["read_secret", "Worker"])
def test_a_signal_before_it_listens(where, number, monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        os.kill(os.getpid(), number)
        time.sleep(LIMIT)

    monkeypatch.setattr(worker, where, interrupted)
    assert main(["worker", "--listen", f"unix:{tmp_path}/socket"]) == 0
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("command", "status"), [("worker", 0), ("secret", 143)])
def test_a_signal_while_python_makes_a_class(command, status, monkeypatch, capsys):
    """Whose exception Python wraps in another one, before 3.12."""

    class Interrupts:
        def __set_name__(self, *_):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(LIMIT)

    monkeypatch.setattr(launched, "run", lambda args: type("New", (), {"field": Interrupts()}))
    assert main([command]) == status
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_where_python_ignores_exceptions(number, monkeypatch, capsys):
    """It is not lost."""

    def collected(_):
        os.kill(os.getpid(), number)
        time.sleep(LIMIT)

    def run(args):
        _kept = weakref.ref(set(), collected)
        time.sleep(LIMIT)

    monkeypatch.setattr(launched, "run", run)
    assert main(["worker"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_hangup_that_is_ignored_stays_ignored():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        worker.heed_signals(None)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert callable(signal.getsignal(signal.SIGTERM))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_once(tmp_path):
    process, address = start("--listen", f"unix:{tmp_path}/socket", "--once", "--quiet")
    with dllama.LLM(workers=[address], threads=1) as llm:
        llm.eval([1, 2])
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")


def test_weights_that_are_there_are_not_sent_again():
    process, address = start("--listen", "127.0.0.1:0")
    sent = []
    for seq_len in (64, 32):
        with dllama.LLM(workers=[address], threads=1, max_seq_len=seq_len) as llm:
            expected = llm.eval([1, 2, 3])
            sent.append(llm._runner.root.traffic()[0])
    with dllama.LLM(nodes=2, threads=1) as llm:
        assert (llm.eval([1, 2, 3]) == expected).all()
    process.terminate()
    process.communicate(timeout=LIMIT)
    assert sent[0] > 1_000_000 > 50_000 > sent[1]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("127.0.0.1:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
        ("unix:/a", False),
        ("0.0.0.0:1", True),
        ("[::]:1", True),
        ("10.0.0.1:1", True),
        ("tcp://node7:1", True),
    ],
)
def test_where_others_can_connect(address, public):
    assert is_public(address) == public


def test_a_public_address_needs_a_secret_or_a_word(tmp_path):
    (tmp_path / "secret").write_text("a secret of 19 bytes\n")
    for words in (["--insecure"], ["--secret-file", str(tmp_path / "secret")]):
        process, _ = start("--listen", "0.0.0.0:0", *words)
        process.terminate()
        process.communicate(timeout=LIMIT)
        assert process.returncode == 0


def test_an_address_in_use(tmp_path):
    process, address = start("--listen", "127.0.0.1:0")
    words = [sys.executable, "-m", "dllama", "worker", "--listen", address]
    second = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=False)
    process.terminate()
    process.communicate(timeout=LIMIT)
    assert second.returncode == 1
    expected = f"dllama: error: listening at {address}: Address already in use"
    assert second.stderr.startswith(expected)
    assert second.stderr.count("\n") == 1


def test_weights_on_disk_are_not_sent_to_a_new_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))
    keep_speeds()
    words = ["--listen", f"unix:{tmp_path}/socket", "--cache", f"{tmp_path}/shards", "--once"]
    sent = []
    for _ in range(2):
        process, address = start(*words, "--cache-size", "0.1")
        with dllama.LLM(workers=[address], threads=1) as llm:
            llm.eval([1, 2, 3])
            sent.append(llm._runner.root.traffic()[0])
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0
    assert "read " in err
    assert sent[0] > 1_000_000 > 50_000 > sent[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cache-size", "1"], "--cache-size needs --cache DIR"),
        (["--cache", "/proc/none"], "--cache /proc/none: No such file or directory"),
        (["--cache", __file__], f"--cache {__file__}: File exists"),
        (["--cache", "x", "--cache-size", "0"], "found 0.0, expected a number from 0.001"),
    ],
)
def test_a_cache_that_cannot_be(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["worker", *words]) in (1, 2)
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
