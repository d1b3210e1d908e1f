"""What a wheel holds: every package of the tree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

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
