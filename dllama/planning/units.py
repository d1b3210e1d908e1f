"""Quantities with units, such as 9 GB/s, 80 us or 1 Gbit/s."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from dllama.checks import shown

PATTERN = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ/]+)\s*")
DECIMAL = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


@dataclass(frozen=True)
class Quantity:
    """What is measured in some units.

    Args:
        example: for messages.
        units: how many basic units (bytes, seconds, multiply-adds) each is.
    """

    example: str
    units: dict[str, float]

    def parse(self, text: object) -> float:
        """A quantity in basic units; ValueError says what was expected."""
        found = PATTERN.fullmatch(text) if isinstance(text, str) else None
        try:
            value = float(found[1]) * self.units[found[2]] if found else 0.0
        except (ValueError, KeyError):
            value = 0.0
        if not 0.0 < value < math.inf:
            names = ", ".join(self.units)
            raise ValueError(f"found {shown(text)}, expected e.g. {self.example} (units: {names})")
        return value


def _with(unit: str, prefixes: dict[str, float], factor: float = 1.0) -> dict[str, float]:
    return {prefix + unit: factor * times for prefix, times in prefixes.items()}


MEMORY = Quantity("8 GB", _with("B", DECIMAL | BINARY))
BANDWIDTH = Quantity("9 GB/s", _with("B/s", DECIMAL))
COMPUTE = Quantity("34 GMAC/s", _with("MAC/s", DECIMAL))
RATE = Quantity("1 Gbit/s", _with("bit/s", DECIMAL, 1 / 8) | _with("B/s", DECIMAL))
TIME = Quantity("80 us", {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0})
