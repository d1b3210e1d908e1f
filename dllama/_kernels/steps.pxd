# The steps of passes: the stages of all ops, and which rows they work on.

from libc.stdint cimport int64_t

from dllama._kernels.halves cimport Halves
from dllama._kernels.memory cimport Memory
from dllama._kernels.op cimport Bindings, Op, Pass, Stage


cdef struct Step:
    Stage stage
    const Pass *run                 # all rows of a batch, or a half


cdef class Steps:
    cdef Step *all                  # [whole], those of a batch that is not halved, then the others
    cdef readonly int64_t count, whole
    cdef readonly int64_t scratch   # floats that an item needs
    cdef readonly list labels       # of each step the task, and the half, 0 or 1; None for all rows
    cdef readonly list ops          # that of each task
    cdef Memory memory
    cdef list _kept                 # what else steps point to
    cdef int _append(self, Op op, int stage, const Pass *run, label) except -1
    cdef list _made(self, Bindings bindings, tasks)
    # Add the steps of a batch that is not halved, and then those of one that is. `run` is that of all
    # rows.
    cdef int bind(self, Bindings bindings, tasks, const Pass *run) except -1
    cdef int bind_halves(self, Bindings bindings, graph, Halves halves, const Pass *run) except -1
