"""What is added to the logits of single tokens."""

from __future__ import annotations

from collections.abc import Mapping

from dllama.checks import is_integer, is_number, shown
from dllama.errors import ConfigError

MOST_BIAS = 100.0
EXPECTED = f"a number from {-MOST_BIAS:g} to {MOST_BIAS:g} for each token id"


def parse_bias(text: str) -> tuple[int, float]:
    """Return the id and the bias of a text such as "15=-2.5"; ValueError if it is none."""
    token, _, bias = text.partition("=")
    try:
        found = int(token), float(bias)
    except ValueError:
        found = -1, 0.0
    if not is_bias(*found):
        raise ValueError(
            f"found {shown(text)}, expected ID=B with B from {-MOST_BIAS:g} to {MOST_BIAS:g}"
        )
    return found


def is_bias(token: object, bias: object) -> bool:
    """Whether these are a token id and what may be added to its logit."""
    return is_integer(token, 0) and is_number(bias, -MOST_BIAS, MOST_BIAS)


def checked_biases(biases: Mapping[int, float] | None) -> dict[int, float]:
    """Return the biases by token id, ascending; ConfigError if there is a wrong one."""
    given = {} if biases is None else biases
    if not isinstance(given, Mapping):
        raise ConfigError(f"logit_bias is {shown(given)}, expected {EXPECTED}")
    for token, bias in given.items():
        if not is_bias(token, bias):
            raise ConfigError(f"logit_bias of {shown(token)} is {shown(bias)}, expected {EXPECTED}")
    return {int(token): float(given[token]) for token in sorted(given)}
