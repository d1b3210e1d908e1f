"""A worker's shards on disk: files that are named by the SHA-256 of their bytes.

A file is written beside, and gets its name when all of it is on the disk. So a file with a name is
whole unless the disk damaged it, which reading finds out. Several workers may share a folder.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from io import FileIO
from pathlib import Path

from dllama.scratch import Scratch, locked, sweep, sync

log = logging.getLogger("dllama.worker")

SUFFIX = ".shard"
PREFIX = ".shard-"  # of folders in which shards are written
LOCK = ".lock"
WAITING = 16  # pieces that may wait for the disk
PATIENCE = 2.0  # seconds that the root waits for the disk
GB = 1e9


class ShardFolder:
    """The shards that were used last, up to a size.

    Args:
        path: the folder. It is made if it is not there.
        most: bytes of all files together, those that are being written included.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(self, path: Path, most: int) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._most = most
        with self._alone():
            sweep(path, PREFIX, young=0.0)
            self._make_room(0)

    def open(self, digest: str, nbytes: int) -> FileIO | None:
        """Return the file of a shard, None if there is none of this size."""
        path = self._file(digest)
        try:
            file = open(path, "rb", buffering=0, opener=_open_plainly)  # noqa: SIM115
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s: %s", path, error.strerror)
            return None
        with suppress(OSError):
            os.utime(file.fileno())
        if (found := os.fstat(file.fileno()).st_size) == nbytes:
            return file
        file.close()
        self.drop(digest, f"{found} bytes, expected {nbytes}")
        return None

    def drop(self, digest: str, why: object) -> None:
        """Remove a damaged file, and say so."""
        path = self._file(digest)
        log.warning("%s is damaged and removed: %s", path, why)
        with suppress(OSError):
            path.unlink()

    def new(self, nbytes: int) -> NewShard | None:
        """Begin a file of some bytes, for which older ones may have to go.

        Returns:
            None if there is no room, after a line in the log.
        """
        try:
            with self._alone():
                sweep(self.path, PREFIX, young=0.0)
                self._make_room(nbytes)
                free = os.statvfs(self.path)
                if nbytes > free.f_bavail * free.f_frsize:
                    raise OSError(None, "too little space is left on the disk")
                scratch = Scratch(self.path, PREFIX, young=0.0)
                return NewShard(scratch, nbytes, self._file)
        except OSError as error:
            _complain(self.path, error)
            return None

    def _file(self, digest: str) -> Path:
        """Return the path of a shard."""
        return self.path / (digest + SUFFIX)

    def _alone(self) -> AbstractContextManager[None]:
        """Keep other workers out, for a with statement; OSError."""
        return locked(self.path / LOCK, lambda: None)

    def _make_room(self, nbytes: int) -> None:
        """Remove what was not used for longest; OSError if that is not enough."""
        if nbytes > self._most:
            raise OSError(None, f"{nbytes / GB:.2f} GB are more than {self._most / GB:g} GB")
        written = sum(map(_written, self.path.glob(f"{PREFIX}*")))
        files = sorted(self.path.glob(f"*{SUFFIX}"), key=_used)
        sizes = [_size(path) for path in files]
        over = written + sum(sizes) + nbytes - self._most
        for path, size in zip(files, sizes, strict=True):
            if over > 0:
                path.unlink(missing_ok=True)
                log.info("%s is removed to make room", path)
                over -= size
        if over > 0:
            raise OSError(None, "other workers write too much at the moment")


class NewShard:
    """A shard that is being written, by a thread of its own. Finish or abandon it.

    If the disk fails or falls behind, it is abandoned after a line in the log.

    Args:
        scratch: a folder of its own, which is removed at the end.
        nbytes: of the shard.
        file: returns the path of a shard.
    """

    def __init__(self, scratch: Scratch, nbytes: int, file: Callable[[str], Path]) -> None:
        self._scratch = scratch
        self._path = scratch.path / "shard"
        self._file = file
        self._pieces: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._digest = ""
        self._failed = False
        try:
            self._path.touch(0o600)
            os.truncate(self._path, nbytes)  # so that other workers know what it will take
        except BaseException:
            scratch.remove()
            raise
        self._thread = threading.Thread(target=self._write, name="shard", daemon=True)
        self._thread.start()

    def add(self, piece: memoryview) -> None:
        """Write the next bytes, soon."""
        if not self._failed:
            try:
                self._pieces.put(bytes(piece), timeout=PATIENCE)
            except queue.Full:
                self._fail(OSError(None, "the disk is too slow"))

    def finish(self, digest: str) -> None:
        """Give the file its name, soon."""
        self._digest = digest
        self._end()

    def abandon(self) -> None:
        """Remove what was written, soon."""
        self._failed = True
        self._end()

    def wait(self, seconds: float) -> None:
        """Wait for the end of writing."""
        self._thread.join(seconds)

    def _end(self) -> None:
        """Tell the thread that no more pieces come."""
        try:
            self._pieces.put(None, timeout=PATIENCE)
        except queue.Full:
            self._failed = True  # which it will see once the disk lets go of it

    def _write(self) -> None:
        """Write pieces until there are no more, then rename the file."""
        try:
            with self._scratch, self._path.open("r+b") as file:
                while (piece := self._pieces.get()) is not None and not self._failed:
                    file.write(piece)
                if self._digest and not self._failed:
                    file.flush()
                    os.fsync(file.fileno())
                    target = self._file(self._digest)
                    self._path.replace(target)
                    sync(target.parent)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Give up, and say so once."""
        if not self._failed:
            self._failed = True
            _complain(self._scratch.path.parent, error)


def _open_plainly(path: str, flags: int) -> int:
    """Open a file, neither through a link nor waiting for the other end of a pipe; OSError."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _complain(folder: Path, error: OSError) -> None:
    log.warning("the weights are not kept in %s: %s", folder, error.strerror)


def _size(path: Path) -> int:
    """Return the size of a file, 0 if it has just gone."""
    with suppress(OSError):
        return path.lstat().st_size
    return 0


def _written(folder: Path) -> int:
    """Return the size of what is being written in a folder, 0 if it has just gone."""
    with suppress(OSError):
        return sum(map(_size, folder.iterdir()))
    return 0


def _used(path: Path) -> int:
    """Return when a file was used last, in nanoseconds."""
    with suppress(OSError):
        return path.lstat().st_mtime_ns
    return 0
