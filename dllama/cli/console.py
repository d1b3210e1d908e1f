"""The terminal or pipe of a conversation: reads messages, shows answers and notes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType

from dllama.checks import harmless
from dllama.cli.markdown import Markdown

try:
    import readline  # it edits the lines that input() reads
except ImportError:
    readline = None  # type: ignore[assignment]

FENCE = '"""'
FIRST, NEXT = "> ", ". "


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
        self._markdown: Markdown | None = None  # of the answer that is being shown
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

    def complete(self, words: Sequence[str]) -> None:
        """Make Tab complete these words at the beginning of a message."""
        if readline is None or not self.interactive:
            return

        def matching(begun: str, number: int) -> str | None:
            found = [word for word in words if readline.get_begidx() == 0 if word.startswith(begun)]
            return found[number] if number < len(found) else None

        readline.set_completer(matching)
        readline.set_completer_delims(" ")
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")

    def show(self, text: str) -> None:
        """Show a part of an answer at once; in a terminal, with colours for its Markdown."""
        if not text:
            return
        self._open = not text.endswith("\n")
        if sys.stdout.isatty():
            text = harmless(text)
            if _has_colours():
                self._markdown = self._markdown or Markdown()
                text = self._markdown.push(text)
        sys.stdout.write(text)
        sys.stdout.flush()

    def end_line(self) -> None:
        """End an answer, and its last line unless that has ended."""
        if self._markdown:
            sys.stdout.write(self._markdown.end())
            self._markdown = None
        if self._open:
            sys.stdout.write("\n")
            self._open = False
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Show something that is not part of an answer."""
        if not self._quiet:
            self.end_line()
            print(harmless(text), file=sys.stderr, flush=True)


def _has_colours() -> bool:
    """Whether the terminal may show colours; see no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


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
