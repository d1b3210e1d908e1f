"""Names of nodes, which come from other machines."""

from __future__ import annotations

import pytest

from dllama.cluster import names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("pi-2", "pi-2"),
        ("Küche 1", "Küche 1"),
        ("a, 10.0.0.9:1) has gone", "a 100091 has gone"),
        ("\x1b[31mred\nline\u202e", "31mredline"),
        ("x" * 200, "x" * 63),
        ("ü" * 60, "ü" * 31),
        ("\ud800", ""),
        (None, ""),
        (7, ""),
        (["a"], ""),
    ],
)
def test_nothing_in_a_name_passes_for_a_part_of_a_message(given, expected):
    assert names.clean(given) == expected


def test_a_worker_is_called_by_rank_name_and_address():
    assert names.worker(2, "pi-2", "10.0.0.3:9999") == "worker 2 (pi-2, 10.0.0.3:9999)"
    assert names.worker(2, "", "10.0.0.3:9999") == "worker 2 (10.0.0.3:9999)"


def test_this_machine_has_a_name():
    assert names.clean(names.host_name()) == names.host_name() != ""
