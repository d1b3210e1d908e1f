"""A folder is a layer, and imports go one way: from a layer to itself or to one below."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the bottom up. Packages and modules on one line may import each other.
LAYERS = """
    errors progress scratch version
    git_lfs checks json_file
    options
    _kernels
    model
    text transports
    graph sampling drafts
    run_config
    converter
    runtime
    cluster planning
    model_path model_runner draft_model scheduling engine small_llm
    conversation perplexity bench calibration __init__
    server
    cli __main__
"""
# The same for dllama/server/.
SERVER_LAYERS = """
    problems facts tools
    queue
    http response_format
    fields delivery
    answers vectors
    served
    desk
    apis
    app __init__
"""


def levels(layers: str) -> dict[str, int]:
    """The level of each name."""
    return {name: level for level, line in enumerate(layers.split("\n")) for name in line.split()}


LEVELS, SERVER_LEVELS = levels(LAYERS), levels(SERVER_LAYERS)
# What the converter may not see, though it is below: it knows files, not how they are run.
HIDDEN_FROM_CONVERTER = {"graph", "sampling", "drafts", "transports", "run_config"}
# Packages whose folders lie beside dllama/.
OUTSIDE = ("converter", "transports")
SUFFIXES = (".py", ".pyi", ".pyx", ".pxd")
CIMPORT = re.compile(r"^\s*(?:from\s+(dllama[\w.]*)\s+c?import|cimport\s+(dllama[\w.]*))", re.M)


def layer(module: str, package: str = "dllama") -> str:
    """The name of a module's layer: what follows the package."""
    return [*module.removeprefix(package).split("."), "__init__"][1]


def imports(path: Path) -> set[str]:
    """The modules of dllama that a source file imports or cimports."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".pyx", ".pxd"):
        return {a or b for a, b in CIMPORT.findall(text)}
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "dllama":
            found |= {f"dllama.{alias.name}" if alias.name in LEVELS else "dllama"
                      for alias in node.names}  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "dllama"}


def sources() -> dict[str, set[str]]:
    """What each module imports, by the module's name."""
    modules: dict[str, set[str]] = {}
    folders = {"dllama": "dllama"} | {name: f"dllama.{name}" for name in OUTSIDE}
    for name, package in folders.items():
        for path in sorted((ROOT / name).rglob("*")):
            if path.suffix in SUFFIXES:
                parts = path.relative_to(ROOT / name).with_suffix("").parts
                module = ".".join([package, *(part for part in parts if part != "__init__")])
                modules.setdefault(module, set()).update(imports(path))
    return modules


def upward(
    modules: dict[str, set[str]], levels: dict[str, int] = LEVELS, package: str = "dllama"
) -> list[str]:
    """Imports that go up in a package."""
    return [
        f"{module} imports {other}"
        for module, others in modules.items()
        for other in sorted(others)
        if module.startswith(package) and other.startswith(package)
        if levels[layer(other, package)] > levels[layer(module, package)]
    ]


def test_no_import_goes_up():
    found = sources()
    assert len(found) > 80
    assert upward(found) == []
    assert upward(found, SERVER_LEVELS, "dllama.server") == []


def test_the_converter_does_not_know_how_models_run():
    seen = {
        f"{module} imports {other}"
        for module, others in sources().items()
        for other in others
        if layer(module) == "converter" and layer(other) in HIDDEN_FROM_CONVERTER
    }
    assert not seen


@pytest.mark.parametrize(
    ("module", "other"),
    [("dllama.errors", "dllama.engine"), ("dllama._kernels.ops.matmul", "dllama.graph.build")],
)
def test_an_import_that_goes_up_is_found(module, other):
    assert upward({module: {other}}) == [f"{module} imports {other}"]
