"""A Jinja environment for templates of strangers: no way to Python, and an end to every loop.

Jinja's sandbox keeps a template from what is not data, and ImmutableSandboxedEnvironment from
changing that. What it does not bound is work: here every iteration, every call of a macro and every
item of a range is a step, of which a rendering has MAX_STEPS, and what one operation makes of
numbers and texts has a bound. What pads texts to any width is left out: no chat template needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateRuntimeError, nodes, pass_eval_context
from jinja2.filters import do_indent, sync_do_join
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 100_000
MAX_LENGTH = 1 << 24  # characters or items that an operation may make
MAX_INDENT = 64
MAX_NUMBER = 1 << 64

# These make much of nothing, from a number or a format.
PADDING_FILTERS = ("batch", "center", "format", "slice", "urlize", "wordwrap")
PADDING_METHODS = ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill")

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

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals["range"] = _range
        del self.globals["lipsum"]
        for name in PADDING_FILTERS:
            del self.filters[name]
        self.filters |= {"indent": _indent, "join": _join, "replace": _replace}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As in the sandbox, but for what pads."""
        padding = isinstance(obj, str) and attr in PADDING_METHODS
        return not padding and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """str.format is an attribute like others."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call, where not that of a method of a text that makes much of little."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name in ("join", "replace"):
            guarded = _join_with if name == "join" else _replace
            return guarded(owner, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def spend_one(self) -> str:
        """What every iteration and every macro begins with."""
        spend(1)
        return ""

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic with bounds."""
        if operator == "%" and isinstance(left, str):
            raise TemplateRuntimeError("formats a text with %")
        if operator == "**" and not _is_small_power(left, right):
            raise TemplateRuntimeError("makes a power that is too large")
        if operator == "*":
            _check_length(max(_product(left, right), _product(right, left)))
        if operator == "+":
            _check_length(_length(left) + _length(right))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) > MAX_NUMBER:
            raise TemplateRuntimeError("makes a number that is too large")
        return result

    def joined(self, *values: object) -> str:
        """What ~ makes."""
        texts = [str(value) for value in values]
        _check_length(sum(map(len, texts)))
        return "".join(texts)

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


def _check_length(length: int) -> None:
    """TemplateRuntimeError for what is too long to be made."""
    if length > MAX_LENGTH:
        raise TemplateRuntimeError(f"makes a text of more than {MAX_LENGTH} characters")


@pass_eval_context
def _join(
    context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    """The filter join."""
    items = list(value)
    _check_length(len(items) * len(str(d)) + sum(map(_length, items)))
    return sync_do_join(context, items, d, attribute)


def _join_with(separator: str, items: Iterable[str]) -> str:
    """str.join."""
    texts = list(items)
    _check_length(len(texts) * len(separator) + sum(map(len, texts)))
    return separator.join(texts)


def _replace(text: object, old: str, new: str, count: int | None = None) -> str:
    """The filter replace, and str.replace."""
    text, most = str(text), -1 if count is None else count
    found = text.count(old) if most < 0 else min(most, text.count(old))
    _check_length(len(text) + found * len(new))
    return text.replace(old, new, most)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """The filter indent."""
    if _length(width) > MAX_INDENT or (isinstance(width, int) and width > MAX_INDENT):
        raise TemplateRuntimeError(f"indents by more than {MAX_INDENT}")
    return do_indent(text, width, first, blank)


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
