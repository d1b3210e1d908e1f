"""A Jinja environment for untrusted templates: no access to Python, and bounded work.

Jinja's ImmutableSandboxedEnvironment keeps a template from reaching anything but its data, and
from changing that. It does not bound the work. Here every iteration, macro call and item of a
range is a step, and one rendering may take MAX_STEPS. The size of a number or text that a single
operation makes is bounded too, and so are the widths of formats. Filters and methods that only pad
text are removed: no chat template needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateRuntimeError, nodes, pass_eval_context
from jinja2.filters import do_indent, sync_do_join
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from dllama.text.template_format import BoundedFormatter, percent

MAX_STEPS = 100_000
MAX_LENGTH = 1 << 24  # characters or items that one operation may produce
MAX_INDENT = 64
MAX_NUMBER = 1 << 64

# These can make a huge text from a number or a format.
PADDING_FILTERS = ("batch", "center", "slice", "urlize", "wordwrap")
PADDING_METHODS = ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill")

_left: ContextVar[int] = ContextVar("steps left of the rendering")


@contextmanager
def limited_steps() -> Iterator[None]:
    """Allow MAX_STEPS for everything that is rendered inside."""
    before = _left.set(MAX_STEPS)
    try:
        yield
    finally:
        _left.reset(before)


def spend(steps: int) -> None:
    """Take steps from the budget; raise TemplateRuntimeError when it is used up."""
    left = _left.get() - steps
    _left.set(left)
    if left < 0:
        raise TemplateRuntimeError(f"takes more than {MAX_STEPS} steps")


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Renders templates inside limited_steps()."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals["range"] = _range
        del self.globals["lipsum"]
        for name in PADDING_FILTERS:
            del self.filters[name]
        self.filters |= {"format": _format, "indent": _indent, "join": _join, "replace": _replace}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow what the sandbox allows, except methods that pad text."""
        padding = isinstance(obj, str) and attr in PADDING_METHODS
        return not padding and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return a bounded version of str.format or str.format_map; None for anything else."""
        text, name = getattr(value, "__self__", None), getattr(value, "__name__", "")
        if not isinstance(text, str) or name not in ("format", "format_map"):
            return None
        formatter = BoundedFormatter(self, _grown)

        def with_arguments(*args: Any, **kwargs: Any) -> str:
            return formatter.vformat(text, args, kwargs)

        def with_mapping(mapping: Mapping[str, Any]) -> str:
            return formatter.vformat(text, (), mapping)

        return with_mapping if name == "format_map" else with_arguments

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function; str.join and str.replace get bounded versions."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name in ("join", "replace"):
            guarded = _join_with if name == "join" else _replace
            return guarded(owner, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def spend_one(self) -> str:
        """Count one step. Every iteration and every macro begins with this."""
        spend(1)
        return ""

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute with bounds on the size of the result."""
        if operator == "%" and isinstance(left, str):
            return percent(left, right, _grown)
        if operator == "**" and not _is_small_power(left, right):
            raise TemplateRuntimeError("computes a power that is too large")
        if operator == "*":
            _check_length(max(_product(left, right), _product(right, left)))
        if operator == "+":
            _check_length(_length(left) + _length(right))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) > MAX_NUMBER:
            raise TemplateRuntimeError("computes a number that is too large")
        return result

    def joined(self, *values: object) -> str:
        """Join the operands of `~`."""
        texts = [str(value) for value in values]
        _check_length(sum(map(len, texts)))
        return "".join(texts)

    def counted(self, source: str, name: str) -> nodes.Template:
        """Parse a template and add the calls that count steps; may raise TemplateSyntaxError."""
        tree = _Counting().visit(self._parse(source, name, name))
        assert isinstance(tree, nodes.Template)
        tree.set_environment(self)
        return tree


class _Counting(NodeTransformer):
    """Adds calls of the environment wherever a template does work."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        super().generic_visit(node, *args, **kwargs)
        if isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock)):
            step = _call("spend_one", [], node.lineno)
            node.body.insert(0, nodes.Output([step], lineno=node.lineno))
        if isinstance(node, nodes.Concat):
            return _call("joined", node.nodes, node.lineno)
        return node


def _call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    """Build a call of a method of the environment, which no name in a template can shadow."""
    function = nodes.EnvironmentAttribute(method, lineno=line)
    return nodes.Call(function, arguments, [], None, None, lineno=line)


def _range(*bounds: int) -> range:
    """Return a range, each item of which costs a step."""
    numbers = range(*bounds)
    spend(len(numbers))
    return numbers


def _check_length(length: int) -> None:
    """Raise TemplateRuntimeError if a text or list would be too long."""
    if length > MAX_LENGTH:
        raise TemplateRuntimeError(f"produces more than {MAX_LENGTH} characters or items")


def _grown(length: int) -> None:
    """Count a step of formatting, which made a text so long."""
    spend(1)
    _check_length(length)


def _format(text: object, *args: Any, **kwargs: Any) -> str:
    """Bounded version of the filter `format`."""
    if args and kwargs:
        raise TemplateRuntimeError("formats with positional and named values at once")
    return percent(str(text), kwargs or args, _grown)


@pass_eval_context
def _join(
    context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    """Bounded version of the filter `join`."""
    items = list(value)
    _check_length(len(items) * len(str(d)) + sum(map(_length, items)))
    return sync_do_join(context, items, d, attribute)


def _join_with(separator: str, items: Iterable[str]) -> str:
    """Bounded version of str.join."""
    texts = list(items)
    _check_length(len(texts) * len(separator) + sum(map(len, texts)))
    return separator.join(texts)


def _replace(text: object, old: str, new: str, count: int | None = None) -> str:
    """Bounded version of the filter `replace` and of str.replace."""
    text, most = str(text), -1 if count is None else count
    found = text.count(old) if most < 0 else min(most, text.count(old))
    _check_length(len(text) + found * len(new))
    return text.replace(old, new, most)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Bounded version of the filter `indent`."""
    if _length(width) > MAX_INDENT or (isinstance(width, int) and width > MAX_INDENT):
        raise TemplateRuntimeError(f"indents by more than {MAX_INDENT}")
    return do_indent(text, width, first, blank)


def _length(value: object) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _product(times: object, value: object) -> int:
    """Return the length of a repeated text or list."""
    return max(times, 0) * _length(value) if isinstance(times, int) else 0


def _is_small_power(base: object, exponent: object) -> bool:
    """Whether a power is a float or a short integer."""
    if not isinstance(base, int) or not isinstance(exponent, int):
        return True
    return abs(base).bit_length() * abs(exponent) <= 64
