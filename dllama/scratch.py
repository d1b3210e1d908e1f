"""Folders for work in progress, which no process leaves behind for good, and locks.

A folder is locked as long as its process lives. What a process left that was killed is removed by
the next one that works at the same place.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RANDOM = re.compile("[a-z0-9_]{8}")  # the end of a name
YOUNG = 60.0  # seconds
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux


@contextmanager
def locked(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Keep all other processes out that lock the same path.

    Args:
        path: of a file that is there as long as somebody holds the lock or waits for it.
        waiting: called if another process is in.

    Raises:
        OSError: the file cannot be made or locked.
    """
    lock = _lock(path, waiting)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _lock(path: Path, waiting: Callable[[], object]) -> int:
    """Return a locked file with this path."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), path.stat()):
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # the process that held the lock has removed this file


class Scratch:
    """A new folder, for a with statement.

    Args:
        parent: where it is. What others left there with the same prefix is removed.
        prefix: how its name begins. No other folder there may have such a name.
        young: seconds for which a folder may be without a lock, because its process begins.

    Attributes:
        path: the folder.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, parent: Path, prefix: str, young: float = YOUNG) -> None:
        sweep(parent, prefix, young)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock: int | None = os.open(self.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder with all that is in it; a second call does nothing."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def sweep(parent: Path, prefix: str, young: float = YOUNG) -> None:
    """Remove the folders of processes that do not live any more; the arguments are Scratch's."""
    for path in parent.iterdir():
        if path.name.startswith(prefix) and RANDOM.fullmatch(path.name, len(prefix)):
            with suppress(OSError):  # another process removes it, or it belongs to another user
                _remove_left(path, young)


def _remove_left(path: Path, young: float) -> None:
    """Remove a folder unless a process has it; OSError."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(lock)
        if found.st_uid == os.getuid() and time.time() - found.st_mtime >= young:
            shutil.rmtree(path)
    finally:
        os.close(lock)


def put(folder: Path, target: Path) -> None:
    """Give a finished folder the name of another one, which is then what it was called.

    After a loss of power the target is the old folder or the new one, and whole.

    Args:
        folder: is at the target afterwards; what was there, unless nothing was, is here.
        target: in the same parent.

    Raises:
        OSError: it cannot be done.
    """
    for name, folders, files in os.walk(folder):
        for one in (*folders, *files):
            sync(Path(name, one))
    sync(folder)
    try:
        folder.rename(target)  # an empty folder gives way
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _exchange(folder, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(one: Path, other: Path) -> None:
    """Exchange the names of two folders, at once where the file system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    paths = os.fsencode(one), os.fsencode(other)
    if rename and rename(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0:
        return
    if rename and ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    aside = Path(tempfile.mkdtemp(dir=one.parent, prefix=f"{one.name}.")) / "old"
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)
    aside.parent.rmdir()
