"""What a node does in a pass: the bytes that it reads and the products that it computes.

It is read off the graph that the node would run, task by task, so it holds for every family, every
weight type and any shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dllama._kernels.tasks import Kind
from dllama.graph.graph import Graph, Matrix, Task
from dllama.model.weight_types import WeightType

# Stages of the ops that have more than one.
STAGES = {
    "attention": 2, "route": 2, "delta": 2, "ssm": 2, "heads_matmul": 2, "broadcast": 3,
    "all_reduce": 5,
}  # fmt: skip
# Multiply-adds of linear attention for each number of a state.
STATE_PRODUCTS = 4
# What it costs to write a number of a product, in multiply-adds (measured on Zen 4).
WRITTEN = 144


@dataclass(frozen=True)
class Shape:
    """The shape of a pass.

    Args:
        rows: tokens, of texts of the same length.
        context: positions that the last row of each text sees, its own included.
        wanted: rows whose logits are wanted.
        texts: how many texts the rows are of.
    """

    rows: int
    context: int
    wanted: int = 1
    texts: int = 1

    @property
    def length(self) -> int:
        """Rows of each text."""
        return self.rows // self.texts

    def seen(self, window: int) -> int:
        """Positions that all rows together see, in layers with a window; 0 for none."""
        first = self.context - self.length + 1
        limit = window or self.context
        below = max(0, min(limit, self.context) - first + 1)  # rows that see less than the limit
        total = below * (2 * first + below - 1) // 2 + (self.length - below) * limit
        return total * self.texts

    def cached(self, window: int) -> int:
        """Positions that are read of the caches of all texts."""
        last = min(self.context, window + self.length - 1) if window else self.context
        return last * self.texts


@dataclass
class Work:
    """What a node does between two transfers.

    Attributes:
        reads: bytes of weights, by type.
        products: multiply-adds with weights, by type, and what it costs to write the results.
        cache_bytes: of keys, values and states.
        attended: multiply-adds with these.
        numbers: that are written by everything else, such as norms.
        stages: how many stages this takes.
    """

    reads: dict[WeightType, float] = field(default_factory=dict)
    products: dict[WeightType, float] = field(default_factory=dict)
    cache_bytes: float = 0.0
    attended: float = 0.0
    numbers: float = 0.0
    stages: int = 0

    def multiply(self, matrix: Matrix, rows: float, part: float = 1.0) -> None:
        """Count a product of rows with a matrix.

        Args:
            matrix: the weights.
            rows: that are multiplied by all of them.
            part: how much of the matrix is read.
        """
        kind, count = matrix.weight_type, matrix.rows * matrix.cols
        nbytes = part * count * kind.block_bytes / kind.block_size
        self.reads[kind] = self.reads.get(kind, 0.0) + nbytes
        products = rows * matrix.rows * (matrix.cols + WRITTEN)
        self.products[kind] = self.products.get(kind, 0.0) + products


def split_work(graph: Graph, shape: Shape, kv_type: WeightType) -> list[Work]:
    """The work of a node before, between and after its transfers.

    Args:
        graph: of the node.
        shape: of the pass.
        kv_type: of the numbers in KV caches.

    Returns:
        One more than there are transfers. Packing what is sent and adding up what is received
        belong to the work after a transfer.
    """
    counter = _Counter(graph, shape, kv_type)
    parts = [Work()]
    for task in graph.tasks:
        if task.kind is Kind.TRANSFER:
            parts.append(Work())
        counter.count(task, parts[-1])
    parts[-1].numbers += shape.wanted * len(graph.shard.vocab)  # the search for the best
    return parts


def transfers(graph: Graph) -> Iterator[Task]:
    """The tasks that exchange data with other nodes, in order."""
    return (task for task in graph.tasks if task.kind is Kind.TRANSFER)


class _Counter:
    """Counts the work of tasks; the arguments are those of split_work."""

    def __init__(self, graph: Graph, shape: Shape, kv_type: WeightType) -> None:
        self.graph, self.shape, self.kv_type = graph, shape, kv_type
        self.matrices = {matrix.name: matrix for matrix in graph.matrices}
        self.widths = {buffer.name: buffer.width * buffer.rows for buffer in graph.buffers}
        spec = graph.spec
        self.taken = spec.n_active_experts
        self.touched = touched(spec.n_experts, self.taken, shape.rows) if spec.n_experts else 0.0

    def count(self, task: Task, work: Work) -> None:
        """Add the work of a task."""
        work.stages += STAGES.get(task.op, 1)
        if task.op in ("matmul", "heads_matmul", "pair_sum"):
            self._multiply(task, work)
        elif task.op in ("experts_gated", "experts_sum"):
            self._multiply_experts(task, work)
        elif task.op == "attention":
            self._attend(task, work)
        elif task.op in ("delta", "ssm"):
            self._scan(task, work)
        else:
            work.numbers += self._rows(task) * self.widths[task.dst]

    def _rows(self, task: Task) -> int:
        return self.shape.wanted if task.tail else self.shape.rows

    def _multiply(self, task: Task, work: Work) -> None:
        work.multiply(self.matrices[task.weight], self._rows(task))
        if task.second:
            work.multiply(self.matrices[task.second.weight], self._rows(task))

    def _multiply_experts(self, task: Task, work: Work) -> None:
        """Count the experts that rows take, and the one that all take."""
        experts = self.graph.spec.n_experts
        if task.weight:
            rows = self.shape.rows * self.taken / experts
            work.multiply(self.matrices[task.weight], rows, self.touched / experts)
        if task.shared:
            work.multiply(self.matrices[task.shared.weight], self.shape.rows)

    def _attend(self, task: Task, work: Work) -> None:
        heads = task.heads
        assert heads is not None
        cache = self.graph.caches[heads.cache]
        kept = cache.size + (0 if cache.shared else cache.values)
        nbytes = kept * self.kv_type.block_bytes / self.kv_type.block_size
        work.cache_bytes += heads.kv_count * nbytes * self.shape.cached(heads.window)
        per_head = (cache.size + cache.values) * self.shape.seen(heads.window)
        work.attended += heads.count * per_head

    def _scan(self, task: Task, work: Work) -> None:
        delta = task.delta
        assert delta is not None
        numbers = delta.count * delta.key_dim * delta.value_dim
        work.cache_bytes += 8 * numbers * self.shape.texts  # float32, read and written
        work.attended += STATE_PRODUCTS * numbers * self.shape.rows


def touched(experts: int, taken: int, rows: int) -> float:
    """How many experts some rows take together, on average, if all are equally likely."""
    return experts * (1.0 - (1.0 - taken / experts) ** rows)
