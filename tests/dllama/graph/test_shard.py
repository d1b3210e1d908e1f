"""The split: every weight is on one node, whatever the shape of the model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllama.errors import ConfigError
from dllama.graph import shard as sharding
from dllama.graph.ranges import deal
from dllama.graph.shard import split
from dllama.model.file import tensor_table
from dllama.model.spec import Arch, ModelSpec
from dllama.model.weight_types import WeightType
from dllama.run_config import RunConfig
from dllama.runtime.node import graph_of

KV = ("k", "v", "k_bias", "v_bias")


def spec_of(**values) -> ModelSpec:
    given = {"arch": Arch.LLAMA, "dim": 64, "hidden_dim": 192, "n_layers": 1, "n_heads": 8,
             "n_kv_heads": 4, "head_dim": 32, "vocab_size": 100, "seq_len": 64,
             "weight_type": WeightType.Q40}  # fmt: skip
    return ModelSpec(**(given | values))


@st.composite
def specs(draw) -> ModelSpec:
    """Specs of all shapes; rows of quantised weights are whole blocks."""
    kind = draw(st.sampled_from(list(WeightType)))
    group, kv_heads = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    head_dim = 2 * draw(st.integers(1, 48))
    unit = kind.block_size
    if unit > 1:
        while group * kv_heads * head_dim % unit:
            head_dim *= 2
    return spec_of(
        dim=unit * draw(st.integers(1, 4)),
        hidden_dim=unit * draw(st.integers(1, 40)),
        n_heads=group * kv_heads,
        n_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=draw(st.integers(64, 300)),
        weight_type=kind,
        n_experts=(experts := draw(st.sampled_from([0, 0, 3]))),
        n_active_experts=min(experts, 2),
        qkv_bias=not experts and draw(st.booleans()),
        post_norms=experts > 0 and draw(st.booleans()),
    )


def run_config_of(shares) -> RunConfig:
    return RunConfig(tuple(shares), seq_len=16, kv_cache="f32", batch=4, logits=4, buffer="f32")


@settings(max_examples=120, deadline=None)
@given(data=st.data(), spec=specs())
def test_every_weight_is_held_once(data, spec):
    """The biases of keys once more, for the KV cache."""
    nodes = data.draw(st.integers(1, min(spec.n_heads, spec.vocab_size)))
    shares = data.draw(st.lists(st.floats(0.1, 10), min_size=nodes, max_size=nodes))
    table = tensor_table(spec, 0)
    holders = {name: np.zeros(info.shape, np.int8) for name, info in table.items()}
    for rank in range(nodes):
        graph = graph_of(spec, run_config_of(shares), rank)
        for matrix in graph.matrices:
            for piece in matrix.slices:
                rows, cols = piece.rows, piece.cols
                holders[piece.tensor][rows.start : rows.stop, cols.start : cols.stop] += 1
        for vector in graph.vectors:
            users = {task.op for task in graph.tasks if vector.name in (task.bias, task.weight)}
            for piece in vector.slices if users != {"rope"} or "norm" in vector.name else ():
                holders[piece.tensor][piece.cols.start : piece.cols.stop] += 1
    for name, count in holders.items():
        kind = name.rpartition(".")[2]
        if name == "embedding":
            assert not count.any()
        elif kind in ("router", "ffn_norm"):
            assert (count == sum(1 for shard in split(spec, shares) if shard.hidden)).all()
        elif kind in KV:
            assert (count >= 1).all()
            assert (count == 1).all() or nodes > 1
        elif kind.endswith("norm"):
            assert (count == nodes).all()
        elif kind == "o" and spec.head_dim % spec.weight_type.block_size:
            assert (count >= 1).all()  # a block shared by two heads is on the nodes of both
        else:
            assert (count == 1).all(), name


@settings(max_examples=300, deadline=None)
@given(data=st.data(), spec=specs())
def test_heads_find_their_kv_heads_here(data, spec):
    nodes = data.draw(st.integers(1, min(spec.n_heads, spec.vocab_size)))
    shards = split(spec, [1] * nodes)
    group = spec.n_heads // spec.n_kv_heads
    assert [head for shard in shards for head in shard.heads] == list(range(spec.n_heads))
    for shard in shards:
        assert {head // group for head in shard.heads} == set(shard.kv_heads)
        assert len(shard.heads) - spec.n_heads // nodes in (0, 1)
        assert shard.vocab


@settings(max_examples=300, deadline=None)
@given(data=st.data(), count=st.integers(0, 200))
def test_shares_decide_how_much(data, count):
    shares = data.draw(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
    least = data.draw(st.integers(0, count // len(shares)))
    ranges = deal(count, shares, least)
    assert [item for one in ranges for item in one] == list(range(count))
    assert all(len(one) >= least for one in ranges)
    if least == 0:
        for one, share in zip(ranges, shares, strict=True):
            assert abs(len(one) - count * share / sum(shares)) <= 1 + 1e-9


def test_shares_of_a_half_and_two_quarters():
    shards = split(spec_of(hidden_dim=256), (2, 1, 1))
    assert [shard.heads for shard in shards] == [range(4), range(4, 6), range(6, 8)]
    assert [shard.kv_heads for shard in shards] == [range(2), range(2, 3), range(3, 4)]
    assert [shard.hidden for shard in shards] == [range(128), range(128, 192), range(192, 256)]
    assert [shard.vocab for shard in shards] == [range(50), range(50, 75), range(75, 100)]


def test_more_nodes_than_kv_heads_and_blocks():
    shards = split(spec_of(hidden_dim=64), [1] * 8)
    assert [shard.kv_heads.start for shard in shards] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sum(bool(shard.hidden) for shard in shards) == 2
    graphs = [graph_of(spec_of(hidden_dim=64), run_config_of([1] * 8), rank) for rank in range(8)]
    exchanges = [[task.op for task in p.tasks if task.kind.name == "TRANSFER"] for p in graphs]
    assert all(kinds == exchanges[0] for kinds in exchanges)


def test_two_all_reduces_in_a_layer_and_nothing_else():
    for rank in range(3):
        graph = graph_of(spec_of(n_layers=5), run_config_of([1] * 3), rank)
        transfers = [task.op for task in graph.tasks if task.kind.name == "TRANSFER"]
        assert transfers == ["broadcast"] + 10 * ["all_reduce"]
    alone = graph_of(spec_of(n_layers=5), run_config_of([1]), 0)
    assert not [task for task in alone.tasks if task.kind.name == "TRANSFER"]


def test_experts_sum_as_a_feed_forward_network_does():
    dense = spec_of(hidden_dim=1024)
    mixture = spec_of(n_experts=4, n_active_experts=2, moe_hidden_dim=1024)
    for nodes in range(1, 9):
        sums = [[shard.sums for shard in split(spec, [1] * nodes)] for spec in (dense, mixture)]
        assert sums[0] == sums[1]


def test_layers_without_experts_have_units_of_their_own():
    experts = {"n_experts": 4, "n_active_experts": 2, "moe_hidden_dim": 96}
    spec = spec_of(hidden_dim=256, n_layers=2, dense=(0,), **experts)
    shards = split(spec, (2, 1, 1))
    units = [[shard.networks[width,][0].hidden for shard in shards] for width in (96, 256)]
    assert units[0] == [range(64), range(64, 64), range(64, 96)]
    assert units[1] == [range(128), range(128, 192), range(192, 256)]
    assert [shard.hidden for shard in shards] == units[0]


def test_columns_are_whole_blocks():
    unit = spec_of(head_dim=16, n_heads=4, n_kv_heads=4).o_block
    assert sharding.whole_blocks(range(1, 3), 16, unit) == range(0, 64)
    assert sharding.whole_blocks(range(3, 4), 16, unit) == range(32, 64)
    unit = spec_of(head_dim=16, n_heads=4, n_kv_heads=4, weight_type=WeightType.F32).o_block
    assert sharding.whole_blocks(range(1, 3), 16, unit) == range(16, 48)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([1] * 9, "nodes is 9, expected at most 8: the model has 8 query heads and 100 tokens"),
        ([1, 0], "expected numbers above 0"),
        ([1, float("inf")], "expected numbers above 0"),
        ([1, float("nan")], "expected numbers above 0"),
    ],
)
def test_what_cannot_be_split(shares, message):
    with pytest.raises(ConfigError, match=message):
        split(spec_of(), shares)
