"""What this processor supports, and what dllama uses of it."""

import os

from dllama.errors import ConfigError


cdef extern from "simd/cpu.h" nogil:
    const char *dl_isa_names[]
    int dl_isa_available(int isa)
    int dl_isa_named(const char *name)
    int dl_isa()
    ctypedef struct dl_feature:
        const char *name
        int present
    enum:
        DL_FEATURES
    void dl_features(dl_feature *out)

cdef extern from "threads.h" nogil:
    int dl_openmp()


def features():
    """Names of the vector extensions of this processor, oldest first."""
    cdef dl_feature found[DL_FEATURES]
    dl_features(found)
    return [found[i].name.decode() for i in range(DL_FEATURES) if found[i].present]


def available():
    """Names of the instruction sets that have kernels and run on this machine, best first."""
    return [_name(isa) for isa in range(ISA_COUNT - 1, -1, -1) if dl_isa_available(isa)]


def isa():
    """Name of the instruction set in use: the best one, or the one that DLLAMA_ISA names.

    ConfigError if DLLAMA_ISA is unknown or not supported by this machine.
    """
    wanted = os.environ.get("DLLAMA_ISA")
    if wanted is not None and wanted not in available():
        raise ConfigError(
            f"DLLAMA_ISA is {wanted!r}, expected one of {', '.join(available())} on this machine"
        )
    return _name(dl_isa())


def openmp():
    """Whether the kernels were built with OpenMP. Without it they run on one thread."""
    return bool(dl_openmp())


def default_threads():
    """Threads to use by default: the physical cores that this process may run on."""
    if not dl_openmp():
        return 1
    return max(1, len(cores()))


def cores():
    """The CPUs that this process may run on: a list for each physical core."""
    found = {}
    for cpu in allowed():
        found.setdefault(_core(cpu), []).append(cpu)
    return list(found.values())


def allowed():
    """The CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _core(int cpu):
    """The hyper-threads of a CPU's core, as Linux lists them; the CPU itself if it does not."""
    path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return str(cpu)


cdef str _name(int isa):
    return dl_isa_names[isa].decode()


cdef extern from "simd/isa.h":
    enum:
        ISA_COUNT "DL_ISA_COUNT"
