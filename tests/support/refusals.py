"""Requests that the server refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dllama.server.problems import ApiError


@contextmanager
def refused(param: str, message: str) -> Iterator[pytest.ExceptionInfo[ApiError]]:
    """Check that a `with` block raises an ApiError 400 that blames a field and says something."""
    with pytest.raises(ApiError) as found:
        yield found
    assert message in str(found.value)
    assert (found.value.status, found.value.param) == (400, param)
