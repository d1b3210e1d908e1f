"""The terminal or pipe of a conversation: reads messages, shows answers and notes."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

with contextlib.suppress(ImportError):  # without it, lines cannot be edited
    import readline  # noqa: F401  (it edits the lines that input() reads)

FENCE = '"""'
FIRST, NEXT = "> ", ". "
# Control characters other than tab and newline could move the cursor of a terminal, or worse.
_HARMLESS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\ufffd")


class Console:
    """Reads messages from stdin, shows answers on stdout and notes on stderr.

    `interactive` is true if stdin is a terminal; only then there are prompts. In a `with` block,
    Ctrl-C in a terminal counts only while a message is typed and in on_interrupt, because a Ctrl-C
    just after an answer must not end the conversation.

    Args:
        quiet: show no notes.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.interactive = sys.stdin.isatty()
        self._quiet = quiet
        self._open = False  # whether the last line on stdout has not ended
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")
        self._deaf = False

    def __enter__(self) -> Console:
        self._deaf = self.interactive and signal.getsignal(signal.SIGINT) in HEEDED
        self._heed(False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._heed(True)

    def _heed(self, interrupts: bool) -> None:
        """Make Ctrl-C a KeyboardInterrupt, or ignore it."""
        if self._deaf:
            signal.signal(signal.SIGINT, signal.default_int_handler if interrupts else _nothing)

    def read(self) -> str | None:
        """The next message, which may have several lines; None if there are no more.

        A backslash at the end continues a line; lines between two fences are one message. Ctrl-C
        discards what was typed.
        """
        while True:
            try:
                try:
                    self._heed(True)
                    return self._message()
                finally:
                    self._heed(False)
            except EOFError:
                if self.interactive:
                    self.show("\n")
                return None
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                print("\n(Ctrl-D or /exit ends the conversation)", file=sys.stderr)

    def _message(self) -> str:
        """One message; EOFError if there is none."""
        line = self._line(FIRST)
        if line.lstrip().startswith(FENCE):
            return self._fenced(line.lstrip().removeprefix(FENCE))
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            with contextlib.suppress(EOFError):
                lines.append(self._line(NEXT))
        return "\n".join(lines)

    def _fenced(self, line: str) -> str:
        """The text up to the closing fence."""
        lines = [line]
        while not lines[-1].rstrip().endswith(FENCE):
            try:
                lines.append(self._line(NEXT))
            except EOFError:
                return "\n".join(lines).strip("\n")
        lines[-1] = lines[-1].rstrip().removesuffix(FENCE)
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        if not self.interactive:
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            return line.removesuffix("\n").removesuffix("\r")
        if sys.stdout.isatty():
            return input(prompt)
        print(prompt, end="", file=sys.stderr, flush=True)
        return input()

    def show(self, text: str) -> None:
        """Show a part of an answer at once."""
        if not text:
            return
        if sys.stdout.isatty():
            text = text.translate(_HARMLESS)
        sys.stdout.write(text)
        sys.stdout.flush()
        self._open = not text.endswith("\n")

    def end_line(self) -> None:
        """End the line of an answer, unless it has ended."""
        if self._open:
            self.show("\n")

    def note(self, text: str) -> None:
        """Show something that is not part of an answer."""
        if not self._quiet:
            self.end_line()
            print(text, file=sys.stderr, flush=True)


def _nothing(signum: int, frame: FrameType | None) -> None:
    """Ignore a Ctrl-C."""


# The handlers that on_interrupt replaces; it leaves a Ctrl-C that is ignored alone.
HEEDED = (signal.default_int_handler, _nothing)


@contextlib.contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[threading.Event]:
    """The first Ctrl-C calls stop and sets the event; a second one is a KeyboardInterrupt.

    If Ctrl-C is ignored, as in a job in the background, it stays so.
    """
    pressed = threading.Event()

    def interrupted(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed.set()
        stop()

    before = signal.getsignal(signal.SIGINT)
    if before not in HEEDED:
        yield pressed
        return
    signal.signal(signal.SIGINT, interrupted)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
