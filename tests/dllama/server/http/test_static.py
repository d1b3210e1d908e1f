"""The files of the chat page: how they are served, installed and kept short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from serving import http, serving
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

import dllama.server

WEB = Path(dllama.server.__file__).parent / "web"
OURS = [path for path in WEB.rglob("*.*") if "vendor" not in path.parts]
LIMIT = 400  # lines


@pytest.fixture(scope="module")
def url():
    """A server that wants a key; the page itself is open."""
    with serving(key=b"open-sesame") as server:
        yield server.url


def test_the_page_may_only_run_its_own_scripts(url):
    status, headers, body = http(f"{url}/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= set(policy)
    assert "require-trusted-types-for 'script'" in policy
    assert not re.search("unsafe|http:|https:", headers["content-security-policy"])
    assert headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script>| on\w+=| style=|http", body.decode())


def test_every_file_that_the_page_names_is_served(url):
    types = {"css": "text/css", "js": "text/javascript", "woff2": "font/woff2"}
    named = {"vendor/katex/fonts/KaTeX_Main-Regular.woff2"}
    named |= set(re.findall(r'"static/([^"]+)"', (WEB / "page.html").read_text(encoding="utf-8")))
    for path in WEB.glob("js/*.js"):
        for other in re.findall(r'(?:from|import) "([^"]+)"', path.read_text(encoding="utf-8")):
            named.add(str((path.parent / other).resolve().relative_to(WEB)))
    assert len(named) > 20
    for name in named:
        status, headers, body = http(f"{url}/static/{name}")
        assert (status, body) == (200, (WEB / name).read_bytes()), name
        kind = headers["content-type"].partition(";")[0]
        assert kind == types[name.rpartition(".")[2]]


def test_a_browser_fetches_a_file_again_only_if_it_has_changed(url):
    _, headers, _ = http(f"{url}/static/js/app.js")
    assert headers["cache-control"] == "no-cache"
    status, _, body = http(f"{url}/static/js/app.js", **{"if-none-match": headers["etag"]})
    assert (status, body) == (304, b"")


@pytest.mark.parametrize(
    "name", ["", "page.html", "js", "js/none.js", "../app.py", "..%2fapp.py", "vendor/README.md"]
)
def test_no_other_file_is_served(url, name):
    assert http(f"{url}/static/{name}")[0] == 404


def test_a_wheel_holds_all_files():
    root = Path(__file__).parents[4]
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    (pattern,) = re.findall(r'^"dllama.server" = \["(.*)"\]$', text, re.MULTILINE)
    command = build_py(Distribution({"package_data": {"dllama.server": [pattern]}}))
    command.ensure_finalized()
    command.manifest_files = {}
    found = command.find_data_files("dllama.server", str(WEB.parent))
    assert {Path(name) for name in found} == {path for path in WEB.rglob("*") if path.is_file()}


def test_files_are_short():
    assert len(OURS) > 20
    assert [path.name for path in OURS if len(path.read_text().splitlines()) >= LIMIT] == []


def test_libraries_come_with_their_licences():
    for folder in (path for path in (WEB / "vendor").iterdir() if path.is_dir()):
        assert (folder / "LICENSE").is_file()
        assert f"| `{folder.name}` |" in (WEB / "vendor" / "README.md").read_text()
