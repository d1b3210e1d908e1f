"""How a file of a model is recognised."""

from __future__ import annotations

from pathlib import Path

from dllama.errors import ModelError

GGUF_MAGIC = b"GGUF"


def is_gguf(path: Path) -> bool:
    """Whether the path is a GGUF file, of either byte order; ModelError if it cannot be read."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(8).startswith((GGUF_MAGIC, GGUF_MAGIC[::-1]))
    except OSError as error:
        raise ModelError(f"{path}: cannot read: {error.strerror}") from error
