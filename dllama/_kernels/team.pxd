# A team of threads that runs passes of stages of items (team.h).

from libc.stdint cimport int64_t

from dllama._kernels.memory cimport Memory

# How many items a stage has. Called once for a stage, by the thread that finished the one before.
ctypedef int64_t (*count_fn)(void *work, int64_t stage) noexcept nogil
# Does an item on a thread, 0 to threads - 1. Nonzero: it failed, and the pass ends after the stage.
ctypedef int (*team_item_fn)(void *work, int64_t stage, int64_t item, int thread) noexcept nogil

cdef extern from "team.h" nogil:
    ctypedef struct dl_line:
        pass
    ctypedef struct dl_progress:
        pass
    ctypedef struct dl_member:
        pass
    ctypedef struct dl_team:
        int64_t stages
        int threads
        dl_line *taken
        dl_progress *progress
        int64_t *nanoseconds
        dl_member *members
        count_fn count
        team_item_fn item
        void *work
    int dl_team_start(dl_team *t)
    void dl_team_run(dl_team *t)
    void dl_team_stop(dl_team *t)


# The threads live as long as the object; `work` must be there while a pass runs. In a process that
# was forked, passes run on the calling thread alone.
cdef class Team:
    cdef dl_team *team              # NULL if the threads do not run
    cdef Memory _team, _taken, _progress, _nanoseconds, _members
    cdef readonly int64_t nbytes
    # Run a pass; one at a time. An item has at most 2^26 neighbours in its stage.
    cdef void run(self) noexcept nogil
    # Nanoseconds of each stage of the last pass, [stages].
    cdef int64_t *nanoseconds(self) noexcept

# OSError if the threads do not start. Without OpenMP there is one: the calling one.
cdef Team start(int threads, int64_t stages, count_fn count, team_item_fn item, void *work)
