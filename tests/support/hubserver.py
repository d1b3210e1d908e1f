"""A server on this machine that imitates Hugging Face's hub, as far as downloads need it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves a repository "owner/model" with these files.

    Attributes:
        requests: (path, Range header) of all requests.
        large: names of files that are in Git LFS.
        breaks: after how many bytes of a file the connection breaks, once.
        gives_up: whether the file fails for good after that.
        failing: names of files whose requests are refused.
        wrong: what is sent instead of a file's bytes.
    """

    def __init__(self, files: dict[str, bytes], large: tuple[str, ...] = ()) -> None:
        self.files = files
        self.large = large
        self.requests: list[tuple[str, str | None]] = []
        self.breaks: dict[str, int] = {}
        self.gives_up = False
        self.failing: set[str] = set()
        self.wrong: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def asked(self, name: str) -> list[str | None]:
        """Return the Range headers of the requests for a file."""
        return [given for path, given in self.requests if path.endswith(f"/{name}")]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def info(self) -> dict[str, Any]:
        """Return what the hub reports about the repository."""
        entries = [self._entry(name, data) for name, data in self.files.items()]
        return {"id": "owner/model", "sha": COMMIT, "siblings": entries}

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry = {"rfilename": name, "size": len(data), "blobId": blob}
        if name in self.large:
            digest = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
        return entry


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            path, given = urlsplit(self.path).path, self.headers.get("Range")
            hub.requests.append((path, given))
            if re.fullmatch(rf"/api/models/owner/model(/revision/(main|v1|{COMMIT}))?", path):
                self._answer(200, json.dumps(hub.info()).encode())
                return
            name = path.removeprefix(f"/owner/model/resolve/{COMMIT}/")
            if name not in hub.files or name in hub.failing:
                code = "EntryNotFound" if path.startswith("/owner/model/") else "RepoNotFound"
                self._answer(404, b"", {"X-Error-Code": code})
                return
            self._send_file(name, int(given[6:-1]) if given else 0)

        def _send_file(self, name: str, begin: int) -> None:
            data = hub.wrong.get(name, hub.files[name])
            headers = {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
            rest = data[begin:]
            until = hub.breaks.pop(name, None)
            if until is not None and hub.gives_up:
                hub.failing.add(name)
            status = 206 if begin else 200
            self._answer(status, rest, headers if begin else {}, until)

        def _answer(self, status: int, body: bytes, headers: Any = (), until: Any = None) -> None:
            self.send_response(status)
            for key, value in dict(headers).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:until])
            if until is not None:
                self.wfile.flush()
                self.close_connection = True

    return Handler
