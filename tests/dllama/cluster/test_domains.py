"""NUMA domains are read from a folder of files like Linux's, and nodes keep to one each."""

from __future__ import annotations

import pytest

from dllama.cluster import domains as module
from dllama.cluster.domains import divide_cores, domain_cores, domains


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Pretends a machine: the CPUs of each domain, as Linux lists them, and those allowed."""

    def pretend(lists, cpus):
        for number, text in enumerate(lists):
            folder = tmp_path / f"node{number}"
            folder.mkdir()
            (folder / "cpulist").write_text(text + "\n")
        monkeypatch.setattr(module.cpu, "allowed", lambda: list(cpus))
        monkeypatch.setattr(module.cpu, "cores", lambda: [[one] for one in cpus])
        return tmp_path

    return pretend


def test_domains_have_the_cpus_that_may_be_used(machine):
    folder = machine(["0-2,8", "3-5,9-10", ""], [1, 2, 4, 8, 10])  # the last has memory alone
    assert domains(folder) == [[1, 2, 8], [4, 10]]
    assert domain_cores(folder) == [[[1], [2], [8]], [[4], [10]]]


def test_domains_are_in_the_order_of_their_numbers(machine):
    folder = machine([str(number) for number in range(11)], range(11))
    assert domains(folder) == [[number] for number in range(11)]


def test_a_domain_without_allowed_cpus_is_none(machine):
    assert domains(machine(["0-1", "2-3"], [2, 3])) == [[2, 3]]


@pytest.mark.parametrize("lists", [[], ["0"], ["0-x", "1"]])
def test_one_domain_where_the_system_does_not_tell(machine, lists):
    assert domains(machine(lists, [0, 1])) == [[0, 1]]


@pytest.mark.parametrize(
    ("threads", "expected"),
    [
        ([2, 2], [[0, 2], [1, 3]]),
        ([1, 1], [[0], [1]]),
        ([1, 1, 1, 1], [[0], [1], [2], [3]]),
        ([1, 2, 2], [[4], [0, 2], [1, 3]]),
        ([3, 3], [[0, 2, 4], [1, 3, 5]]),
        ([2, 2, 2], [[0, 2], [4, 1], [3, 5]]),  # three do not fit into two domains
        ([4, 1], [[0, 2, 4, 1], [3]]),
        ([4, 3], None),
    ],
)
def test_nodes_keep_to_a_domain_each_where_they_fit(machine, threads, expected):
    assert divide_cores(threads, machine(["0,2,4", "1,3,5"], range(6))) == expected


def test_all_hyper_threads_of_a_core_go_to_its_node(machine, monkeypatch):
    folder = machine(["0-1,4-5", "2-3,6-7"], range(8))
    monkeypatch.setattr(module.cpu, "cores", lambda: [[0, 4], [1, 5], [2, 6], [3, 7]])
    assert divide_cores([2, 2], folder) == [[0, 4, 1, 5], [2, 6, 3, 7]]
