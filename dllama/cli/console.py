"""The two sides of a conversation: lines that are typed or piped, and text that is shown."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

with contextlib.suppress(ImportError):  # where it is missing, lines cannot be edited
    import readline  # noqa: F401  (it edits the lines that input() reads)

FENCE = '"""'
FIRST, NEXT = "> ", ". "
# Control characters but tab and newline: they would move the cursor of a terminal, or worse.
_HARMLESS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\ufffd")


class Console:
    """Reads messages from stdin, shows answers on stdout and notes on stderr.

    interactive: whether stdin is a terminal; else there are no prompts. quiet: no notes. Within
    a with block, Ctrl-C in a terminal does nothing but where a message is typed, and in
    on_interrupt: one that comes a moment after an answer must not end the conversation.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.interactive = sys.stdin.isatty()
        self._quiet = quiet
        self._open = False  # whether the last line on stdout has no end yet
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
        """Let Ctrl-C be a KeyboardInterrupt, or nothing."""
        if self._deaf:
            signal.signal(signal.SIGINT, signal.default_int_handler if interrupts else _nothing)

    def read(self) -> str | None:
        """The next message, which may have several lines; None where there are no more.

        A line that ends with a backslash goes on in the next, as do lines between two fences.
        Ctrl-C takes back what is typed.
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
        """One message; EOFError where there is none."""
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
        """What stands before the closing fence."""
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
        """Show text of an answer at once."""
        if not text:
            return
        if sys.stdout.isatty():
            text = text.translate(_HARMLESS)
        sys.stdout.write(text)
        sys.stdout.flush()
        self._open = not text.endswith("\n")

    def end_line(self) -> None:
        """End the line of an answer, if it has no end."""
        if self._open:
            self.show("\n")

    def note(self, text: str) -> None:
        """Tell something that is no answer."""
        if not self._quiet:
            self.end_line()
            print(text, file=sys.stderr, flush=True)


def _nothing(signum: int, frame: FrameType | None) -> None:
    """A Ctrl-C that is not meant for anything."""


# What on_interrupt takes the place of: not of a Ctrl-C that is ignored.
HEEDED = (signal.default_int_handler, _nothing)


@contextlib.contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[threading.Event]:
    """The first Ctrl-C calls stop and sets the event, a second one is a KeyboardInterrupt.

    It stays ignored where it is, as in a job in the background.
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
