"""A Jinja environment for templates of strangers: no way to Python, and an end to every loop.

Jinja's sandbox keeps a template from what is not data, and ImmutableSandboxedEnvironment from
changing that. What it does not bound is work: here every iteration, every call of a macro and every
item of a range is a step, of which a rendering has MAX_STEPS, and numbers and texts
that arithmetic makes have bounds. Filters may still make large texts of large texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateRuntimeError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 100_000
MAX_LENGTH = 1 << 24  # characters or items that arithmetic may make
MAX_NUMBER = 1 << 64
TOO_LONG = f"makes a text of more than {MAX_LENGTH} characters"

_left: ContextVar[int] = ContextVar("steps left of the rendering")


@contextmanager
def limited_steps() -> Iterator[None]:
    """What is rendered inside has MAX_STEPS together."""
    before = _left.set(MAX_STEPS)
    try:
        yield
    finally:
        _left.reset(before)


def spend(steps: int) -> None:
    """Take steps from those left; TemplateRuntimeError where there are none."""
    left = _left.get() - steps
    _left.set(left)
    if left < 0:
        raise TemplateRuntimeError(f"takes more than {MAX_STEPS} steps")


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Renders within limited_steps()."""

    intercepted_binops = frozenset(("+", "*", "**"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals["range"] = _range
        del self.globals["lipsum"]

    def spend_one(self) -> str:
        """What every iteration and every macro begins with."""
        spend(1)
        return ""

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic with bounds."""
        if operator == "**" and not _is_small_power(left, right):
            raise TemplateRuntimeError("makes a power that is too large")
        if operator == "*" and max(_product(left, right), _product(right, left)) > MAX_LENGTH:
            raise TemplateRuntimeError(TOO_LONG)
        if operator == "+" and _length(left) + _length(right) > MAX_LENGTH:
            raise TemplateRuntimeError(TOO_LONG)
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) > MAX_NUMBER:
            raise TemplateRuntimeError("makes a number that is too large")
        return result

    def joined(self, *values: object) -> str:
        """What ~ makes."""
        text = "".join(map(str, values))
        if len(text) > MAX_LENGTH:
            raise TemplateRuntimeError(TOO_LONG)
        return text

    def counted(self, source: str, name: str) -> nodes.Template:
        """The syntax tree of a template, with steps that count; TemplateSyntaxError."""
        tree = _Counting().visit(self._parse(source, name, name))
        assert isinstance(tree, nodes.Template)
        tree.set_environment(self)
        return tree


class _Counting(NodeTransformer):
    """Puts calls of the environment where a template does work."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        super().generic_visit(node, *args, **kwargs)
        if isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock)):
            step = _call("spend_one", [], node.lineno)
            node.body.insert(0, nodes.Output([step], lineno=node.lineno))
        if isinstance(node, nodes.Concat):
            return _call("joined", node.nodes, node.lineno)
        return node


def _call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    """A call of the environment's method, which no name of a template can stand before."""
    function = nodes.EnvironmentAttribute(method, lineno=line)
    return nodes.Call(function, arguments, [], None, None, lineno=line)


def _range(*bounds: int) -> range:
    """range, whose items are steps."""
    numbers = range(*bounds)
    spend(len(numbers))
    return numbers


def _length(value: object) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _product(times: object, value: object) -> int:
    """Length of a repeated text or list."""
    return max(times, 0) * _length(value) if isinstance(times, int) else 0


def _is_small_power(base: object, exponent: object) -> bool:
    """Whether a power is a float, or an integer of bounded length."""
    if not isinstance(base, int) or not isinstance(exponent, int):
        return True
    return abs(base).bit_length() * abs(exponent) <= 64
