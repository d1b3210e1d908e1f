"""Record dllama in a terminal and draw the recording as docs/recording.svg.

    python docs/recording.py

It runs the commands below in a shell on a pseudo-terminal and draws what the terminal shows.
All numbers are those of this run, on this machine. Only three things are the picture's own:
its colours, the speed of the typing, and the pauses between tokens, which are kept between
GAP and PAUSE so that an eye can follow. A reader that shows no animation, or is asked for
reduced motion, shows the last screen.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

COMMANDS = ['dllama run "To be, or not to be," --nodes 4 --seed 18 --steps 16']
PICTURE = Path(__file__).with_suffix(".svg")
TITLE = "dllama: one model, four processes"
PROMPT = "$ "
COLUMNS, ROWS = 82, 200  # so many rows that nothing scrolls
LIMIT = 120.0  # seconds that a command may take
NO_BREAK = "\u00a0"  # a space that no renderer merges with the next
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>])|\x07")

KEY, GAP, PAUSE = 0.045, 0.06, 0.5  # seconds: per key, between chunks at least and at most
SIZE, CELL, LINE = 14, 8.43, 20  # pixels: font, width of a character, height of a row
MARGIN, BAR = 26, 44  # pixels: beside the text, height of the title bar


@dataclass
class Screen:
    """The characters on the terminal, each with the time at which it appeared.

    cells: one list per row of (character, time in seconds).
    typed: row, first column, last column and time of each command.
    """

    cells: list[list[tuple[str, float]]] = field(default_factory=lambda: [[]])
    typed: list[tuple[int, int, int, float]] = field(default_factory=list)
    column: int = 0

    def write(self, text: str, moment: float) -> None:
        """Show text as a terminal does; escape sequences have no effect."""
        for character in ESCAPES.sub("", text):
            if character == "\n":
                self.cells.append([])
            elif character == "\r":
                self.column = 0
            else:
                self._put(character, moment)

    def _put(self, character: str, moment: float) -> None:
        row = self.cells[-1]
        row.extend([(" ", moment)] * (self.column + 1 - len(row)))
        row[self.column] = (character, moment)
        self.column += 1

    def text(self) -> str:
        """All rows, without the spaces at their ends."""
        return "\n".join("".join(c for c, _ in row).rstrip() for row in self.cells)


class Shell:
    """A shell on a pseudo-terminal, in an empty folder, with this Python's programs first."""

    def __init__(self, folder: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._process = subprocess.Popen(
            ["sh", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env={**os.environ, "PATH": path, "PS1": PROMPT, "ENV": "", "TERM": "dumb"},
            preexec_fn=_take_terminal,
        )
        os.close(slave)

    def type(self, line: str) -> None:
        """Type a line and press Enter."""
        os.write(self._master, line.encode() + b"\n")

    def read(self) -> list[tuple[str, float]]:
        """What is shown up to the next prompt: chunks, each with the time since the one before."""
        chunks: list[tuple[str, float]] = []
        before = time.monotonic()
        end = before + LIMIT
        while not "".join(text for text, _ in chunks).endswith(PROMPT):
            ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                sys.exit(f"no prompt within {LIMIT} s: {chunks}")
            text = os.read(self._master, 1 << 16).decode()
            now = time.monotonic()
            chunks.append((text, now - before))
            before = now
        return chunks

    def close(self) -> None:
        """End the shell."""
        self.type("exit")
        self._process.wait()
        os.close(self._master)


def _take_terminal() -> None:
    """Make stdin the terminal of a session, so that the shell has job control."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def record(commands: list[str]) -> Screen:
    """Run the commands one after another and return what the terminal shows at the end."""
    screen = Screen()
    with tempfile.TemporaryDirectory() as folder:
        shell = Shell(folder)
        screen.write("".join(text for text, _ in shell.read()), 0.0)
        moment = 0.8
        for command in commands:
            screen.typed.append((len(screen.cells) - 1, len(PROMPT), len(command), moment))
            moment += KEY * len(command) + PAUSE
            screen.write(command + "\r\n", 0.0)
            shell.type(command)
            echo = command + "\r\n"
            for text, gap in shell.read():
                shown, echo = text.removeprefix(echo), echo.removeprefix(text)
                if shown:
                    moment += min(max(gap, GAP), PAUSE)
                    screen.write(shown, moment)
            moment += PAUSE
        shell.close()
    return screen


def draw(screen: Screen) -> str:
    """The SVG of a recording."""
    rows = len(screen.cells)
    width = round(COLUMNS * CELL + 2 * MARGIN)
    height = BAR + rows * LINE + MARGIN
    last = max(moment for row in screen.cells for _, moment in row)
    body = [*_texts(screen), *_covers(screen, width), _cursor(screen, last)]
    return TEMPLATE.format(
        width=width,
        height=height,
        inner_width=width - 1,
        inner_height=height - 1,
        size=SIZE,
        title=escape(TITLE),
        middle=width / 2,
        text=escape(screen.text()),
        body="\n".join(body),
    )


def _texts(screen: Screen) -> list[str]:
    """Each run of characters that appeared together in a row."""
    texts = []
    for number, row in enumerate(screen.cells):
        line = "".join(character for character, _ in row)
        start = 0
        for end in range(1, len(row) + 1):
            if end < len(row) and row[end][1] == row[start][1]:
                continue
            if run := line[start:end].rstrip():
                skip = len(run) - len(run.lstrip())
                texts.append(_text(number, start + skip, run[skip:], row[start][1], _kind(line)))
            start = end
    return texts


def _text(row: int, column: int, text: str, moment: float, kind: str) -> str:
    """Characters at a place of the screen, as wide as their cells in any font."""
    if kind == "command":
        text = text.removeprefix(PROMPT)
        sign = _text(row, column, PROMPT.strip(), moment, "prompt")
        if not text.strip(PROMPT):
            return sign
        return f"{sign}\n{_text(row, column + len(PROMPT), text, moment, 'typed')}"
    delay = f' style="animation-delay:{moment:.2f}s"' if moment else ""
    shown = " shown" if moment else ""
    return (
        f'<text class="{kind}{shown}" x="{_x(column):.1f}" y="{_y(row):.0f}"'
        f' textLength="{len(text) * CELL:.1f}"{delay}>{escape(text.replace(" ", NO_BREAK))}</text>'
    )


def _kind(line: str) -> str:
    """How a line is coloured."""
    if line.startswith(PROMPT) or line == PROMPT.strip():
        return "command"
    if line.startswith("phase "):
        return "heading"
    if re.match(r"(prefill|decode) ", line):
        return "step"
    if re.match(r"(prompt|generation|per token|traffic) ", line) or " nodes over " in line:
        return "summary"
    return "output"


def _covers(screen: Screen, width: int) -> list[str]:
    """A cover over each typed line, which moves to the right with the keys."""
    return [
        f'<g class="keys" style="--by:{keys * CELL:.1f}px; animation: type {keys * KEY:.2f}s '
        f'steps({keys}) {moment:.2f}s backwards">'
        f'<rect class="window" x="{_x(column):.1f}" y="{_y(row) - 15:.0f}" '
        f'width="{width}" height="{LINE}"/>'
        f'<rect class="cursor" x="{_x(column):.1f}" y="{_y(row) - 13:.0f}" '
        f'width="{CELL:.1f}" height="17"/></g>'
        for row, column, keys, moment in screen.typed
    ]


def _cursor(screen: Screen, moment: float) -> str:
    """The cursor that blinks at the end."""
    x, y = _x(screen.column), _y(len(screen.cells) - 1) - 13
    return (
        f'<g class="shown" style="animation-delay:{moment:.2f}s"><rect class="cursor blink" '
        f'x="{x:.1f}" y="{y:.0f}" width="{CELL:.1f}" height="17"/></g>'
    )


def _x(column: int) -> float:
    return MARGIN + column * CELL


def _y(row: int) -> float:
    return BAR + row * LINE + SIZE


TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" \
height="{height}" role="img">
<title>{title}</title>
<desc>{text}</desc>
<style>
text {{ font: {size}px ui-monospace, SFMono-Regular, "SF Mono", Menlo, Consolas, \
"Liberation Mono", "DejaVu Sans Mono", monospace; fill: #d5dbe5; }}
.window {{ fill: #171b24; }}
.frame {{ fill: none; stroke: #39414f; }}
.title {{ fill: #8b96a8; font-size: 13px; text-anchor: middle; }}
.prompt {{ fill: #7ee0a3; font-weight: bold; }}
.typed {{ fill: #ffffff; }}
.output {{ fill: #ffd58a; }}
.heading {{ fill: #7fb4ff; }}
.step {{ fill: #98a3b5; }}
.summary {{ fill: #e8ecf3; }}
.cursor {{ fill: #d5dbe5; }}
.shown {{ animation: show 0.01s both; }}
.blink {{ animation: blink 1.2s steps(1) infinite; }}
.keys {{ opacity: 0; }}
@keyframes show {{ from {{ opacity: 0; }} to {{ opacity: 1; }} }}
@keyframes blink {{ 50% {{ opacity: 0; }} }}
@keyframes type {{ from {{ opacity: 1; transform: none; }} \
to {{ opacity: 1; transform: translateX(var(--by)); }} }}
@media (prefers-reduced-motion: reduce) {{ * {{ animation: none !important; }} }}
</style>
<clipPath id="inside"><rect width="{width}" height="{height}" rx="10"/></clipPath>
<g clip-path="url(#inside)">
<rect class="window" width="{width}" height="{height}"/>
<circle cx="24" cy="20" r="6" fill="#ff5f57"/>
<circle cx="44" cy="20" r="6" fill="#febc2e"/>
<circle cx="64" cy="20" r="6" fill="#28c840"/>
<text class="title" x="{middle:.0f}" y="25">{title}</text>
{body}
</g>
<rect class="frame" x="0.5" y="0.5" width="{inner_width}" height="{inner_height}" rx="9.5"/>
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(draw(record(COMMANDS)), encoding="utf-8")
