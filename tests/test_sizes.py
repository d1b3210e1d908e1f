"""Files stay short enough to be read in one sitting."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("dllama", "converter", "transports", "benchmarks", "tests")
SUFFIXES = (".py", ".pyi", ".pyx", ".pxd", ".h")
LIMIT = 400  # lines
FAMILY_LIMIT = 150


def test_no_source_file_is_longer_than_the_limit():
    sizes = {
        path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines())
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SUFFIXES
    }
    assert len(sizes) > 150
    assert {str(path): size for path, size in sizes.items() if size > LIMIT} == {}


def test_no_family_is_longer_than_the_limit():
    sizes = {
        path.name: len(text.splitlines())
        for path in (ROOT / "converter" / "families").glob("*.py")
        if "\nMODEL_TYPES" in (text := path.read_text(encoding="utf-8"))
    }
    assert len(sizes) > 20
    assert {name: size for name, size in sizes.items() if size >= FAMILY_LIMIT} == {}
