"""Model folders made on first use, in the user's cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

from dllama.converter.convert import convert
from dllama.converter.sources.gguf import GgufFile
from dllama.errors import ModelError, OutputError

log = logging.getLogger("dllama.convert")

# Goes up with every change of what a conversion writes.
VERSION = 1


def cached_model(path: Path, progress: bool = True) -> Path:
    """The model folder of a GGUF file, converted with its nearest type of weights on first use.

    It is made anew when size or time of the file change, and the old one goes away. Raises what
    convert raises, ModelError where the file is no GGUF file.
    """
    if not GgufFile.recognises(path):
        raise ModelError(f"{path}: is no GGUF file")
    place = cache_folder() / "models" / f"{path.stem}-{_digest(str(path.resolve()))}"
    status = path.stat()
    target = place / _digest(f"{VERSION} {status.st_size} {status.st_mtime_ns}")
    if not (target / "model.m").is_file():
        _convert(path, target, progress)
        _remove_others(place, target)
    return target


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/dllama, or ~/.cache/dllama (XDG Base Directory Specification)."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return base / "dllama"


def _convert(path: Path, target: Path, progress: bool) -> None:
    """Convert; another process may do the same and be first."""
    log.info("%s: converting into %s", path, target)
    try:
        report = convert(path, target, progress=progress)
    except OutputError:
        if (target / "model.m").is_file():
            return
        raise
    for warning in report.warnings:
        log.warning("%s", warning)


def _remove_others(place: Path, target: Path) -> None:
    """Remove what earlier states of the file gave; a dot begins what is still being written."""
    for folder in place.iterdir():
        if folder != target and not folder.name.startswith("."):
            shutil.rmtree(folder, ignore_errors=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
