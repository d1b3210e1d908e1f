"""What this processor can do, and what dllama uses of it."""

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
    """Names of the vector extensions that this processor has, oldest first."""
    cdef dl_feature found[DL_FEATURES]
    dl_features(found)
    return [found[i].name.decode() for i in range(DL_FEATURES) if found[i].present]


def available():
    """Names of the instruction sets that kernels exist for and this machine runs, best first."""
    return [_name(isa) for isa in range(ISA_COUNT - 1, -1, -1) if dl_isa_available(isa)]


def isa():
    """Name of the instruction set in use: the best, or what DLLAMA_ISA lowered it to.

    ConfigError where DLLAMA_ISA is unknown or names what this machine lacks.
    """
    wanted = os.environ.get("DLLAMA_ISA")
    if wanted is not None and wanted not in available():
        raise ConfigError(
            f"DLLAMA_ISA is {wanted!r}, expected one of {', '.join(available())} on this machine"
        )
    return _name(dl_isa())


def openmp():
    """Whether the kernels were built with OpenMP; without it they run on one thread."""
    return bool(dl_openmp())


def default_threads():
    """Threads to use unless told otherwise: the physical cores this process may run on."""
    if not dl_openmp():
        return 1
    return max(1, len(cores()))


def cores():
    """The CPUs this process may run on, those of one physical core together: list of lists."""
    groups = {}
    for cpu in allowed():
        groups.setdefault(_core(cpu), []).append(cpu)
    return list(groups.values())


def allowed():
    """The CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _core(int cpu):
    """Which hyper-threads share a core, as Linux names them; the CPU itself where it does not."""
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
