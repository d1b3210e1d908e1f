"""Runs a program in a pseudo-terminal, as a person would use it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence

LONG = 60.0  # seconds, far more than anything here takes
COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\x07")


class Terminal:
    """Runs Python code in a terminal of its own.

    Attributes:
        text: everything shown so far, without escape sequences and carriage returns.
        raw: the same with them.
    """

    def __init__(self, code: str, words: Sequence[str] = (), **environment: str) -> None:
        self.text = ""
        self._seen = 0
        self.raw = b""
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", **environment},
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)

    def type(self, keys: str) -> None:
        """Press keys; "\\x03" is Ctrl-C, "\\x04" is Ctrl-D."""
        os.write(self._master, keys.encode())

    def press(self, keys: str, pattern: str) -> str:
        """Press keys until a pattern is shown; returns what `wait_for` returns.

        A program that gets Ctrl-C just before it waits for a line notices it only with the next
        key.
        """
        end = time.monotonic() + LONG
        while not re.search(pattern, self.text[self._seen :]) and time.monotonic() < end:
            self.type(keys)
            pause = time.monotonic() + 2.0
            while not re.search(pattern, self.text[self._seen :]) and time.monotonic() < pause:
                assert self._read(), f"ended without {pattern!r}: {self.text!r}"
        return self.wait_for(pattern)

    def wait_for(self, pattern: str) -> str:
        """Return what is shown after the last match, through a match of this pattern."""
        end = time.monotonic() + LONG
        while not (found := re.compile(pattern).search(self.text, self._seen)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text[self._seen :]!r}"
            assert self._read(), f"ended without {pattern!r}: {self.text!r}"
        shown = self.text[self._seen : found.end()]
        self._seen = found.end()
        return shown

    def status(self) -> int:
        """Wait for the end and return the exit status."""
        end = time.monotonic() + LONG
        while self._read():
            assert time.monotonic() < end, f"does not end: {self.text!r}"
        return self._process.wait(LONG)

    def _read(self) -> bool:
        """Read what is shown within a second; False at the end."""
        ready, _, _ = select.select([self._master], [], [], 1.0)
        if not ready:
            return True
        data = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            data = os.read(self._master, 1 << 16)
        self.raw += data
        self.text = COLOURS.sub("", self.raw.decode(errors="replace"))
        return bool(data)


def _take_terminal() -> None:
    """Start a session whose terminal is stdin, so that Ctrl-C sends it a signal."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
