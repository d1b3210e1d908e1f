"""The time of a pass: what it is made of, and that it changes as it should."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from small_spec import SPEC

from dllama.model.weight_types import WeightType
from dllama.planning.timing import LinkSpeed, pass_time
from dllama.planning.work import Shape, split_work, touched
from dllama.run_config import RunConfig
from dllama.runtime.node import graph_of


@dataclass(frozen=True)
class Kernel:
    bandwidth: float = 1e10
    compute: float = 1e11


@dataclass(frozen=True)
class Speed:
    stage: float = 1e-6
    message: float = 0.0
    kernels: dict = field(default_factory=lambda: {WeightType.Q40: Kernel()})


LINK = LinkSpeed(125e6, 1e-4)
TOKEN = Shape(1, 64)


def time(nodes=2, speeds=None, link=LINK, shape=TOKEN, **options):
    config = RunConfig.of(SPEC, nodes, **options)
    graphs = [graph_of(SPEC, config, rank) for rank in range(nodes)]
    return pass_time(graphs, config, speeds or [Speed()] * nodes, [link] * nodes, shape)


def test_bytes_and_products_of_one_node_are_those_of_all_matrices():
    graph = graph_of(SPEC, RunConfig.of(SPEC, 1), 0)
    (work,) = split_work(graph, Shape(1, 64), WeightType.F16)
    nbytes = sum(one.weight_type.nbytes(one.rows * one.cols) for one in graph.matrices)
    assert sum(work.reads.values()) == nbytes
    # Keys and values of 64 positions in two layers of two heads.
    assert work.cache_bytes == 2 * 64 * 2 * (16 + 16) * 2
    assert work.attended == 2 * 64 * 4 * (16 + 16)


@pytest.mark.parametrize(
    ("shape", "window", "seen", "cached"),
    [
        (Shape(1, 10), 0, 10, 10),
        (Shape(4, 4), 0, 1 + 2 + 3 + 4, 4),
        (Shape(4, 10), 0, 7 + 8 + 9 + 10, 10),
        (Shape(4, 10), 8, 7 + 8 + 8 + 8, 10),
        (Shape(4, 100), 8, 32, 11),
        (Shape(6, 10, texts=2), 0, 2 * (8 + 9 + 10), 20),
    ],
)
def test_positions_that_are_seen(shape, window, seen, cached):
    assert (shape.seen(window), shape.cached(window)) == (seen, cached)


def test_experts_that_are_touched():
    assert touched(8, 2, 1) == pytest.approx(2)
    assert 2 < touched(8, 2, 2) < 4
    assert touched(8, 8, 3) == 8


def test_parts_add_up_and_the_largest_is_what_bounds():
    found = time()
    seconds = found.seconds
    assert seconds.total == pytest.approx(seconds.inference + seconds.transfer)
    assert seconds.latency == pytest.approx((1 + 2 * 2 + 2) * LINK.latency)
    assert seconds.bound == "latency"
    assert time(link=LinkSpeed(1e4, 1e-9)).seconds.bound == "rate"
    slow = {WeightType.Q40: Kernel(bandwidth=1e5)}
    assert time(speeds=[Speed(kernels=slow)] * 2).seconds.bound == "memory"
    slow = {WeightType.Q40: Kernel(compute=1e5)}
    assert time(speeds=[Speed(kernels=slow)] * 2).seconds.bound == "compute"


def test_one_node_waits_for_no_link():
    seconds = time(1).seconds
    assert (seconds.rate, seconds.latency) == (0, 0)


@pytest.mark.parametrize("shape", [Shape(1, 64), Shape(64, 64)])
@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_what_is_faster_never_takes_longer(shape, nodes):
    base = time(nodes, shape=shape).seconds.total
    fast = Speed(kernels={WeightType.Q40: Kernel(2e10, 2e11)})
    assert time(nodes, shape=shape, speeds=[fast] * nodes).seconds.total < base
    assert time(nodes, shape=shape, link=LinkSpeed(250e6, 1e-4)).seconds.total < base
    assert time(nodes, shape=shape, link=LinkSpeed(125e6, 5e-5)).seconds.total < base
    assert time(nodes, shape=Shape(shape.rows, 100)).seconds.total > base


def test_messages_take_time_of_processors():
    busy = Speed(message=1e-5)
    told, layers, answered = 1, 1 + 2 * 2, 1
    for nodes in (2, 4):  # the root exchanges as many messages in a round as there are workers
        found = time(nodes, speeds=[busy] * nodes, all_reduce="exchange")
        rounds = told + layers + answered + (nodes > 2)  # workers pass on pieces of the embedding
        peers = nodes - 1
        assert found.seconds.messages <= rounds * peers * busy.message
        assert found.seconds.messages >= 2 * 2 * peers * busy.message
        assert time(nodes, all_reduce="exchange").seconds.messages == 0
    one_busy = time(2, speeds=[busy, Speed()])
    assert one_busy.seconds.total == pytest.approx(time(2, speeds=[busy] * 2).seconds.total)
    assert time(1, speeds=[busy]).seconds.messages == 0


def test_a_slow_node_delays_all():
    slow = Speed(kernels={WeightType.Q40: Kernel(1e9, 1e10)})
    even = time(2, speeds=[Speed(), slow])
    fewer = time(2, speeds=[Speed(), slow], shares=[3, 1])
    assert even.nodes[1] > even.nodes[0]
    assert fewer.seconds.total < even.seconds.total


def test_work_hides_all_reduces_of_long_passes():
    """Nothing of the last one's second half is hidden, and nothing where a pass is short."""
    shape = Shape(128, 128)
    for rate in (1e12, 125e6, 1e6):
        link = LinkSpeed(rate, 1e-6)
        apart, taken = (time(4, link=link, shape=shape, halves=halves) for halves in (False, True))
        longer = max(apart.seconds.inference, apart.seconds.transfer)
        assert longer < taken.seconds.total < apart.seconds.total
        assert taken.seconds.inference == pytest.approx(apart.seconds.inference)
    short = Shape(63, 63)
    assert time(4, shape=short) == time(4, shape=short, halves=False)
