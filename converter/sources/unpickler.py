"""Reads pickled tensors without running any code of the pickle.

A pickle is a program for a stack machine (https://peps.python.org/pep-0307 and Python's
pickletools). This machine knows the instructions that PyTorch's checkpoints use. It never imports
anything. A pickle may call only the functions that RULES replaces; they return plain values that
are defined here.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Element types by the names of torch's storage classes.
STORAGES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}


@dataclass(frozen=True)
class Storage:
    """`count` numbers of type `dtype`, in the file `key` of the archive."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Name:
    """A qualified name, which is never looked up."""

    text: str


def load(data: bytes) -> Any:
    """Return the value of a pickle: dicts, lists, tuples, strings, numbers and Tensors.

    Raises:
        ValueError: the pickle is broken or contains anything else.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in ACTIONS:
            raise ValueError(f"instruction {opcode.name} is not allowed")
        try:
            ACTIONS[opcode.name](machine, argument)
        except (IndexError, KeyError):
            raise ValueError(f"instruction {opcode.name} has too few operands") from None
    return machine.top(object)


class _Machine:
    """The stack and the memo of a pickle, and what instructions do to them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def top(self, kind: type) -> Any:
        """Return the top of the stack, which must have this type."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"expected a {kind.__name__} on the stack")
        return self.stack[-1]

    def pop(self, count: int) -> tuple[Any, ...]:
        """Remove and return the last values."""
        if count > len(self.stack):
            raise IndexError
        values = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return values

    def mark(self, _: Any = None) -> None:
        """Begin a new list of values."""
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Remove and return the values since the last mark."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def set_items(self, items: list[Any] | tuple[Any, ...]) -> None:
        """Store keys and values in the dict on top."""
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):  # a hash of nested tuples may take forever
                raise ValueError("a key is neither a string nor a number")
            target[key] = value

    def reduce(self, _: Any) -> None:
        """Call a function of RULES."""
        function, arguments = self.pop(2)
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is not a function")
        if function.text not in RULES:
            raise ValueError(f"calls {function.text}")
        self.stack.append(RULES[function.text](*_few(arguments)))

    def build(self, _: Any) -> None:
        """Ignore the attributes of a dict."""
        self.pop(1)
        self.top(dict)

    def persistent(self, _: Any) -> None:
        """Replace a persistent id by its storage."""
        (value,) = self.pop(1)
        self.stack.append(_storage(value))

    def stack_global(self, _: Any) -> None:
        """Join module and name."""
        module, name = self.pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name is not a string")
        self.stack.append(Name(f"{module}.{name}"))


def _few(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) > 8:
        raise ValueError(f"a call with {len(arguments)} arguments")
    return arguments


def _storage(value: Any) -> Storage:
    """Return what the persistent id ("storage", type, key, device, count) stands for."""
    if not isinstance(value, tuple) or len(value) != 5 or value[0] != "storage":
        raise ValueError("a persistent id is not of a storage")
    _, kind, key, _, count = value
    name = kind.text.removeprefix("torch.") if isinstance(kind, Name) else ""
    if name not in STORAGES:
        raise ValueError(f"storage of type {name or 'unknown'}")
    if not isinstance(key, str) or not _sizes((count,)):
        raise ValueError("a storage without key or count")
    return Storage(STORAGES[name], key, count)


def _sizes(values: Any) -> bool:
    """Whether this is a tuple of sizes."""
    return isinstance(values, tuple) and all(type(v) is int and 0 <= v < 1 << 62 for v in values)


def _rebuild_tensor(
    storage: Any = None, offset: Any = None, shape: Any = None, strides: Any = None, *_: Any
) -> Tensor:
    """Replaces torch._utils._rebuild_tensor_v2."""
    if not isinstance(storage, Storage) or not _sizes((offset,)):
        raise ValueError("a tensor without storage or offset")
    if not _sizes(shape) or not _sizes(strides) or not len(shape) == len(strides) <= 8:
        raise ValueError("a tensor without shape or strides")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any = None, *_: Any) -> Tensor:
    """Replaces torch._utils._rebuild_parameter."""
    if not isinstance(data, Tensor):
        raise ValueError("a parameter without a tensor")
    return data


def _ordered_dict(*items: Any) -> dict[Any, Any]:
    """Replaces collections.OrderedDict(); items are set later."""
    if items:
        raise ValueError("an OrderedDict with arguments")
    return {}


RULES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}

Action = Callable[[_Machine, Any], Any]


def _nothing(machine: _Machine, argument: Any) -> None:
    """Ignore instructions about the pickle itself."""


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _constant(value: Any) -> Action:
    return lambda machine, _: machine.stack.append(value)


def _tuple(count: int) -> Action:
    return lambda machine, _: machine.stack.append(machine.pop(count))


def _tuple_of_mark(machine: _Machine, _: Any) -> None:
    values = tuple(machine.pop_mark())
    machine.stack.append(values)


def _remember(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo) if argument is None else argument] = machine.top(object)


def _append(machine: _Machine, _: Any) -> None:
    (value,) = machine.pop(1)
    machine.top(list).append(value)


def _appends(machine: _Machine, _: Any) -> None:
    values = machine.pop_mark()
    machine.top(list).extend(values)


ACTIONS: dict[str, Action] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _nothing),
    **dict.fromkeys(
        ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2"), _push
    ),
    **dict.fromkeys(("LONG1", "BINFLOAT"), _push),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, key: m.stack.append(m.memo[key])),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": _constant(()),
    "MARK": _Machine.mark,
    "TUPLE": _tuple_of_mark,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "GLOBAL": lambda machine, text: machine.stack.append(Name(text.replace(" ", "."))),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
