"""Adds tasks to a graph that measure what its matrices read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.graph.graph import Graph, Matrix, Task
from dllama.model.spec import typed_name


def with_squares(graph: Graph) -> tuple[Graph, dict[str, tuple[str, ...]]]:
    """Sum up the squares of each column of what matrices read, over all rows of all passes.

    Args:
        graph: of one node; its matrices read floats.

    Returns:
        The graph with these tasks. They add to vectors that the caller gives to the executor,
        float32 (columns,), beside those of the weights. Matrices of single heads have none.

        The names of the tensors, as ModelSpec.tensor_types has them, that each vector is for.
    """
    matrices = {matrix.name: matrix for matrix in graph.matrices}
    tasks: list[Task] = []
    names: dict[str, tuple[str, ...]] = {}
    for task in graph.tasks:
        for src, weight in _products(task):
            if weight in matrices and task.parts is None:
                vector = f"{weight}.squares"
                names[vector] = tuple(dict.fromkeys(_tensors(matrices[weight])))
                tasks.append(Task("squares", src, src, vector, task.layer, tail=task.tail))
        tasks.append(task)
    return replace(graph, tasks=tuple(tasks)), names


def _products(task: Task) -> Iterator[tuple[str, str]]:
    """The buffers that a task multiplies, each with the name of what it multiplies them by."""
    yield task.src, task.weight
    for other in (task.shared, task.second):
        if other:
            yield other.src, other.weight


def _tensors(matrix: Matrix) -> Iterator[str]:
    for piece in matrix.slices:
        yield typed_name(piece.tensor)
