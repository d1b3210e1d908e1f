"""The examples of the documentation, each with its client."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[4] / "docs" / "apis.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split()[1])
def test_the_example_runs(example, server, capsys):
    pytest.importorskip(example.split()[1])
    scope = {}
    exec(example.replace("http://127.0.0.1:8080", server.url), scope)
    scope["client"].close()
    assert capsys.readouterr().out.strip()
