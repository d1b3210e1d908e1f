"""Starts the process that renders chat templates, and talks to it.

There is one for all templates. It starts when the first one is needed, ends with this process, and
is replaced if a template has made the system end it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from dllama.errors import TemplateError

MAX_SECONDS = 5.0  # of computing, for one rendering
MAX_WAIT = 60.0  # seconds until a process that does not even compute is ended
SCRIPT = str(Path(__file__).with_name("template_child.py"))
# Finds packages where this process does, without the time that `site` takes.
START = "import runpy, sys; sys.path[:] = {path!r}; runpy.run_path({script!r}, None, '__main__')"


def render(source: str, values: dict[str, Any] | None) -> str:
    """Render a template with values, or only check it.

    Raises:
        TemplateError: the template is broken, fails, or takes too much time or memory; or the
            values are not JSON. The message does not name the template.
    """
    try:
        request = {"source": source, "values": values, "seconds": MAX_SECONDS}
        line = f"{json.dumps(request)}\n".encode("ascii")
    except (TypeError, ValueError) as error:
        raise TemplateError(f"its variables are not JSON ({error})") from error
    except RecursionError as error:
        raise TemplateError("the messages are nested too deeply") from error
    answer = _process.ask(line)
    if "error" in answer:
        raise TemplateError(answer["error"])
    return answer["text"]


class _Process:
    """The process. Threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0  # a fork of this process must not use the pipes of its parent

    def ask(self, line: bytes) -> dict[str, str]:
        """Send a request and return the answer; TemplateError if the process ended instead.

        If the template has not made it end, another process gets the request once more.
        """
        with self._lock:
            said, status = self._said(line)
            if not said and status != -signal.SIGPROF:
                said, status = self._said(line)
            if not said:
                raise TemplateError(_reason(status))
            answer: dict[str, str] = json.loads(said)
            return answer

    def _said(self, line: bytes) -> tuple[bytes, int]:
        """Return the answer of the process; or nothing, and the status with which it ended."""
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        waiting = threading.Timer(MAX_WAIT, child.kill)
        waiting.daemon = True
        waiting.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(line)
                child.stdin.flush()
            said = child.stdout.readline()
        except BaseException:  # Ctrl-C: an answer is left that belongs to no request
            self.end()
            raise
        finally:
            waiting.cancel()
        if said.endswith(b"\n"):
            return said, 0
        self.end()
        return b"", child.returncode

    def end(self) -> None:
        """End the process, if it is there."""
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        with contextlib.suppress(BrokenPipeError), child:  # closes the pipes and waits
            if child.poll() is None:
                child.kill()

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the process, started if need be."""
        if self._child is None or self._owner != os.getpid() or self._child.poll() is not None:
            self.end()
            code = START.format(path=sys.path, script=SCRIPT)
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", code],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C does not reach it
                )
            except OSError as error:
                raise TemplateError(f"cannot start a process for it: {error.strerror}") from error
            self._owner = os.getpid()
        return self._child


def _reason(status: int) -> str:
    """Why there is no answer."""
    if status == -signal.SIGPROF:
        return f"computes for more than {MAX_SECONDS:g} s"
    return f"the process that rendered it ended with status {status}"


_process = _Process()
atexit.register(_process.end)
