# A team of threads that runs passes of stages of items (team.h).

from libc.stdint cimport int64_t

from dllama._kernels.memory cimport Memory

# How many items a stage has. Called once for a stage, by the thread that finished the one before.
ctypedef int64_t (*count_fn)(void *work, int64_t stage) noexcept nogil
# Does an item on a thread, 0 to threads - 1. Nonzero: it failed; no more are begun, the pass ends.
ctypedef int (*team_item_fn)(void *work, int64_t stage, int64_t item, int thread) noexcept nogil
# Called by the thread that runs a pass, now and then in long ones. Nonzero: the pass is to end.
ctypedef int (*look_fn)(void *work) noexcept nogil

cdef extern from "team.h" nogil:
    ctypedef struct dl_share:
        pass
    ctypedef struct dl_stage:
        int64_t nanoseconds
    ctypedef struct dl_member:
        pass
    ctypedef struct dl_team:
        int64_t stages
        int threads
        dl_share *shares
        dl_stage *progress
        dl_member *members
        count_fn count
        team_item_fn item
        look_fn look
        void *work
    enum:
        DL_STAGE_BITS
    int dl_team_start(dl_team *t)
    void dl_team_run(dl_team *t, int64_t begin, int64_t end)
    void dl_team_stop(dl_team *t)


# The threads live as long as the object; `work` must be there while a pass runs. In a process that
# was forked, passes run on the calling thread alone.
cdef class Team:
    cdef dl_team *team              # NULL if the threads do not run
    cdef Memory _team, _shares, _progress, _members
    cdef readonly int64_t nbytes
    # Run a pass of stages begin to end - 1; one at a time. A stage has fewer than 2^26 items.
    cdef void run(self, int64_t begin, int64_t end) noexcept nogil
    # The time of a stage of the last pass.
    cdef int64_t nanoseconds(self, int64_t stage) noexcept

# OSError if the threads do not start, ValueError for more stages than a team counts. Without OpenMP
# there is one thread: the calling one.
cdef Team start(int threads, int64_t stages, count_fn count, team_item_fn item, look_fn look,
                void *work)
