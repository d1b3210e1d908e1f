"""The threads of an executor."""

cimport cython
from libc.stdint cimport int64_t

import os

from dllama._kernels.memory cimport Memory


cdef extern from "threads.h" nogil:
    int dl_openmp()


@cython.no_gc  # which could take the memory away before the threads have ended
cdef class Team:
    """See team.pxd."""

    cdef void run(self, int64_t begin, int64_t end) noexcept nogil:
        dl_team_run(self.team, begin, end)

    cdef int64_t nanoseconds(self, int64_t stage) noexcept:
        return self.team.progress[stage].nanoseconds

    def __dealloc__(self):
        if self.team is not NULL:
            dl_team_stop(self.team)


cdef Team start(int threads, int64_t stages, count_fn count, team_item_fn item, look_fn look,
                void *work):
    cdef Team made = Team()
    cdef dl_team *t
    cdef int error
    if stages >= 1 << DL_STAGE_BITS:
        raise ValueError(f"{stages} stages, expected fewer than {1 << DL_STAGE_BITS}")
    threads = threads if dl_openmp() else 1
    made._team = Memory(sizeof(dl_team))
    made._shares = Memory(stages * threads * sizeof(dl_share))
    made._progress = Memory(stages * sizeof(dl_stage))
    made._members = Memory(threads * sizeof(dl_member))
    made.nbytes = sum(memory.nbytes for memory in (
        made._team, made._shares, made._progress, made._members))
    t = <dl_team *> made._team.data
    t.stages, t.threads, t.work = stages, threads, work
    t.count, t.item, t.look = count, item, look
    t.shares, t.progress = <dl_share *> made._shares.data, <dl_stage *> made._progress.data
    t.members = <dl_member *> made._members.data
    error = dl_team_start(t)
    if error:
        raise OSError(error, f"cannot start {threads} threads: {os.strerror(error)}")
    made.team = t
    return made
