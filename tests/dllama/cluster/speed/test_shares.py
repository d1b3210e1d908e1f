"""Shares by speed, against all splits of small models."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
from small_spec import SPEC

from dllama.cluster.layout import Layout
from dllama.cluster.speed import auto_shares
from dllama.cluster.speed.auto_shares import Chooser, fit
from dllama.cluster.speed.shares import best_shares, differ, shares_of, words
from dllama.cluster.speed.speeds import Measured
from dllama.errors import ConfigError
from dllama.graph.ranges import deal
from dllama.model.weight_types import WeightType
from dllama.model_path import open_model
from dllama.run_config import RunConfig
from dllama.runtime.footprint import footprint
from dllama.runtime.speed import KernelSpeed, NodeSpeed
from dllama.transports import get

LARGE = replace(
    SPEC, dim=1024, hidden_dim=2816, n_layers=2, n_heads=12, n_kv_heads=4, head_dim=64,
    vocab_size=8000,
)  # fmt: skip


def node(gigabytes: float, name: str = "pi", memory: int = 0, message: float = 0.0) -> Measured:
    kernels = {WeightType.Q40: KernelSpeed(gigabytes * 1e9, gigabytes * 4e9)}
    return Measured(name, NodeSpeed(1, 1e-6, message, kernels), memory)


def chooser(spec, speeds) -> Chooser:
    model = SimpleNamespace(spec=spec, path="a model")
    config = RunConfig.of(spec, len(speeds))
    return Chooser(model, config, [1] * len(speeds), [node(one) for one in speeds])


def borders(nodes: int, steps: int):
    """All ways to cut 1 at multiples of 1 / steps."""
    for cuts in itertools.combinations(range(1, steps), nodes - 1):
        yield [cut / steps for cut in cuts]


@cache
def lengths(count, shares, least):
    """How much each node gets; all speeds are tried with the same shares."""
    return [len(one) for one in deal(count, shares, least)]


@pytest.mark.parametrize("heads", [3, 9, 14, 32])
@pytest.mark.parametrize("speeds", [(2, 1, 1), (1, 2, 3), (7, 1, 2), (1, 1, 1), (5, 3, 1.3)])
def test_as_good_as_all_shares(heads, speeds):
    """With heads that are dealt out whole, and two finer things, as in a layer."""

    def cost(shares):
        found = 0.0
        for count, each, least in ((heads, 1.0 / heads, 1), (86, 2.0 / 86, 0), (4000, 3e-4, 1)):
            dealt = lengths(count, shares, least)
            found += max(one * each / speed for one, speed in zip(dealt, speeds, strict=True))
        return found

    shares = best_shares(speeds, heads, cost)
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    best = min(cost(shares_of(one)) for one in borders(3, 120))
    assert cost(shares) <= 1.005 * best


@pytest.mark.parametrize("speeds", [(20, 10, 10), (5, 9, 12)])
def test_as_good_as_all_shares_of_a_model(speeds):
    one = chooser(LARGE, speeds)
    choice = one.choose()
    assert choice.ranks == (0, 1, 2)
    best = min(one.seconds(choice.ranks, shares_of(cuts)) for cuts in borders(3, 24))
    assert choice.seconds <= 1.005 * best


def test_twice_the_speed_gets_twice_the_share():
    choice = chooser(LARGE, (20, 10, 10)).choose()
    assert choice.shares == pytest.approx((0.5, 0.25, 0.25), abs=0.02)


def test_a_node_whose_messages_take_longer_gets_less():
    """Each node works as long as the others: what it spends on messages is taken off its share."""
    model, config = SimpleNamespace(spec=LARGE, path="a model"), RunConfig.of(LARGE, 3)
    nodes = [node(20, message=1e-5), node(10, message=2e-5), node(10, message=2e-5)]
    shares = Chooser(model, config, [1] * 3, nodes).choose().shares
    even = chooser(LARGE, (20, 10, 10)).choose().shares
    assert shares[0] > even[0] + 0.03
    assert shares[1] == pytest.approx(shares[2], abs=0.02)


def test_a_slow_node_is_left_out(caplog):
    choice = chooser(LARGE, (10, 0.3, 10)).choose()
    assert choice.ranks == (0, 2)
    assert choice.shares == pytest.approx((0.5, 0.5), abs=0.01)
    assert "leaving out pi (0.3 GB/s): 2 nodes make about " in caplog.text


def test_a_node_of_half_the_speed_stays(caplog):
    assert chooser(LARGE, (10, 6, 10)).choose().ranks == (0, 1, 2)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("round_trip", "ranks"), [(None, (0, 1, 2)), (2e-4, (0, 1, 2)), (4e-3, (0, 2))]
)
def test_a_node_that_is_slow_and_far_away_is_left_out(round_trip, ranks):
    """Alone, its speed would not do. Without a measured latency it is taken to be near."""
    nodes = [replace(node(one), round_trip=2e-4) for one in (1, 0.45, 1)]
    nodes[1] = replace(nodes[1], round_trip=round_trip)
    model, config = SimpleNamespace(spec=LARGE, path="a model"), RunConfig.of(LARGE, 3)
    assert Chooser(model, config, [1] * 3, nodes).choose().ranks == ranks


def test_the_root_and_a_worker_stay():
    assert chooser(LARGE, (0.1, 10, 10)).choose().ranks == (0, 1, 2)
    assert chooser(LARGE, (10, 0.1)).choose().ranks == (0, 1)


def test_a_node_holds_no_more_than_its_memory(monkeypatch):
    monkeypatch.setattr(auto_shares, "NEAR", 0.0)  # its buffers are larger than its weights
    with open_model(None) as model:
        config = RunConfig.of(model.spec, 3)

        def chosen(memory):
            nodes = [node(10), node(30, memory=memory), node(10)]
            shares = Chooser(model, config, [1] * 3, nodes).choose().shares
            split = replace(config, shares=shares)
            return shares, sum(footprint(model, split, threads=1, rank=1).values())

        free, needed = chosen(0)
        shares, held = chosen(needed * 95 // 100)
    assert held <= needed * 95 // 100
    assert free[1] > shares[1]


@pytest.fixture
def found(monkeypatch):
    """The nodes that are measured next."""
    nodes: list[Measured] = []
    monkeypatch.setattr(auto_shares, "measure_nodes", lambda layout, types, timeout: nodes)
    return nodes


def fitted(spec, shares=None, addresses=("10.0.0.2:1", "10.0.0.3:1")):
    layout = Layout(get("blocking"), addresses, None, (4, 0, 2))
    model = SimpleNamespace(spec=spec, path="a model")
    return fit(model, layout, shares, RunConfig.of(spec, 3, shares=shares))


def test_nodes_that_are_alike_get_equal_shares(found, caplog):
    found += [node(10), node(10.5), node(9.7)]
    assert fitted(LARGE)[1].shares == (1, 1, 1)
    assert caplog.text == ""
    assert fitted(LARGE, "auto")[1].shares == pytest.approx((1 / 3,) * 3, abs=0.05)
    assert "by measured speed" in caplog.text


def test_nodes_that_differ_get_shares_by_speed(found, caplog):
    found += [node(20, "root"), node(10, "pi-2"), node(10.04, "pi-3")]
    layout, config = fitted(LARGE)
    assert config.shares == pytest.approx((0.5, 0.25, 0.25), abs=0.02)
    assert layout.addresses == ("10.0.0.2:1", "10.0.0.3:1")
    told = "by measured speed (root 20.0 GB/s, pi-2 10.0 GB/s, pi-3 10.0 GB/s)"
    assert f"shares {words(config.shares)} {told}" in caplog.text


def test_a_worker_that_is_left_out_is_not_in_the_layout(found):
    found += [node(20), node(0.2), node(20)]
    layout, config = fitted(LARGE)
    assert (layout.addresses, layout.threads) == (("10.0.0.3:1",), (4, 2))
    assert config.world_size == layout.world_size == 2


def test_shares_that_are_given_stay(monkeypatch):
    monkeypatch.setattr(auto_shares, "measure_nodes", None)
    assert fitted(LARGE, [2, 1, 1])[1].shares == (2, 1, 1)
    assert fitted(LARGE, "auto", ())[1].shares == (1, 1, 1)
    with pytest.raises(ConfigError, match="shares is 'fast', expected auto or a number"):
        fitted(LARGE, "fast")


def test_words_and_differences():
    assert words((0.5, 0.2501, 0.2499)) == "50:25:25"
    assert differ((10, 11.1), 1.1)
    assert not differ((10, 10.9, 10.5), 1.1)
