"""Messages of an MPI library, over whatever connects the ranks that a launcher started.

mpi_job.py starts MPI, comm/mpi_stream.h has the half that is called without the GIL.
"""

import atexit
import re
import time

from libc.stdint cimport int32_t, int64_t, intptr_t, uintptr_t

from dllama._kernels.comm.link cimport Link, dl_link, dl_link_ops, failure

from dllama.errors import ConfigError, TransportError, TransportTimeoutError
from dllama.transports.base import Launched, Listener, Transport
from dllama.transports.mpi_job import job


cdef extern from "comm/mpi_stream.h" nogil:
    enum:
        DL_MPI_CONNECT
        DL_MPI_FAREWELL
        DL_MPI_FIRST
    ctypedef uintptr_t dl_mpi_handle
    ctypedef struct dl_mpi:
        void *isend
        void *issend
        void *irecv
        void *test
        void *get_count
        void *cancel
        void *iallreduce
        dl_mpi_handle comm
        dl_mpi_handle byte
        dl_mpi_handle real
        dl_mpi_handle sum
        dl_mpi_handle in_place
        int any_source
    ctypedef struct dl_mpi_stream:
        pass
    ctypedef struct dl_mpi_call:
        int32_t rank
        int32_t number
    int64_t dl_mpi_link_send(dl_link *link, const void *data, int64_t n)
    int64_t dl_mpi_link_recv(dl_link *link, void *data, int64_t n)
    void dl_mpi_wait(dl_link *const *links, int *events, int n, int64_t nanoseconds)
    void dl_mpi_shutdown(dl_link *link)
    int dl_mpi_link_sum(dl_link *link, const float *src, float *dst, int64_t n)
    dl_mpi_stream *dl_mpi_open(const dl_mpi *mpi, int peer, int number, int opened)
    void dl_mpi_ring(dl_mpi_stream *s, int own)
    int dl_mpi_answered(dl_mpi_stream *s)
    int dl_mpi_settle(dl_mpi_stream *s)
    int dl_mpi_expect(const dl_mpi *mpi, void *into, int n, int peer, int tag,
                      dl_mpi_handle *request)
    int dl_mpi_signal(const dl_mpi *mpi, int peer, int tag, dl_mpi_handle *request)
    int dl_mpi_finished(const dl_mpi *mpi, dl_mpi_handle *request)
    int dl_mpi_give_up(const dl_mpi *mpi, dl_mpi_handle *request)

cdef extern from "errno.h" nogil:
    int ECONNRESET

cdef enum:
    POSTED_CALLS = 16

ADDRESS = re.compile(r"mpi://(\d{1,9}|self)(?:@.*)?", re.ASCII)
LEAVING = 2.0       # seconds that other ranks have to say that they leave too
NAP, LONG_NAP = 0.0002, 0.005   # seconds between looks at who calls

cdef dl_link_ops OPS
OPS.send_some = dl_mpi_link_send
OPS.recv_some = dl_mpi_link_recv
OPS.wait = dl_mpi_wait
OPS.shutdown = dl_mpi_shutdown
OPS.sum_some = dl_mpi_link_sum


cdef class MpiLink(Link):
    """A link over two streams of messages, one for each direction."""

    def __cinit__(self, str peer):
        self.peer = peer
        self.hot.ops = &OPS

    @property
    def exposed(self):
        """Whether others may read or alter its bytes: whoever starts an MPI job decides that."""
        return False

    def close(self):
        if self.hot.own != NULL:
            self.hot.ops.shutdown(&self.hot)
            ranks().ending.append(<uintptr_t> self.hot.own)
            self.hot.own = NULL
        Link.close(self)

    def detach(self):
        """Give the stream to another link, and close this one."""
        cdef MpiLink other = MpiLink(self.peer)
        if self.hot.own == NULL or self.hot.error:
            raise failure(self.hot.error, "using", self.peer, self.timeout)
        other.hot.own, self.hot.own = self.hot.own, NULL
        Link.close(self)
        return other


cdef class Ranks:
    """The ranks of the job: tags of streams, streams that end, and how all ranks end together.

    Rank 0 ends when its program does. It sends a farewell to the others, which reply before they
    end. Who gets none ends the job the hard way, so that no rank is left waiting.
    """

    cdef dl_mpi mpi
    cdef object job
    cdef int next                   # number of the last stream that was opened here
    cdef list ending                # addresses of streams that were shut down and have not settled
    cdef dl_mpi_handle farewell     # of rank 0, as other ranks wait for it
    cdef bint dismissed

    def __init__(self):
        self.job = job()
        functions = self.job.functions
        self.mpi.isend = <void *> <uintptr_t> functions["isend"]
        self.mpi.issend = <void *> <uintptr_t> functions["issend"]
        self.mpi.irecv = <void *> <uintptr_t> functions["irecv"]
        self.mpi.test = <void *> <uintptr_t> functions["test"]
        self.mpi.get_count = <void *> <uintptr_t> functions["get_count"]
        self.mpi.cancel = <void *> <uintptr_t> functions["cancel"]
        self.mpi.iallreduce = <void *> <uintptr_t> functions["iallreduce"]
        self.mpi.comm, self.mpi.byte = self.job.comm, self.job.byte
        self.mpi.real, self.mpi.sum = self.job.real, self.job.sum
        self.mpi.in_place = <dl_mpi_handle> <intptr_t> self.job.in_place
        self.mpi.any_source = self.job.any_source
        self.ending = []
        if self.job.rank:
            dl_mpi_expect(&self.mpi, NULL, 0, 0, DL_MPI_FAREWELL, &self.farewell)
        atexit.register(self.leave)

    cdef int number(self):
        """The number of the next stream that this rank opens."""
        self.next = self.next + 1 if self.next < self.job.last_tag // 2 else DL_MPI_FIRST
        return self.next

    cdef MpiLink link(self, int peer, int number, bint opened):
        """A link over a stream."""
        cdef MpiLink link = MpiLink(self.job.addresses[peer])
        self.settle()
        link.hot.own = dl_mpi_open(&self.mpi, peer, number, opened)
        if link.hot.own == NULL:
            raise MemoryError(f"no memory for a link to {link.peer}")
        return link

    def settle(self):
        """Let streams end that were shut down."""
        streams, self.ending = self.ending, []
        self.ending += [s for s in streams if not dl_mpi_settle(<dl_mpi_stream *> <uintptr_t> s)]

    def is_dismissed(self):
        """Whether rank 0 has said farewell."""
        if not self.dismissed and self.job.rank:
            self.dismissed = dl_mpi_finished(&self.mpi, &self.farewell) != 0
        return self.dismissed

    def leave(self):
        """End together with the other ranks, or end them."""
        end = time.monotonic() + LEAVING
        left = self._dismiss(end) if self.job.rank == 0 else self._reply(end)
        while self.ending and time.monotonic() < end and not left:
            self.settle()
            time.sleep(NAP)
        if left:
            self.job.abort()

    def _dismiss(self, double end):
        """Send a farewell to all others; return how many do not reply."""
        cdef dl_mpi_handle[512] requests
        cdef int n = min(256, self.job.size), r
        for r in range(1, n):
            dl_mpi_expect(&self.mpi, NULL, 0, r, DL_MPI_FAREWELL, &requests[r])
            dl_mpi_signal(&self.mpi, r, DL_MPI_FAREWELL, &requests[256 + r])
        waiting = [*range(1, n), *range(257, 256 + n)]
        while waiting and time.monotonic() < end:
            waiting = [i for i in waiting if not dl_mpi_finished(&self.mpi, &requests[<int> i])]
            time.sleep(NAP)
        return len(waiting)

    def _reply(self, double end):
        """Wait for the farewell and reply; return whether it did not come."""
        cdef dl_mpi_handle request
        while not self.is_dismissed():
            if time.monotonic() > end:
                return True
            time.sleep(NAP)
        dl_mpi_signal(&self.mpi, 0, DL_MPI_FAREWELL, &request)
        while not dl_mpi_finished(&self.mpi, &request) and time.monotonic() < end:
            time.sleep(NAP)
        return False


_ranks = []


cdef Ranks ranks():
    if not _ranks:
        _ranks.append(Ranks())
    return _ranks[0]


class MpiListener(Listener):
    """Waits for calls of other ranks; there is one listener at a time."""

    def __init__(self, address):
        self.address = address
        self._calls = Calls()

    def accept(self, timeout):
        cdef Ranks all = ranks()
        end, nap = time.monotonic() + timeout, NAP
        while True:
            if self._calls is None:
                raise TransportError(f"listening at {self.address}: closed")
            found = self._calls.take()
            if found is not None:
                return found
            if time.monotonic() >= end:
                return None
            all.settle()
            time.sleep(min(nap, max(0.0, end - time.monotonic())))
            nap = min(LONG_NAP, 1.2 * nap)

    def close(self):
        if self._calls is not None:
            self._calls.close()
            self._calls = None

    @property
    def ended(self):
        """Whether rank 0 has ended, so that nobody will call."""
        return ranks().is_dismissed()


cdef class Calls:
    """Receives calls; several may come before one is answered."""

    cdef dl_mpi_call[POSTED_CALLS] calls
    cdef dl_mpi_handle[POSTED_CALLS] requests
    cdef int first                  # the call that comes next
    cdef Ranks ranks

    def __init__(self):
        self.ranks = ranks()
        for i in range(POSTED_CALLS):
            self._expect(i)

    cdef _expect(self, int i):
        dl_mpi_expect(&self.ranks.mpi, &self.calls[i], sizeof(dl_mpi_call),
                      self.ranks.mpi.any_source, DL_MPI_CONNECT, &self.requests[i])

    def take(self):
        """The link of a rank that has called and did not give up since, or None."""
        cdef MpiLink link
        cdef dl_mpi_call call
        while dl_mpi_finished(&self.ranks.mpi, &self.requests[self.first]):
            call = self.calls[self.first]
            self._expect(self.first)
            self.first = (self.first + 1) % POSTED_CALLS
            link = self.ranks.link(call.rank, call.number, False)
            if not link.ended():
                return link
            link.close()
        return None

    def close(self):
        """Stop receiving."""
        cdef int i
        for i in range(POSTED_CALLS):
            dl_mpi_give_up(&self.ranks.mpi, &self.requests[i])
            while not dl_mpi_finished(&self.ranks.mpi, &self.requests[i]):
                time.sleep(NAP)


class Mpi(Transport):
    name = "mpi"
    scheme = "mpi"
    local = True

    def __init__(self):
        self._listener = None

    def launched(self):
        if job().size == 1:
            raise ConfigError("transport mpi: this process is the only rank, start the nodes with "
                              "mpirun -n N dllama ...")
        ranks()  # so that all end together
        return Launched(job().rank, job().addresses, job().sharers)

    def listen(self, address):
        rank = _rank(address)
        if rank != job().rank:
            raise TransportError(f"listening at {address}: this process is rank {job().rank}")
        if self._listener is not None and self._listener._calls is not None:
            raise TransportError(f"listening at {address}: another listener is there")
        self._listener = MpiListener(job().addresses[rank])
        return self._listener

    def connect(self, address, timeout):
        cdef MpiLink link
        cdef Ranks all
        rank = _rank(address)
        if rank >= job().size:
            raise TransportError(f"connecting to {address}: there are {job().size} ranks")
        all = ranks()
        link = all.link(rank, all.number(), True)
        dl_mpi_ring(<dl_mpi_stream *> link.hot.own, job().rank)
        end = time.monotonic() + timeout
        while not dl_mpi_answered(<dl_mpi_stream *> link.hot.own):
            if time.monotonic() > end:
                link.close()
                raise TransportTimeoutError(
                    f"connecting to {address}: no reply within {timeout:g} s")
            time.sleep(NAP)
        return link

    def adopt(self, link):
        return link.detach()

    def local_address(self, folder, rank):
        return "mpi://self"


def _rank(address):
    """The rank in an address."""
    found = ADDRESS.fullmatch(address)
    if not found:
        raise ConfigError(f"address is {address!r}, expected mpi://RANK")
    return job().rank if found[1] == "self" else int(found[1])


TRANSPORT = Mpi()
