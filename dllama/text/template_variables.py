"""Variables that a user gives to a chat template, such as enable_thinking."""

from __future__ import annotations

import json
from typing import Any

# What a rendering itself gives.
RESERVED = ("add_generation_prompt", "messages")


def parse_variables(text: str) -> dict[str, Any]:
    """Return the variables in a text of JSON; ValueError if it is no object of them."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"found broken JSON ({error}), expected an object") from error
    return checked_variables(value)


def checked_variables(value: object) -> dict[str, Any]:
    """Return variables; ValueError if they are no object, or if one has a reserved name."""
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    for name in RESERVED:
        if name in value:
            raise ValueError(f"must not set {name}")
    return value
