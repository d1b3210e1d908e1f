"""Downloads what a conversion needs from repositories on Hugging Face.

A file grows under a name that ends in .part, and an interrupted download resumes there. It gets
its own name once its hash equals the one that the hub reports.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dllama.converter.convert import read_spec
from dllama.converter.extras import require
from dllama.converter.sources.huggingface import (
    ADAPTER,
    FILES,
    INDEX,
    read_weight_map,
    refuse_adapter,
)
from dllama.converter.sources.quantised import read_scheme
from dllama.converter.tensors import all_places, refuse_unused
from dllama.converter.tokenizers.folder import COPIED
from dllama.errors import ConfigError, DllamaError, ModelError, OutputError, UnsupportedError
from dllama.json_file import read_json
from dllama.model.weight_types import WeightType
from dllama.scratch import locked

log = logging.getLogger("dllama.converter")

REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
PLAIN = re.compile(r"[\w-][\w.-]*")
SMALL = ("config.json", "added_tokens.json", *COPIED)
OTHER_TOKENIZERS = ("tokenizer.model", "tekken.json")
CHUNK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        name: path in the repository.
        size: bytes.
        sha256: hash of the content, for large files.
        blob_id: git's hash of the blob.
    """

    name: str
    size: int
    sha256: str | None
    blob_id: str | None


class Hub:
    """One revision of a repository.

    Args:
        repo: OWNER/NAME.
        revision: branch, tag or commit. Default: main.
        endpoint: URL of the hub. Default: $HF_ENDPOINT or huggingface.co.
        progress: whether to show a progress bar for each file.

    Raises:
        ConfigError: `repo` is malformed.
        UnsupportedError: the package huggingface_hub is not installed.
        ModelError: the hub does not respond or has no such revision.
    """

    def __init__(
        self,
        repo: str,
        revision: str | None = None,
        endpoint: str | None = None,
        progress: bool = True,
    ) -> None:
        if not REPOSITORY.fullmatch(repo):
            raise ConfigError(f"REPO is {repo!r}, expected OWNER/NAME")
        self.repo = repo
        self._api = self._module("hf_api").HfApi(
            endpoint=endpoint.rstrip("/") if endpoint else None
        )
        if not progress:
            self._module("utils").disable_progress_bars()
        with self._errors("list its files"):
            info = self._api.model_info(repo, revision=revision, files_metadata=True)
            self.commit = str(info.sha)
            self.files = {file.name: file for file in map(_remote, info.siblings)}
        if not PLAIN.fullmatch(self.commit):
            raise ModelError(f"{repo}: the hub reports the revision {self.commit!r}")

    @property
    def folder(self) -> Path:
        """Where the downloaded files are."""
        return cache_folder() / "hub" / self.repo.replace("/", "--") / self.commit

    def get(self, name: str) -> Path:
        """Download a file unless it is already there, and check its hash."""
        file = self.files.get(name)
        if file is None or not PLAIN.fullmatch(name):
            raise ModelError(f"{self.repo}: has no file {name!r} at {self.commit[:12]}")
        target = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (target.is_file() and _is_whole(target, file)):
                self._download(file, target)
        except DllamaError:
            raise
        except OSError as error:
            raise OutputError(f"{target}: cannot write: {error.strerror or error}") from error
        return target

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from these files, and wait until they have done with them."""

        def waiting() -> None:
            log.warning("%s: waits for another process that downloads it", self.repo)

        path = self.folder.with_name(f"{self.commit}.lock")
        with ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(path, waiting))
            except OSError as error:
                raise OutputError(f"{path}: cannot lock: {error.strerror}") from error
            yield

    def remove(self) -> None:
        """Remove all downloaded files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _download(self, file: RemoteFile, target: Path) -> None:
        """Download under a temporary name, resuming an interrupted download."""
        part = target.with_name(target.name + ".part")
        self._check_space(file, part)
        with part.open("ab") as stream, self._errors(f"download {file.name}"):
            if stream.tell() > file.size:
                stream.truncate(stream.seek(0))
            self._fetch(file, stream)
        if not _is_whole(part, file):
            part.unlink()
            raise ModelError(
                f"{self.repo}: {file.name} was damaged in transit (its hash differs from the "
                "hub's), the download was removed"
            )
        part.replace(target)

    def _fetch(self, file: RemoteFile, stream: BinaryIO) -> None:
        """Append the rest of a file; the library retries after a broken connection."""
        module = self._module("file_download")
        module.http_get(
            module.hf_hub_url(
                self.repo, file.name, revision=self.commit, endpoint=self._api.endpoint
            ),
            stream,
            resume_size=stream.tell(),
            headers=self._module("utils").build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.name,
        )

    def _module(self, name: str) -> Any:
        return require(f"huggingface_hub.{name}", "hub", f"downloading {self.repo}")

    def _check_space(self, file: RemoteFile, part: Path) -> None:
        there = part.stat().st_size if part.is_file() else 0
        free = shutil.disk_usage(self.folder).free
        if free < file.size - there:
            raise OutputError(f"{part}: needs {file.size - there} bytes, the disk has {free} free")

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn everything that the library raises into ModelError."""
        try:
            yield
        except DllamaError:
            raise
        except Exception as error:  # of several unrelated classes
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = " ".join(lines) or type(error).__name__
            raise ModelError(
                f"{self.repo}: {self._api.endpoint}: cannot {what}: {reason}"
            ) from error


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/dllama or ~/.cache/dllama (XDG Base Directory Specification)."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return base / "dllama"


def download(hub: Hub, file: str | None = None, weights: str | None = None) -> Path:
    """Download what the converter needs: a Hugging Face folder, or a GGUF file.

    Configuration comes first, so that a model that cannot be converted is refused before its
    tensors are downloaded.

    Args:
        hub: the repository.
        file: a GGUF file in it. By default, a repository without config.json must have exactly one.
        weights: as for `convert`. Without it, integers that fit in no block are refused.

    Returns:
        The folder, or the GGUF file.
    """
    if file is not None or "config.json" not in hub.files:
        return _download_gguf(hub, file or _only_gguf(hub))
    for name in SMALL:
        if name in hub.files:
            hub.get(name)
    if "tokenizer.json" not in hub.files:
        for name in OTHER_TOKENIZERS:
            if name in hub.files:
                hub.get(name)
    if ADAPTER in hub.files:
        refuse_adapter(hub.folder / ADAPTER)
    config = hub.folder / "config.json"
    values = read_json(config)
    family, spec = read_spec(values, WeightType.F32, config, hub.files)
    known = all_places(family.sources(spec))
    scheme = read_scheme(values, hub.files, config)
    if scheme and scheme.inexact and weights is None:
        raise UnsupportedError(
            f"{config}: {scheme.name}: model files do not have integers with {scheme.inexact}; "
            "--weights says to what all tensors are converted"
        )
    for name in _tensor_files(hub, scheme.names(known) if scheme else known):
        hub.get(name)
    return hub.folder


def _tensor_files(hub: Hub, known: set[str]) -> list[str]:
    """Return the names of the tensor files, in the format that the converter prefers.

    Args:
        hub: the repository.
        known: all tensors that the model may use. An index with others is refused.
    """
    for name in FILES:
        if name in hub.files:
            return [name]
        if name + INDEX in hub.files:
            index = hub.get(name + INDEX)
            return _indexed_files(hub, index, known)
    raise ModelError(f"{hub.repo}: has no {' or '.join(FILES)}, and no index of such files")


def _indexed_files(hub: Hub, index: Path, known: set[str]) -> list[str]:
    """Return the files that an index names. Those of tensors that no model needs may be missing."""
    files = set()
    weight_map = read_weight_map(index)
    for tensor, file in weight_map.items():
        if file in hub.files:
            files.add(file)
        elif tensor in known:
            raise ModelError(f"{index}: names the file {file!r} for {tensor}: {hub.repo} has none")
    refuse_unused((name for name, file in weight_map.items() if file in files), known, index)
    return sorted(files)


def _only_gguf(hub: Hub) -> str:
    """Return the name of the only GGUF file (of a split model, its first file)."""
    found = [name for name in sorted(hub.files) if name.endswith(".gguf") and "/" not in name]
    found = [name for name in found if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", name)]
    if not found:
        raise ModelError(f"{hub.repo}: has no config.json and no GGUF file")
    if len(found) > 1:
        raise ModelError(f"{hub.repo}: has several GGUF files, choose one: {', '.join(found)}")
    return found[0]


def _download_gguf(hub: Hub, name: str) -> Path:
    """Download a GGUF file and, of a split model, all files."""
    match = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", name)
    for number in range(1, int(match[2]) + 1 if match else 1):
        hub.get(f"{match[1]}-{number:05d}-of-{match[2]}.gguf" if match else name)
    return hub.get(name)


def _remote(entry: Any) -> RemoteFile:
    lfs = entry.lfs
    sha256 = None if lfs is None else str(lfs["sha256"])
    return RemoteFile(str(entry.rfilename), int(entry.size or 0), sha256, entry.blob_id)


def _is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the expected size and hash."""
    if path.stat().st_size != file.size:
        return False
    if file.sha256:
        digest, expected = hashlib.sha256(), file.sha256
    else:
        digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        expected = file.blob_id or ""
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == expected
