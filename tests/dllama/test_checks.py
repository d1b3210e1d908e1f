"""Checks of values from outside."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from dllama import checks
from dllama.errors import ConfigError

ROOT = Path(__file__).parents[2]
PACKAGES = ("dllama", "converter", "transports")


@pytest.mark.parametrize("value", [0, 1, -5, 10**400, np.int32(3), np.uint64(1 << 63)])
def test_an_integer(value):
    assert checks.is_integer(value)


@pytest.mark.parametrize("value", [True, False, np.True_, 1.0, "1", None, [1], math.nan])
def test_no_integer(value):
    assert not checks.is_integer(value)


@pytest.mark.parametrize("value", [0, 1.5, -1e300, np.float32(0.5), np.int8(1)])
def test_a_number(value):
    assert checks.is_number(value)


@pytest.mark.parametrize("value", [True, math.nan, math.inf, -math.inf, 10**400, "1", None, [], 1j])
def test_no_number(value):
    assert not checks.is_number(value)


def test_bounds():
    assert checks.is_integer(8, 1, 8)
    assert not checks.is_integer(9, 1, 8)
    assert checks.is_number(0, 0, 1)
    assert not checks.is_number(0, 0, 1, above=True)
    assert not checks.is_number(1.1, 0, 1)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((-math.inf, math.inf), "a number"),
        ((0, math.inf), "a number of at least 0"),
        ((-math.inf, 1.5), "a number of at most 1.5"),
        ((1, 8), "a number from 1 to 8"),
        ((0, 1, True), "a number of more than 0 and at most 1"),
        ((0, math.inf, True), "a number of more than 0"),
    ],
)
def test_bounds_in_words(bounds, expected):
    assert checks.expected_text("a number", *bounds) == expected


def test_an_integer_by_name():
    value = checks.integer("x", np.int64(3), 1)
    assert (value, type(value)) == (3, int)
    with pytest.raises(ConfigError, match=r"^x is 0, expected an integer of at least 1$"):
        checks.integer("x", 0, 1)


def test_long_values_are_cut():
    assert checks.shown("x" * 1000) == "'" + "x" * 96 + "..."
    assert checks.shown([1, 2]) == "[1, 2]"


def test_values_are_shown_as_python_does():
    values = [(), (1,), (1, "a"), [], [None], {}, {"a": [b"b", {}]}, 1.5, True, "it's"]
    for value in [*values, values, *([[]] * n for n in range(30)), list(range(40))]:
        text = repr(value)
        assert checks.shown(value) == (text if len(text) <= 100 else text[:97] + "...")


def test_huge_values_are_shown_at_once():
    nested, endless = list[object](), list[object]()
    for _ in range(100):
        nested = [nested, nested]
    endless.append(endless)
    for value in (nested, endless, [0] * 10**7, {n: n for n in range(10**5)}):
        assert len(checks.shown(value)) == 100
    assert checks.shown([10**5000]) == "[an integer of 16610 bits]"


def test_no_other_file_asks_whether_a_value_is_a_bool():
    """Which is how an integer is told from a flag, and easily forgotten."""
    asks = re.compile(r"isinstance\([^()]*,\s*\(?[^()]*\bbool\b")
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    found = [path.name for path in files if asks.search(path.read_text(encoding="utf-8"))]
    assert found == ["checks.py"]
