"""A transport in another package: built with the installed headers, found by its entry point."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from between import Tap, own_host

from dllama import transports

SOURCE = Path(__file__).parent / "outside"
MASK = 0x5A  # of its bytes
SUITE = """\
from dllama import transports
from dllama.transports.conformance import Conformance
from pathlib import Path
import tempfile

class Masked(Conformance):
    transport = transports.get("masked")

class MaskedWithTls(Masked):
    encrypted = True

for suite in Masked(), MaskedWithTls():
    for name in dir(suite):
        if name.startswith("test_"):
            with tempfile.TemporaryDirectory() as folder:
                getattr(suite, name)(Path(folder))
print("passed")
"""
USE = """\
import dllama

with dllama.LLM(threads=1) as llm:
    expected = [token.id for token in llm.generate("MACBETH:", 8, temperature=0.0)]
with dllama.LLM(nodes=3, transport="masked", threads=1) as llm:
    assert llm.transport == "masked"
    assert [token.id for token in llm.generate("MACBETH:", 8, temperature=0.0)] == expected
print("passed")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder where the package is installed."""
    folder = tmp_path_factory.mktemp("outside")
    source = shutil.copytree(SOURCE, folder / "source")
    words = ["-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    words += ["--disable-pip-version-check", "--target", str(folder / "site"), str(source)]
    subprocess.run([sys.executable, *words], check=True, timeout=200, cwd=folder)
    return folder / "site"


def environment(installed):
    return {**os.environ, "PYTHONPATH": str(installed)}


def run(installed, *words):
    return subprocess.run(
        [sys.executable, *words], env=environment(installed), cwd=installed, timeout=200,
        check=False, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("script", [SUITE, USE], ids=["suite", "cluster"])
def test_a_transport_of_another_package_passes_and_runs_a_cluster(installed, script):
    result = run(installed, "-c", script)
    assert (result.returncode, result.stdout, result.stderr) == (0, "passed\n", "")


class Spoiler:
    """Flips a bit of the bytes of whoever connects, after some thousands of them, if it may."""

    def __init__(self, may: bool) -> None:
        self._may = may

    def __call__(self, caller: bool, before: int, data: bytes) -> bytes:
        flips = self._may and caller and before > 5000
        return bytes([data[0] ^ 1]) + data[1:] if flips else data


@contextlib.contextmanager
def workers(installed, folder, count, *options):
    """Start workers at an address that is not loopback, and yield where each listens.

    What they say goes to RANK.log in the folder.
    """
    command = [sys.executable, "-m", "dllama", "worker", "--listen", f"masked://{own_host()}:0"]
    started = []
    try:
        for rank in range(1, count + 1):
            with (folder / f"{rank}.log").open("w") as log:
                started.append(
                    subprocess.Popen(
                        [*command, "--threads", "1", "--quiet", *options], stderr=log,
                        stdout=subprocess.PIPE, env=environment(installed), text=True,
                    )
                )  # fmt: skip
        yield [one.stdout.readline().split()[-1] for one in started]
    finally:
        for one in started:
            with one:
                one.terminate()


@pytest.mark.parametrize("how", ["tls", "plain", "altered"])
def test_its_links_are_encrypted_where_others_may_read(installed, tmp_path, how):
    """On an address of the network, between root and workers and among workers."""
    (tmp_path / "secret").write_text("a secret of 19 bytes")
    options = ["--secret-file", str(tmp_path / "secret"), *["--plain"] * (how == "plain")]
    text = ["--threads", "1", "--steps", "8", "--temperature", "0", "--quiet", "MACBETH:"]
    alone = run(installed, "-m", "dllama", "run", *text)
    with (
        workers(installed, tmp_path, 2, *options) as (first, second),
        Tap(second.removeprefix("masked://"), Spoiler(how == "altered")) as tap,
    ):
        places = ["--transport", "masked", "--workers", first, f"masked://{tap.address}"]
        result = run(installed, "-m", "dllama", "run", *places, *options, *text)
    seen = bytes(byte ^ MASK for byte in tap.seen[:20_000])
    assert b"dllama" in seen  # the Hellos
    assert (b'"addresses"' in seen) == (how == "plain")
    if how == "altered":
        assert result.returncode == 1
        assert re.search(rf"worker 2 \(.*, masked://{tap.address}\)", result.stderr)
        assert "the bytes were altered on their way" in (tmp_path / "2.log").read_text()
    else:
        assert (result.returncode, result.stdout) == (0, alone.stdout), result.stderr


def test_it_is_listed(installed):
    rows = run(installed, "-m", "dllama", "info").stdout.splitlines()
    assert rows[-1].split(maxsplit=1)[1] == ", ".join(
        [*transports.BUILTIN, *transports.LAUNCHED, "masked"]
    )


def test_a_transport_that_cannot_be_loaded(installed, tmp_path):
    broken = tmp_path / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[dllama.transports]\nbroken = no_such_module:X\n")
    result = run(tmp_path, "-m", "dllama", "run", "--nodes", "2", "--transport", "broken")
    assert result.returncode == 2
    assert "transport broken: cannot load no_such_module:X" in result.stderr
