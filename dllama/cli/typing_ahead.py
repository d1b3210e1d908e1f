"""What a person types while an answer comes: kept for the next message, and not shown among it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

try:
    import termios
except ImportError:  # Python can be built without it
    termios = None  # type: ignore[assignment]


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keep what is typed, key by key, until a line is read. Ctrl-C works as ever.

    It does nothing if stdin is no terminal.
    """
    if termios is None or not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = termios.tcgetattr(terminal)
    silent[3] &= ~(termios.ECHO | termios.ICANON)
    silent[3] |= termios.NOFLSH  # else Ctrl-C may discard output that comes just after it
    termios.tcsetattr(terminal, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)
