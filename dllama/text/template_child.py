"""The process in which chat templates run: Jinja's sandbox, and limits that the system keeps.

A template may come from an untrusted source. The sandbox keeps it from reaching anything but its
data and from changing that, but it does not bound what a template computes. So the template runs in
a process of its own: the kernel ends it when it has computed for too long, and gives it no more
memory than MAX_MEMORY.

template_process.py starts this file as a script. It imports nothing of dllama, so that it starts
fast and stays small.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2 import TemplateError as JinjaError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MEMORY = 512 << 20  # bytes that templates may take
MAX_TEXT = 1 << 24  # characters that a template may write


def main() -> None:
    """Answer requests on stdin, until it ends. Each is a line of JSON, and so is its answer.

    A request has the source of a template, the values that it finds (None only compiles it), and
    how many seconds it may compute. An answer has the text, or an error.
    """
    _limit_memory()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while line := sys.stdin.buffer.readline():
        try:
            answer = json.dumps(_answer(json.loads(line)))
        except MemoryError:
            answer = json.dumps({"error": f"takes more than {MAX_MEMORY >> 20} MB of memory"})
        except RecursionError:
            answer = json.dumps({"error": "the messages are nested too deeply"})
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(f"{answer}\n".encode("ascii"))
        sys.stdout.buffer.flush()


def _limit_memory() -> None:
    """Let the address space grow by MAX_MEMORY, unless there is a lower limit already."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MAX_MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _answer(request: dict[str, Any]) -> dict[str, str]:
    """Do what a request asks for, before the signal comes that ends this process."""
    signal.setitimer(signal.ITIMER_PROF, request["seconds"])
    try:
        template = _compiled(request["source"])
        text = "" if request["values"] is None else template.render(request["values"])
    except MemoryError:
        raise
    except TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}
    except Exception as error:  # filters and methods may raise anything
        return {"error": str(error) or type(error).__name__}
    return {"text": text} if len(text) <= MAX_TEXT else {"error": "writes too long a text"}


@lru_cache(maxsize=4)
def _compiled(source: str) -> Template:
    return _environment().from_string(source)


def _environment() -> ImmutableSandboxedEnvironment:
    """Create an environment with everything that transformers offers to templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return plain JSON. Jinja's own filter escapes it for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise JinjaError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


class _Generation(Extension):
    """Ignores {% generation %}, which marks answers for training, and keeps its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


if __name__ == "__main__":
    main()
