"""The thread that accepts connections, and the threads that greet them.

It goes on as long as the listener does, whatever this machine or process runs out of.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import threading
import time
from collections.abc import Callable

from dllama._kernels.comm.link import Link
from dllama.cluster.lobby import Lobby
from dllama.errors import ExhaustedError, TransportError
from dllama.transports import Listener

log = logging.getLogger("dllama.worker")

TICK = 0.1  # seconds between looks at whether to stop
BACKOFF = 0.1  # seconds to wait when there are no files, threads or memory left
SILENCE = 60.0  # seconds in which the same trouble is logged once


class Acceptor:
    """Accepts connections until it is stopped.

    Args:
        listener: where nodes connect.
        lobby: where connections are until they are greeted.
        greet: called with each link in a thread of its own. It leaves the lobby, and closes the
            link unless somebody else does.

    Attributes:
        failure: why it ended by itself.
    """

    def __init__(self, listener: Listener, lobby: Lobby, greet: Callable[[Link], None]) -> None:
        self._listener = listener
        self._lobby = lobby
        self._greet = greet
        self._stopped = threading.Event()
        self._silent_until = 0.0
        self.failure: TransportError | None = None
        self._thread = threading.Thread(target=self._run, name="accept", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Accept no more, and wait for the end of the thread."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                link = self._listener.accept(TICK)
                if link is not None:
                    self._begin(link)
            except (ExhaustedError, MemoryError, RuntimeError) as error:
                self._make_do(error)
                self._lobby.make_room()
            except TransportError as error:
                self.failure = error
                return

    def _begin(self, link: Link) -> None:
        """Greet a connection. Strangers give way until a thread can be started for it."""
        self._lobby.enter(link)
        while not self._stopped.is_set():
            try:
                # Not a threading.Thread: its start waits for the thread, which may end before it
                # says that it began, if memory is short.
                _thread.start_new_thread(self._greet, (link,))
                return
            except (MemoryError, RuntimeError) as error:
                self._make_do(error)
                if not self._lobby.make_room(but=link):
                    break
        self._lobby.leave(link)
        link.close()

    def _make_do(self, error: Exception) -> None:
        """Wait until there may be room again, and say why, but not all the time."""
        with contextlib.suppress(MemoryError):
            now = time.monotonic()
            if now > self._silent_until:
                told = str(error) or "out of memory"
                log.error("%s: connections are slow until this is over", told)
                self._silent_until = now + SILENCE
        self._stopped.wait(BACKOFF)
