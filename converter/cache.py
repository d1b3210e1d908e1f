"""Model folders that are converted on first use, in the user's cache folder."""

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

# Increase this whenever a conversion writes something different.
VERSION = 1


def cached_model(path: Path, progress: bool = True) -> Path:
    """Return the model folder of a GGUF file, converting the file on first use.

    The weights get the type closest to that in the file. The file is converted again when its size
    or modification time has changed, and the old folder is removed.

    Raises:
        ModelError: the file is not a GGUF file.
        DllamaError: whatever `convert` raises.
    """
    if not GgufFile.recognises(path):
        raise ModelError(f"{path}: not a GGUF file")
    place = cache_folder() / "models" / f"{path.stem}-{_digest(str(path.resolve()))}"
    status = path.stat()
    target = place / _digest(f"{VERSION} {status.st_size} {status.st_mtime_ns}")
    if not (target / "model.m").is_file():
        _convert(path, target, progress)
        _remove_others(place, target)
    return target


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/dllama or ~/.cache/dllama (XDG Base Directory Specification)."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return base / "dllama"


def _convert(path: Path, target: Path, progress: bool) -> None:
    """Convert a file; another process may do the same and finish first."""
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
    """Remove folders of earlier states of the file. Unfinished ones start with a dot and stay."""
    for folder in place.iterdir():
        if folder != target and not folder.name.startswith("."):
            shutil.rmtree(folder, ignore_errors=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
