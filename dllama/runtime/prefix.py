"""What two texts have in common."""

from __future__ import annotations


def common_prefix(a: list[int], b: list[int]) -> int:
    """Return the length of the longest common prefix."""
    if a[:1] != b[:1]:
        return 0
    low, high = 0, min(len(a), len(b))
    while low < high:  # a[:low] == b[:low], and the prefix is not longer than high
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
