"""Messages of errors."""

from __future__ import annotations

import pytest

from dllama.errors import MOST, FormatError, InputError, ModelError


@pytest.mark.parametrize(
    "error",
    [FormatError("a", "b", "c" * 9999, "end"), InputError("a" * 9999), ModelError("a" * 9999)],
)
def test_long_values_are_cut_out(error):
    assert len(str(error)) == MOST
    assert str(error)[0] == "a"
    assert " ... " in str(error)


def test_the_end_of_a_long_message_is_kept():
    assert str(FormatError("a", "b", "c" * 9999, "end")).endswith("c, expected end")
    assert str(ModelError("a" * MOST)) == "a" * MOST
