"""Graphs: everything that tasks name exists, and everything that exists is used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_spec import SSM

from dllama._kernels.executor import Executor
from dllama._kernels.tasks import Then
from dllama._kernels.weight_types import StoredRows
from dllama.errors import UnsupportedError
from dllama.graph.build import build, check_supported
from dllama.graph.shard import split
from dllama.graph.weights import rooms
from dllama.model.spec import Arch, HiddenAct, ModelSpec, QKNorm
from dllama.model.weight_types import WeightType

PLAIN = {"arch": Arch.LLAMA, "dim": 64, "hidden_dim": 192, "n_layers": 2, "n_heads": 8,
         "n_kv_heads": 4, "head_dim": 32, "vocab_size": 100, "seq_len": 64,
         "weight_type": WeightType.Q40}  # fmt: skip
MIXTURE = {"n_experts": 4, "n_active_experts": 2}
F32, F16, Q80 = WeightType.F32, WeightType.F16, WeightType.Q80
TYPES = (("layers.0.k", F32), ("layers.1.gate", F16), ("layers.1.up", Q80), ("output", F32))
SIZES = {"window": 8, "windowed": (0,), "window_rope_theta": 500.0, "full_head_dim": 64,
         "full_kv_heads": 2, "qk_norm": QKNorm.HEAD}  # fmt: skip
FEATURES = {
    "plain": {},
    "float weights": {"weight_type": F16, "hidden_dim": 200},
    "heads of half a block": {"head_dim": 16},
    "head norms": {"qk_norm": QKNorm.HEAD},
    "norms over all heads": {"qk_norm": QKNorm.WIDTH},
    "norms apart": {"qk_norm": QKNorm.APART},
    "LayerNorm": {"layer_norms": True, "qk_norm": QKNorm.HEAD, "post_norms": True},
    "no gates": {"ffn_gated": False, "hidden_dim": 160},
    "no gates, with biases": {"ffn_gated": False, "ffn_bias": True},
    "a parallel residual": {"parallel_residual": True, "tensor_types": TYPES},
    "biases": {"qkv_bias": True},
    "biases everywhere": {"qkv_bias": True, "o_bias": True, "ffn_bias": True},
    "a part of each head": {"rope_dim": 16},
    "norms around blocks": {"post_norms": True},
    "norms after blocks only": {"pre_norms": False, "post_norms": True},
    "multipliers": {"embedding_scale": 2.0, "logits_scale": 0.5, "logits_cap": 30.0},
    "other types": {"tensor_types": TYPES},
    "tied": {"tied": True},
    "no RoPE": {"no_rope": (0,)},
    "windows": {"window": 8, "windowed": (1,)},
    "experts": MIXTURE,
    "experts of other types": {**MIXTURE, "tensor_types": (("layers.0.experts.up", F32),)},
    "a shared expert": {**MIXTURE, "shared_hidden_dim": 96, "shared_gate": True},
    "a shared expert of other types": {
        **MIXTURE,
        "shared_hidden_dim": 288,
        "tensor_types": (("layers.0.shared.up", F32), ("layers.0.shared.down", F16)),
    },
    "sigmoids of scores": {**MIXTURE, "router_sigmoid": True, "router_correction": True},
    "layers without experts": {**MIXTURE, "dense": (1,)},
    "experts with biases": {**MIXTURE, "ffn_bias": True, "sinks": True},
    "a clamped activation": {"hidden_act": HiddenAct.CLAMPED, "act_limit": 7.0},
    "norms after blocks": {**MIXTURE, "post_norms": True},
    "heads of two sizes": SIZES,
    "keys as values": {**SIZES, "keys_as_values": True, "value_norm": True},
    "shared keys and values": {
        **SIZES,
        "n_layers": 4,
        "windowed": (0, 2),
        "kv_shared_layers": 2,
        "kv_shared_hidden_dim": 256,
        "layer_scales": True,
    },
    "per-layer inputs": {"layer_input_dim": 32},
    "a network beside experts": {
        **MIXTURE,
        "moe_hidden_dim": 96,
        "dense_beside": True,
        "post_norms": True,
    },
    "linear attention": {
        "attention_gate": True,
        "linear": (0,),
        "linear_key_heads": 2,
        "linear_value_heads": 6,
        "linear_key_dim": 8,
        "linear_value_dim": 16,
        "linear_taps": 4,
    },
    "Mamba-2": SSM,
    "Mamba-2 with one group": {**SSM, "linear_key_heads": 1},
    "Mamba-2 of other types": {
        **SSM,
        "ssm_norm": False,
        "ssm_norm_first": False,
        "ssm_bias": False,
        "tensor_types": (("layers.0.linear_k", F16), ("layers.0.linear_o", F32)),
    },
}


def graphs(name, nodes):
    spec = ModelSpec(**(PLAIN | FEATURES[name]))
    return [build(spec, shard) for shard in split(spec, [1] * nodes)]


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("nodes", [1, 3, 8])
def test_tasks_use_all_weights_and_buffers(name, nodes):
    for graph in graphs(name, nodes):
        shared = [task.shared for task in graph.tasks if task.shared]
        second = [task.second for task in graph.tasks if task.second]
        embeddings = {task.weight for task in graph.tasks if task.op == "embed"}
        used = {one for task in graph.tasks for one in (task.weight, task.bias, task.scales)}
        used -= {"", *embeddings}
        used |= {one.weight for one in (*shared, *second)}
        held = [one.name for one in (*graph.matrices, *graph.vectors)]
        assert len(held) == len(set(held))
        assert set(held) == used
        places = ("src", "dst", "routes", "squares", "inputs")
        named = {getattr(task, place) for task in graph.tasks for place in places}
        named |= {name for one in shared for name in (one.src, one.factors)}
        named |= {one.src for one in second}
        named -= {""}
        assert {buffer.name for buffer in graph.buffers} == named


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("nodes", [1, 3, 5, 8])
def test_sums_cover_all_columns(name, nodes):
    """The segments of an output or down projection add up to the columns of its matrix."""
    for graph in graphs(name, nodes):
        matrices = {matrix.name: matrix for matrix in graph.matrices}
        for task in graph.tasks:
            for one in (task, task.shared, task.second):
                if one and one.weight and one.sums:
                    assert sum(part.columns for part in one.sums) == matrices[one.weight].cols


def ops(name, nodes=1):
    """The ops of the root in the first layer."""
    tasks = graphs(name, nodes)[0].tasks
    return [task.op for task in tasks if task.layer == 0 and task.op not in ("embed", "broadcast")]


def test_a_layer_is_a_composition():
    attention = ["norm", "matmul", "rope", "attention", "encode", "matmul"]
    experts = ["norm", "matmul", "route", "dispatch", "experts_gated", "experts_sum"]
    assert ops("plain") == [*attention, "norm", "matmul", "matmul"]
    assert ops("plain", 2) == [*attention, "all_reduce", "norm", "matmul", "matmul", "all_reduce"]
    assert ops("float weights") == [*attention[:4], "matmul", "norm", "matmul", "matmul"]
    assert ops("experts") == [*attention, *experts]
    heads = ["norm", "matmul", "head_squares", "rope", "attention", "encode", "matmul"]
    assert ops("norms over all heads") == [*heads, "norm", "matmul", "matmul"]
    assert ops("norms over all heads", 2)[:4] == [*heads[:3], "gather"]
    after = ["encode", *attention[1:], "norm", "encode", "matmul", "matmul", "norm"]
    assert ops("norms after blocks only") == after
    biased = [*attention, "add", "norm", "matmul", "matmul", "activate", "matmul", "add"]
    assert ops("biases everywhere") == biased
    unbiased = [*attention, "norm", "matmul", "activate", "matmul"]
    assert ops("no gates") == unbiased
    parallel = ["norm", "encode", "matmul", "matmul", "matmul", "rope", "attention", "encode"]
    assert ops("a parallel residual") == [*parallel, "matmul", "matmul", "matmul"]
    spec = ModelSpec(**(PLAIN | FEATURES["a parallel residual"]))
    for exact, count in ((True, 2), (False, 1)):  # transfers of a layer
        tasks = build(spec, split(spec, [1, 1, 1], exact)[1]).tasks
        sums = [task for task in tasks if task.op == "all_reduce"]
        assert [task.layer for task in sums] == [0] * count + [1] * count
        assert [task.begins for task in sums] == [True] + [False] * (2 * count - 1)
    assert ops("norms after blocks") == [*attention, "norm", *experts, "norm"]
    scan = ["matmul", "matmul", "ssm", "ssm_norm", "encode"]
    beside = ["norm", "encode", *attention[1:-1], *scan, "pair_sum"]  # time steps read floats
    beside += ["add", "norm", "matmul", "matmul"]
    assert ops("Mamba-2") == beside
    assert ops("Mamba-2", 2) == [*beside[:-4], "all_reduce", *beside[-4:], "all_reduce"]
    assert ops("Mamba-2 with one group", 3)[9:11] == ["gather", "ssm_norm"]
    network = ["norm", "matmul", "matmul", "norm"]
    found = ops("a network beside experts")
    assert found == [*attention, "norm", *network, "norm", *experts, "norm", "norm"]
    inputs = ["encode", "matmul", "layer_gate", "matmul", "norm"]
    assert ops("per-layer inputs")[-5:] == inputs


def test_the_activation_is_that_of_the_model():
    for act in (HiddenAct.SILU, HiddenAct.GELU):
        spec = ModelSpec(**(PLAIN | {"hidden_act": act}))
        tasks = build(spec, split(spec, [1])[0]).tasks
        assert [task.then.name for task in tasks if task.weight.endswith("gate_up")] == 2 * [
            "GATED_GELU" if act is HiddenAct.GELU else "GATED"
        ]
        changes = {"hidden_act": act, "ffn_gated": False}
        spec = ModelSpec(**(PLAIN | changes))
        tasks = build(spec, split(spec, [1])[0]).tasks
        acts = [task.then.name for task in tasks if task.op == "activate"]
        assert acts == 2 * [act.name]
    (graph,) = graphs("a clamped activation", 1)
    acts = [(one.then.name, one.scale) for one in graph.tasks if one.op == "activate"]
    assert acts == 2 * [("GATED_CLAMPED", 7.0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": Arch.QWEN3, **MIXTURE}, "m: architecture qwen3 with 4 experts is not"),
        ({"pre_norms": False, **MIXTURE}, "experts without a norm before them"),
        ({"ffn_gated": False, **MIXTURE}, "experts without gates are not"),
        ({"parallel_residual": True, **MIXTURE}, "parallel_residual with experts is not"),
        (
            {"parallel_residual": True, **FEATURES["linear attention"]},
            "parallel_residual with linear attention is not",
        ),
        ({"arch": Arch.QWEN3_MOE}, "architecture qwen3_moe with 0 experts is not"),
    ],
)
def test_combinations_that_no_family_has_are_refused(changes, message):
    with pytest.raises(UnsupportedError, match=message):
        check_supported(ModelSpec(**(PLAIN | changes)), "m")


def test_a_bias_goes_with_one_stored_sum():
    """The kernel adds it nowhere else, so a graph that asks for it is refused."""
    (graph,) = graphs("biases", 1)
    tasks = tuple(replace(one, then=Then.ADD if one.bias else one.then) for one in graph.tasks)
    matrices = rooms(graph.matrices)
    vectors = {vector.name: np.zeros(vector.size, np.float32) for vector in graph.vectors}
    embeddings = {"embedding": StoredRows(np.zeros((100, 256), np.uint8), int(F32), 64)}
    sizes = {"threads": 1, "max_rows": 1, "max_logits": 1, "max_positions": 16, "kv_type": 1,
             "kv_blocks": [1]}  # fmt: skip
    Executor(graph, matrices, vectors, embeddings, **sizes)
    with pytest.raises(ValueError, match="qkv: a bias goes with one sum that is stored"):
        Executor(replace(graph, tasks=tasks), matrices, vectors, embeddings, **sizes)
