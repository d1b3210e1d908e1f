"""Imports go one way: a module imports from its own layer or below, never from above."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the bottom up; a name stands for the module and all within it. The longest match counts.
LAYERS = (
    (
        "dllama.errors",
        "dllama.spec",
        "dllama.stats",
        "dllama.sharding",
        "dllama.summation",
        "dllama.ranges",
        "dllama.jsonfile",
        "dllama.progress",
        "dllama.contexts",
    ),
    ("dllama._kernels", "dllama.config", "dllama.plan", "dllama.spelling"),
    ("dllama.modelheader", "dllama.modelfile", "dllama.tokenizerfile", "dllama.tokenizerconfig"),
    ("dllama.bpe", "dllama.tokenizer", "dllama.sampler", "dllama.program"),
    ("dllama.families", "dllama.transports", "dllama.template", "dllama.templatelimits"),
    ("dllama.converter",),
    (
        "dllama.settings",
        "dllama.generation",
        "dllama.weights",
        "dllama.protocol",
        "dllama.slices",
        "dllama.logprobs",
    ),
    ("dllama.context", "dllama.node", "dllama.distribute", "dllama.session", "dllama.trace"),
    ("dllama.worker", "dllama.cluster", "dllama.local", "dllama.footprint"),
    ("dllama.root",),
    ("dllama.engine",),
    ("dllama", "dllama.perplexity", "dllama.bench", "dllama.conversation"),
    ("dllama.server",),
    ("dllama.cli", "dllama.__main__"),
)
# Subpackages whose folders lie beside dllama/.
OUTSIDE = ("converter", "transports")
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
CIMPORT = re.compile(r"^\s*(?:from\s+(dllama[\w.]*)\s+cimport|cimport\s+(dllama[\w.]*))", re.M)


def level(module: str) -> int:
    """The layer of a module."""
    names = [name for name in LEVELS if name != "dllama" and (module + ".").startswith(name + ".")]
    if not names:
        assert module == "dllama", f"{module} belongs to no layer"
        return LEVELS["dllama"]
    return LEVELS[max(names, key=len)]


def imports(path: Path) -> set[str]:
    """The modules of dllama that a source file imports or cimports."""
    text = path.read_text(encoding="utf-8")
    found = {a or b for a, b in CIMPORT.findall(text)}
    if path.suffix in (".pyx", ".pxd"):
        return found | set(re.findall(r"^from\s+(dllama[\w.]*)\s+import", text, re.M))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dllama"):
            found |= {_module(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("dllama")}
    return found


def _module(package: str, name: str) -> str:
    """package.name if that is a module, else the package."""
    path = source_of(f"{package}.{name}")
    return f"{package}.{name}" if path is not None else package


def source_of(module: str) -> Path | None:
    """The file or folder of a module, if there is one."""
    parts = module.split(".")
    outside = parts[1:2] and parts[1] in OUTSIDE
    base = ROOT.joinpath(*parts[1:]) if outside else ROOT.joinpath(*parts)
    found = [base.with_suffix(suffix) for suffix in (".py", ".pyx")]
    return next((path for path in (base, *found) if path.exists()), None)


def sources() -> dict[str, list[Path]]:
    """All source files by the module they belong to."""
    modules: dict[str, list[Path]] = {}
    folders = {"dllama": "dllama"} | {name: f"dllama.{name}" for name in OUTSIDE}
    for name, package in folders.items():
        folder = ROOT / name
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".pyx", ".pxd"):
                inner = path.relative_to(folder).with_suffix("").parts
                parts = [part for part in inner if part != "__init__"]
                modules.setdefault(".".join([package, *parts]), []).append(path)
    return modules


def upward(modules: dict[str, set[str]]) -> list[str]:
    """Imports that go up."""
    return [
        f"{module} imports {other}"
        for module, others in modules.items()
        for other in sorted(others)
        if level(other) > level(module)
    ]


def test_no_import_goes_up():
    found = {
        module: set().union(*(imports(path) for path in paths))
        for module, paths in sources().items()
    }
    assert len(found) > 30
    assert upward(found) == []


def test_converter_sees_errors_families_and_files_only():
    allowed = {"errors", "spec", "families", "modelfile", "modelheader", "converter"}
    allowed |= {"spelling", "jsonfile", "tokenizer", "tokenizerfile", "tokenizerconfig"}
    for module, paths in sources().items():
        if module.startswith("dllama.converter"):
            for other in set().union(*(imports(path) for path in paths)):
                assert other.split(".")[1] in allowed, f"{module} imports {other}"


@pytest.mark.parametrize(
    ("module", "other"),
    [("dllama.errors", "dllama.engine"), ("dllama._kernels.matmul", "dllama.program")],
)
def test_an_import_that_goes_up_is_found(module, other):
    assert upward({module: {other}}) == [f"{module} imports {other}"]
