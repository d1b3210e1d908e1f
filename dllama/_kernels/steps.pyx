"""See steps.pxd."""

from libc.stdint cimport int64_t

from itertools import pairwise

from dllama._kernels.halves cimport Halves
from dllama._kernels.memory cimport Memory
from dllama._kernels.op cimport MAX_STAGES, Bindings, Op, Pass

from dllama._kernels.interleave import interleaved
from dllama._kernels.op_table import OPS


cdef class Steps:
    """Memory for the steps of so many tasks."""

    def __cinit__(self, int64_t tasks):
        self.memory = Memory(max(1, 3 * tasks) * MAX_STAGES * sizeof(Step))
        self.all, self.scratch = <Step *> self.memory.data, 16
        self.labels, self._kept = [], []

    cdef int bind(self, Bindings bindings, tasks, const Pass *run) except -1:
        cdef int stage
        self.ops = self._made(bindings, tasks)
        for op, task in zip(self.ops, tasks):
            for stage in range((<Op> op).n_stages):
                self._append(op, stage, run, (task, None))
        self.whole = self.count
        return 0

    cdef int bind_halves(self, Bindings bindings, graph, Halves halves, const Pass *run) except -1:
        """The wanted rows are those of the whole batch, so their tasks work on all rows."""
        cdef int stage, half
        names = [buffer.name for buffer in graph.buffers if not buffer.wanted]
        inner = [task for task in graph.tasks if not task.tail]
        parts = [bindings.part(begin, end - begin, names)
                 for begin, end in pairwise((0, halves.first, bindings.max_rows))]
        ops = [self._made(part, inner) for part in parts]
        self._kept += parts + ops
        stages = [(<Op> op).n_stages for op in ops[0]]

        def cost(task):
            """The numbers of the weights that a task multiplies."""
            matrix = bindings.matrices.get(task.weight)
            return matrix.rows * matrix.cols if matrix else 0

        for half, task, stage in interleaved(inner, stages, cost):
            self._append(ops[half][task], stage, &halves.passes[half], (inner[task], half))
        for op, task in zip(self.ops, graph.tasks):
            for stage in range((<Op> op).n_stages if task.tail else 0):
                self._append(op, stage, run, (task, None))
        return 0

    cdef list _made(self, Bindings bindings, tasks):
        """The ops of tasks."""
        ops = [OPS[task.op](bindings, task) for task in tasks]
        self.scratch = max([self.scratch] + [(op.scratch + 15) // 16 * 16 for op in ops])
        return ops

    cdef int _append(self, Op op, int stage, const Pass *run, label) except -1:
        """Add a stage of an op."""
        cdef Step *step = self.all + self.count
        step.stage, step.run = op.stages[stage], run
        self.count += 1
        self.labels.append(label)
        return 0
