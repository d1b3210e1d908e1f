"""A transport in another package: built with the installed headers, found by its entry point."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dllama import transports

SOURCE = Path(__file__).parent / "outside"
USE = """\
import dllama
from dllama import transports
from dllama.transports.conformance import Conformance
from pathlib import Path
import tempfile

class Masked(Conformance):
    transport = transports.get("masked")

for name in dir(Masked):
    if name.startswith("test_"):
        with tempfile.TemporaryDirectory() as folder:
            getattr(Masked(), name)(Path(folder))
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


def run(installed, *words):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=installed, timeout=200, check=False,
        capture_output=True, text=True,
    )  # fmt: skip


def test_a_transport_of_another_package_passes_and_runs_a_cluster(installed):
    result = run(installed, "-c", USE)
    assert (result.returncode, result.stdout, result.stderr) == (0, "passed\n", "")


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
