"""What wheels hold, and for what they are built."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "dllama": "dllama",
    "converter": "dllama.converter",
    "transports": "dllama.transports",
}


def test_every_package_is_installed():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^packages = (\[\n.*?^\])", text, re.MULTILINE | re.DOTALL)
    found = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for folder, name in FOLDERS.items()
        for path in (ROOT / folder).glob("**/__init__.py")
    }
    assert found <= set(ast.literal_eval(listed))


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_wheels_are_built_for_every_python_that_is_named():
    named = re.findall(r"Python :: (3\.\d+)", text("pyproject.toml"))
    assert f"from {named[0]} to {named[-1]}" in text("README.md")
    jobs = yaml.safe_load(text(".github/workflows/release.yml"))["jobs"]
    for job in ("build", "test"):
        assert jobs[job]["strategy"]["matrix"]["python"] == named


def test_wheels_are_tested_on_every_machine_before_they_are_uploaded():
    jobs = yaml.safe_load(text(".github/workflows/release.yml"))["jobs"]
    machines = re.search(r"archs=\((\w+) (\w+)\)", text(".ci/wheels")).groups()
    tested = jobs["test"]["strategy"]["matrix"]["machine"]
    assert machines == ("x86_64", "aarch64")
    assert [name.endswith("-arm") for name in tested] == [False, True]
    assert jobs["test"]["needs"] == "build"
    assert jobs["upload"]["needs"] == ["sdist", "test"]
    assert jobs["upload"]["if"] == "github.event_name == 'push'"


def test_the_workflow_the_makefile_and_the_script_fit_each_other():
    steps = yaml.safe_load(text(".github/workflows/release.yml"))["jobs"]["build"]["steps"]
    assert "make wheels PYTHON=python" in [step.get("run") for step in steps]
    assert re.search(r"^wheels:\n\tPYTHON=\$\(PYTHON\) \.ci/wheels$", text("Makefile"), re.M)
    assert (ROOT / ".ci/wheels").stat().st_mode & 0o100
    (glibc,) = re.findall(r"^glibc=(.*)$", text(".ci/wheels"), re.M)
    assert f"glibc {glibc} or later" in text("README.md")
    for file in (".ci/wheels", ".github/workflows/release.yml"):
        assert file in text("MANIFEST.in")
