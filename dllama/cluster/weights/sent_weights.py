"""What the root has sent to workers: the SHA-256 of every shard, by model file and graph.

A worker is asked for weights by the SHA-256 of their bytes. So whatever it keeps, it computes with
nothing but what this root, or one with the same bytes, would send. The root notes the SHA-256 while
it sends. Notes may be lost at any time: the shard is sent again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from pathlib import Path

from dllama.cluster.messages import DIGEST
from dllama.cluster.weights.weight_transfer import model_digest
from dllama.graph.graph import Graph
from dllama.model.stored_model import StoredModel
from dllama.runtime.kept_file import cache_folder
from dllama.scratch import Scratch

MOST = 1000  # notes
PREFIX = ".sent-"

_noted: dict[str, str] = {}  # in this process, if the folder cannot be written
_lock = threading.Lock()


def notes_file() -> Path:
    """Return where notes are."""
    return cache_folder() / "sent.json"


class SentWeights:
    """Shards of a model that were sent.

    Args:
        model: the open model.
    """

    def __init__(self, model: StoredModel) -> None:
        self._model = model_digest(model)

    def digest(self, graph: Graph) -> str:
        """Return the SHA-256 of a worker's shard in hex, "" if it is not known."""
        key = self._key(graph)
        with _lock:
            digest = _noted.get(key) or _read(notes_file()).get(key, "")
        return digest if isinstance(digest, str) and DIGEST.fullmatch(digest) else ""

    def remember(self, graph: Graph, digest: str) -> None:
        """Note the SHA-256 of a worker's shard."""
        key, path = self._key(graph), notes_file()
        with _lock, contextlib.suppress(OSError, RuntimeError):
            _noted[key] = digest
            path.parent.mkdir(parents=True, exist_ok=True)
            notes = _read(path)
            notes.pop(key, None)
            notes[key] = digest
            _write(path, dict(list(notes.items())[-MOST:]))

    def _key(self, graph: Graph) -> str:
        """Return a name for a shard of the model."""
        text = f"{self._model} {graph.matrices} {graph.vectors}"
        return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> dict[str, str]:
    """Return all notes, none if there is no file or a damaged one."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        notes = json.loads(path.read_bytes())
        return notes if isinstance(notes, dict) else {}
    return {}


def _write(path: Path, notes: dict[str, str]) -> None:
    """Replace the file by one with these notes; OSError."""
    with Scratch(path.parent, PREFIX) as scratch:
        new = scratch.path / path.name
        new.write_text(json.dumps(notes, indent=0), encoding="utf-8")
        new.replace(path)
