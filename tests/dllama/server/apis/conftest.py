"""A server whose chat template has functions and thoughts, and whose answers a test chooses."""

from __future__ import annotations

import pytest
from serving import serving
from tooling import TEMPLATE


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "tools.jinja"
    path.write_text(TEMPLATE)
    with serving(limit=2, template=path) as started:
        yield started
