"""The tasks of per-layer inputs (Gemma team 2025, Gemma 3n; Gemma 4).

Each layer has another embedding of the token, to which a projection of the first one is added:
input[layer] = (RMSNorm(projection / sqrt(dim)) + embedding * sqrt(size)) / sqrt(2). After its other
blocks, x += RMSNorm(up(activation(gate(x)) * input[layer])).

These matrices are small, so every node has all of them, and there is no transfer but that of the
rows of the embedding.
"""

from __future__ import annotations

import math

from dllama._kernels.tasks import Then
from dllama.graph.builder import GraphBuilder
from dllama.graph.matrices import whole

INPUTS = "layer_inputs"


def make_layer_inputs(b: GraphBuilder) -> None:
    """Add the tasks that make the inputs of all layers from x, the scaled embedding."""
    spec, width = b.spec, b.spec.n_layers * b.spec.layer_input_dim
    inputs = b.buffer(INPUTS, width)
    if b.shard.rank == 0:
        b.task("embed", "", inputs, weight="layer_embedding")
    if b.shard.world_size > 1:
        b.transfer("broadcast", inputs, inputs)
    projection = whole(spec, "layer_inputs", range(width), range(spec.dim))
    b.norm_for("normed", "", [projection.weight_type])
    projected = b.buffer("layer_projections", width)
    src = b.input("normed", spec.dim, projection.weight_type)
    b.multiply("matmul", src, projected, projection)
    name, size = "layer_inputs_norm", spec.layer_input_dim
    b.task(
        "layer_inputs",
        projected,
        inputs,
        weight=b.vector(name, (name, range(size))),
        epsilon=spec.norm_epsilon * spec.dim,  # as the projection is not divided by sqrt(dim)
        scale=math.sqrt(size),
    )


def add_layer_input(b: GraphBuilder, activation: Then) -> None:
    """Add the tasks of x += RMSNorm(up(activation(gate(x)) * input of the layer))."""
    spec, at, size = b.spec, b.at, b.spec.layer_input_dim
    gate = whole(spec, at + "layer_input_gate", range(size), range(spec.dim))
    up = whole(spec, at + "layer_input_up", range(spec.dim), range(size))
    b.norm_for("normed", "", [gate.weight_type])
    gates = b.buffer("layer_gates", size)
    b.multiply("matmul", b.input("normed", spec.dim, gate.weight_type), gates, gate)
    hidden = b.input("layer_hidden", size, up.weight_type)
    column = b.layer * size
    b.task("layer_gate", gates, hidden, then=activation, inputs=INPUTS, column=column)
    out = b.buffer("layer_out", spec.dim)
    b.multiply("matmul", hidden, out, up)
    b.norm(out, "x", at + "layer_input_post_norm", then=Then.ADD)
