"""The conformance suite on the transport mpi, between two ends in one rank: run by test_mpi.py.

MPI starts once in a process and stays, so this has a process of its own.
"""

from __future__ import annotations

import contextlib

from dllama import transports
from dllama.transports.conformance import LIMIT, Conformance


class TestMpi(Conformance):
    transport = transports.get("mpi")
    test_a_killed_peer_is_noticed = None  # MPI ends the whole job

    @contextlib.contextmanager
    def pair(self, folder):
        """A rank has one listener, so it closes before the next pair is made."""
        with self.transport.listen(self.address(folder)) as listener:
            near = self.transport.connect(listener.address, LIMIT)
            far = listener.accept(LIMIT)
        with near, far:
            near.timeout = far.timeout = LIMIT
            yield near, far
