"""Weights that a worker keeps between sessions: the last ones in memory, others on disk.

The root asks for weights by the SHA-256 of their bytes as it would send them (sent_weights.py).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.comm.link import Link
from dllama.cluster import protocol
from dllama.cluster.protocol import Kind
from dllama.cluster.weights.shard_folder import NewShard, ShardFolder
from dllama.cluster.weights.weight_transfer import LinkSource, ShardSource, pieces
from dllama.errors import FormatError
from dllama.graph.graph import Graph, TensorSlice
from dllama.graph.weights import Weights, graph_nbytes, load
from dllama.model.weight_types import WeightType

TELLING = 0.25  # of the timeout: how often a worker that reads says so

log = logging.getLogger("dllama.worker")


class KeptWeights:
    """The weights of earlier sessions, so that roots need not send them again. Close it.

    Call find and then get, once for a session.

    Args:
        folder: where shards are kept on disk; None for memory alone.
        keeps: whether there will be another session.
    """

    def __init__(self, folder: ShardFolder | None = None, keeps: bool = True) -> None:
        self.keeps = keeps
        self._folder = folder
        self._weights: Weights | None = None
        self._name = ("", "")  # of the weights in memory
        self._found: tuple[str, FileIO] | None = None  # on disk, by find
        self._new: NewShard | None = None

    def find(self, digest: str, graph: Graph) -> bool:
        """Return whether weights seem to be here.

        Args:
            digest: SHA-256 of the bytes of the shard, "" for an unknown one.
            graph: of the worker.
        """
        self._close_found()
        if digest and self._folder and not self._in_memory(digest, graph):
            file = self._folder.open(digest, graph_nbytes(graph))
            self._found = (digest, file) if file else None
        return self._found is not None or self._in_memory(digest, graph)

    def get(
        self,
        digest: str,
        graph: Graph,
        link: Link,
        threads: int,
        check: Callable[[], object] = lambda: None,
    ) -> Weights:
        """Return the weights that find was asked for: from memory, from disk, or from the root.

        Args:
            digest, graph: as for find.
            link: control link of the root.
            threads: how many threads pack.
            check: called after each piece; its errors pass through.

        Raises:
            ProtocolError, TransportError, FormatError: the root sends something wrong, or is gone.
            MemoryError: the weights do not fit.
        """
        if self._in_memory(digest, graph):
            protocol.send_json(link, Kind.WEIGHTS, {"have": True})
        else:
            self._weights = None  # makes room for the new ones
            weights = self._read(graph, link, threads, check) if self._found else None
            self._weights = weights or self._receive(graph, link, threads, check)
        assert self._weights is not None
        return self._weights

    def close(self, patience: float) -> None:
        """Let go of files; patience: seconds at most to wait until one is written."""
        self._close_found()
        if self._new:
            self._new.wait(patience)

    def _close_found(self) -> None:
        if self._found:
            self._found[1].close()
            self._found = None

    def _in_memory(self, digest: str, graph: Graph) -> bool:
        """Return whether the weights in memory are these."""
        return self._weights is not None and digest != "" and self._name == _name(digest, graph)

    def _read(
        self, graph: Graph, link: Link, threads: int, check: Callable[[], object]
    ) -> Weights | None:
        """Return the weights in the file that was found, None if it is damaged."""
        assert self._found
        assert self._folder
        digest, file = self._found
        begin = time.monotonic()
        with FileShard(file) as source:
            try:
                weights = load(graph, source, threads, _teller(link, check))
                damage = source.damage(digest)
            except (FormatError, OSError) as error:
                damage = str(error)
        self._found = None
        if damage:
            self._folder.drop(digest, damage)
        else:
            self._name = _name(digest, graph)
            log.info("read %s in %.1f s", file.name, time.monotonic() - begin)
        protocol.send_json(link, Kind.WEIGHTS, {"have": not damage})
        return None if damage else weights

    def _receive(
        self, graph: Graph, link: Link, threads: int, check: Callable[[], object]
    ) -> Weights:
        """Return the weights that the root sends, and keep them."""
        digest = hashlib.sha256()
        self._new = self._folder.new(graph_nbytes(graph)) if self._folder else None

        def seen(piece: memoryview) -> None:
            check()
            if self.keeps:
                digest.update(piece)
            if self._new:
                self._new.add(piece)

        try:
            weights = load(graph, LinkSource(link, seen), threads)
        except BaseException:
            if self._new:
                self._new.abandon()
            raise
        if self._new:
            self._new.finish(digest.hexdigest())
        self._name = _name(digest.hexdigest(), graph)
        return weights


class FileShard(ShardSource):
    """A shard in a file. Close it, or use it in a with statement.

    Args:
        file: where it is read from, unbuffered; closed too.
    """

    def __init__(self, file: FileIO) -> None:
        super().__init__(file.name)
        self._file = file
        self._digest = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1)  # a piece is hashed while it is packed

    def read(self, piece: TensorSlice, kind: WeightType) -> Iterator[NDArray[np.uint8]]:
        """Read the rows of a slice; FormatError if the file ends before."""
        for rows in pieces(piece, kind):
            flat, done = rows.reshape(-1).data, 0
            while done < len(flat):
                count = self._file.readinto(flat[done:])
                if not count:
                    raise FormatError(self.name, "a shard", "the end of the file", "more bytes")
                done += count
            hashed = self._hasher.submit(self._digest.update, flat)
            yield rows
            hashed.result()

    def damage(self, digest: str) -> str:
        """Return what is wrong with what was read, "" if nothing is."""
        found = self._digest.hexdigest()
        return "" if found == digest else f"its SHA-256 is {found}"

    def __enter__(self) -> FileShard:
        return self

    def __exit__(self, *_: object) -> None:
        self._hasher.shutdown()
        self._file.close()


def _teller(link: Link, check: Callable[[], object]) -> Callable[[int], None]:
    """Return a function that counts bytes, and now and then tells the root how many there are."""
    loaded, told = 0, time.monotonic()

    def count(nbytes: int) -> None:
        nonlocal loaded, told
        check()
        loaded += nbytes
        if time.monotonic() > told + TELLING * link.timeout:
            told = time.monotonic()
            protocol.send_json(link, Kind.WEIGHTS, {"loaded": loaded})

    return count


def _name(digest: str, graph: Graph) -> tuple[str, str]:
    """Return what tells weights in memory from others: their bytes, and how they are packed."""
    return digest, f"{graph.matrices} {graph.vectors}"
