"""The chat page: its files, and what a browser may do with them."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "woff2": "font/woff2",
}
# The page runs only its own scripts, talks only to this server, and no text can become HTML: the
# functions of the browser that would parse it are locked.
POLICY = (
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "font-src 'self'",
    "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'",
    "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
)  # fmt: skip
HEADERS = {
    "content-security-policy": "; ".join(POLICY),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # a browser asks whether its copy is still the same
}


class PageFile(NamedTuple):
    """A file of the page."""

    content: bytes
    media_type: str
    tag: str


def routes() -> list[Route]:
    """Return the paths: the page at / and its other files below /static/."""
    found = dict(_read(files("dllama.server").joinpath("web"), ""))

    async def page(request: Request) -> Response:
        return _respond(request, found["page.html"])

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in found or name == "page.html":
            raise HTTPException(404)
        return _respond(request, found[name])

    return [Route("/", page), Route("/static/{name:path}", static)]


def _read(folder: Traversable, above: str) -> Iterator[tuple[str, PageFile]]:
    """Yield name and file of all files that a browser may want."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _read(entry, f"{above}{entry.name}/")
        elif media_type := TYPES.get(entry.name.rpartition(".")[2]):
            content = entry.read_bytes()
            tag = f'"{sha256(content).hexdigest()[:32]}"'
            yield f"{above}{entry.name}", PageFile(content, media_type, tag)


def _respond(request: Request, file: PageFile) -> Response:
    """Send a file, unless the browser has it."""
    headers = {**HEADERS, "etag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers={**headers, "content-type": file.media_type})
