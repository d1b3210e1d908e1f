"""The MPI job that this process is a rank of: what the transport mpi needs before bytes flow."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

from dllama.errors import ConfigError, TransportError

MISSING = "transport mpi needs mpi4py and an MPI library: pip install 'dllama[mpi]'"
# What launchers tell a process of its rank: Open MPI, Slurm's and others' PMIx, MPICH and Intel.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
FUNCTIONS = {
    "isend": "MPI_Isend",
    "issend": "MPI_Issend",
    "irecv": "MPI_Irecv",
    "test": "MPI_Test",
    "get_count": "MPI_Get_count",
    "cancel": "MPI_Cancel",
    "iallreduce": "MPI_Iallreduce",
}


class MpiJob:
    """All ranks that a launcher started together.

    Every rank must make one, since MPI waits for all.

    Attributes:
        rank: of this process.
        size: how many ranks there are.
        addresses: of all ranks.
        sharers: how many ranks may run on the processors of this one, itself included.
        functions: addresses of functions of the MPI library, as the hot half calls them.
        comm, byte, real, sum, in_place, any_source: handles and constants.

    Raises:
        ConfigError: there is no MPI library here.
        TransportError: the library does not allow calls from several threads.
    """

    def __init__(self) -> None:
        mpi = _load()
        if mpi.Query_thread() < mpi.THREAD_SERIALIZED:
            raise TransportError("the MPI library allows calls from one thread only")
        world = mpi.COMM_WORLD
        self.rank, self.size = int(world.Get_rank()), int(world.Get_size())
        host = mpi.Get_processor_name()
        places = world.allgather((host, sorted(os.sched_getaffinity(0))))
        self.addresses = tuple(f"mpi://{rank}@{place[0]}" for rank, place in enumerate(places))
        self.sharers = places.count(places[self.rank])
        self._comm = world.Dup()
        self._comm.Set_errhandler(mpi.ERRORS_RETURN)
        self.comm, self.byte = _handle(mpi, self._comm), _handle(mpi, mpi.BYTE)
        self.real, self.sum = _handle(mpi, mpi.FLOAT), _handle(mpi, mpi.SUM)
        self.in_place, self.any_source = int(mpi.IN_PLACE), int(mpi.ANY_SOURCE)
        self.last_tag = int(self._comm.Get_attr(mpi.TAG_UB))
        library = ctypes.CDLL(mpi.__file__)
        self.functions = {key: _address(library, name) for key, name in FUNCTIONS.items()}

    def abort(self) -> None:
        """End all ranks at once, with exit status 1."""
        self._comm.Abort(1)


@cache
def job() -> MpiJob:
    """Return this process's job."""
    return MpiJob()


def rank_told() -> int:
    """Return the rank that a launcher gave to this process, without asking MPI; 0 without one."""
    found = [os.environ[name] for name in RANK_VARIABLES if name in os.environ]
    return int(found[0]) if found and found[0].isdecimal() else 0


def _load() -> Any:
    """Import mpi4py, which starts MPI."""
    try:
        import mpi4py

        mpi4py.rc.thread_level = "serialized"  # no effect if the caller has imported MPI already
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"{MISSING} ({str(error).splitlines()[0]})") from error
    return MPI


def _handle(mpi: Any, thing: Any) -> int:
    return int(mpi._handleof(thing))


def _address(library: ctypes.CDLL, name: str) -> int:
    """Return where a function is: in what mpi4py is linked to, or anywhere in this process."""
    for place in (library, ctypes.CDLL(None)):
        if function := getattr(place, name, None):
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise TransportError(f"the MPI library has no function {name}")
