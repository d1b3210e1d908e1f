"""`dllama serve`."""

from __future__ import annotations

import builtins
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from dllama.cli import main, serve
from dllama.server.http import service

LIMIT = 60
KEY = "DLLAMA_API_KEY"


def start(*words, **environment):
    """A server, and the URL it says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dllama", "serve", "--threads", "1", "--quiet", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert select.select([process.stdout], [], [], LIMIT)[0]
    line = process.stdout.readline().strip()
    assert line.startswith("listening at http://"), process.communicate(timeout=LIMIT)
    return process, line.removeprefix("listening at ")


def complete(url, key="", **fields):
    """The open answer to a request."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    body = json.dumps({"prompt": "MACBETH:\n", "temperature": 0, **fields}).encode()
    asked = urllib.request.Request(f"{url}/v1/completions", body, headers)
    return urllib.request.urlopen(asked, timeout=LIMIT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_after_the_running_answer(number):
    process, url = start("--listen", "127.0.0.1:0")
    with complete(url, stream=True, max_tokens=300, ignore_eos=True) as answer:
        assert answer.readline() == b": waiting\n"
        while not answer.readline().startswith(b"data: "):
            pass
        process.send_signal(number)
        assert answer.read().rstrip().endswith(b"data: [DONE]")
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("where", ["open_model", "settings"], ids=["loading", "starting"])
def test_a_signal_while_it_starts(where, number, monkeypatch):
    def interrupted(*_):
        os.kill(os.getpid(), number)
        time.sleep(LIMIT)

    monkeypatch.setattr(serve, where, interrupted)
    assert main(["serve", "--listen", "127.0.0.1:0", "--quiet"]) == 0


def test_a_signal_while_its_thread_starts(monkeypatch):
    """The thread ends, too: the process would wait for it."""
    start = service.HttpServer.start

    def interrupted(http):
        start(http)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(LIMIT)

    monkeypatch.setattr(service.HttpServer, "start", interrupted)
    assert main(["serve", "--listen", "127.0.0.1:0", "--quiet"]) == 0
    assert "http" not in [thread.name for thread in threading.enumerate()]


def test_options_and_a_file_of_options(tmp_path):
    (tmp_path / "key").write_text("open-sesame-please\n")
    config = tmp_path / "serve.yaml"
    config.write_text(
        f"host: 0.0.0.0\nport: 1\napi_key_file: {tmp_path}/key\nmax_seq_len: 64\nnodes: 2\n"
    )
    process, url = start("--config", str(config), "--port", "0", "--alias", "bard")
    with complete(url.replace("0.0.0.0", "127.0.0.1"), "open-sesame-please", max_tokens=100,
                  ignore_eos=True) as answer:  # fmt: skip
        found = json.load(answer)
    process.terminate()
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    assert (found["model"], found["usage"]["total_tokens"]) == ("bard", 65)


def test_a_public_address_needs_a_key_or_a_word(capsys, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    assert main(["serve", "--listen", "0.0.0.0:0"]) == 2
    assert "give --api-key-file, or --insecure" in capsys.readouterr().err
    assert main(["serve", "--listen", "0.0.0.0:0", "--insecure", "--model", "missing"]) == 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--listen", "unix:/tmp/x"], 2, "expected HOST:PORT"),
        (["--listen", "127.0.0.1"], 2, "address is '127.0.0.1', expected HOST:PORT or [IPV6]:PORT"),
        (["--api-key-file", "missing"], 2, "secret file missing: No such file"),
        (["--template", "missing"], 1, "template missing: No such file"),
        (["--model", "missing"], 1, "missing: no such model file or folder"),
        (
            ["--workers", "127.0.0.1:1"],
            1,
            "worker 1: connecting to 127.0.0.1:1: Connection refused",
        ),
        (["--queue", "0"], 2, "expected an integer from 1 to 10000"),
        (["--port", "80"], 2, "--listen and --port: only one of the two"),
        (["--host", "localhost"], 2, "--listen and --host: only one of the two"),
        (["--alias", "a\nb"], 2, "--alias: found 'a\\nb', expected a name"),
        (["--cors-origins", "https://a.example/"], 2, "expected * or an origin such as"),
        (["--cors-origins", "a.example"], 2, "expected * or an origin such as"),
        (["--cors-origins", "https://a.example,*"], 2, "--cors-origins *: pages of all web sites"),
    ],
)
def test_what_cannot_be_served(words, status, message, capsys, monkeypatch):
    assert main(["serve", "--listen", "127.0.0.1:0", *words]) == status
    err = capsys.readouterr().err
    *usage, line = err.splitlines()
    assert message in line
    assert not usage or usage[0].startswith("usage: dllama serve ")


def test_a_key_that_no_header_can_hold(capsys, monkeypatch):
    monkeypatch.setenv(KEY, "two words")
    assert main(["serve"]) == 2
    assert "DLLAMA_API_KEY: expected one key" in capsys.readouterr().err


def test_without_its_packages(capsys, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else builtins)
    assert main(["serve"]) == 2
    expected = "dllama: error: serve needs uvicorn: pip install 'dllama[serve]'\n"
    assert capsys.readouterr().err == expected
