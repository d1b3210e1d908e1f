"""Converts a checkpoint to a model folder."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dllama.converter import families
from dllama.converter.families.keys import check_keys
from dllama.converter.families.source import Source
from dllama.converter.own_types import own_type, with_own_types
from dllama.converter.recipe import (
    TYPES,
    WEIGHTS,
    Importance,
    columns_of,
    stored_once,
    with_output,
    with_recipe,
)
from dllama.converter.sources import quantised
from dllama.converter.sources.checkpoint import Checkpoint, open_checkpoint
from dllama.converter.sources.stored import BLOCKS, Stored
from dllama.converter.tensors import find_tensors, is_tied, tie_warnings
from dllama.converter.tokenizers.folder import convert_tokenizer
from dllama.errors import ConfigError, FormatError, OutputError, UnsupportedError
from dllama.model.file import ModelWriter
from dllama.model.header import read_header, write_header
from dllama.model.header_checks import check_spec
from dllama.model.spec import ModelSpec, typed_name
from dllama.model.stored_model import decode
from dllama.model.tensors import all_tensors, with_types
from dllama.model.weight_types import WeightType
from dllama.options import MAX_THREADS, THREADS
from dllama.scratch import Scratch, put

# How many numbers are read, reordered and written at a time.
RUN = 1 << 22


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        output: the model folder.
        spec: the model.
        read_bytes: bytes of tensors read.
        written_bytes: bytes of all files written.
        seconds: duration.
        warnings: what the user should know, one line each.
    """

    output: Path
    spec: ModelSpec
    read_bytes: int
    written_bytes: int
    seconds: float
    warnings: tuple[str, ...]


def convert(
    source: str | Path,
    output: str | Path,
    weights: str | None = None,
    *,
    output_weights: str | None = None,
    importance: Importance | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Report:
    """Convert the checkpoint `source` to the model folder `output`.

    The output appears complete or not at all. An existing model folder is replaced.

    Args:
        source: a checkpoint; checkpoint.py lists the formats.
        output: a new or empty folder, or a model folder.
        weights: type of the matrices; `mixed` chooses one for each. Default: mixed; those of a GGUF
            file, and of a folder with quantised integers, keep their own types. So do those that
            are stored as MXFP4; the others beside them become q80.
        output_weights: type of the output matrix, and of the embedding if that is tied to it.
            Default: that of the other matrices; in a GGUF file its own.
        importance: how much rounding errors in each column count, by the names of tensors in
            ModelSpec.tensor_types. `dllama.calibration` measures it.
        threads: default one per CPU.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: an argument is wrong.
        FormatError: a file of the checkpoint is broken.
        UnsupportedError: the model uses something that dllama does not implement.
        ModelError: a file of the checkpoint cannot be read.
        OutputError: the output cannot be written.
    """
    begin = time.perf_counter()
    _check_choice("weights", weights, WEIGHTS)
    _check_choice("output_weights", output_weights, TYPES)
    workers = _thread_count(threads)
    checkpoint = open_checkpoint(Path(source))
    target = checked_output(Path(output), checkpoint.path)
    wanted = weights or checkpoint.weights
    family, spec = read_spec(
        checkpoint.config, WeightType.F32, checkpoint.config_path, checkpoint.files
    )
    sources = families.sources_of(family, spec, checkpoint.config, checkpoint.config_path)
    tensors = find_tensors(checkpoint, sources)
    spec = replace(spec, tied=is_tied(tensors) and stored_once(wanted, output_weights))
    names = {tensor.name for tensor in all_tensors(spec)}
    tensors = [(source, stored) for source, stored in tensors if source.name in names]
    spec = with_recipe(spec, wanted) if wanted else with_own_types(spec, _kept(tensors))
    if wanted and not weights:
        spec = with_types(spec, _blocks(tensors))
    if output_weights:
        spec = with_output(spec, WeightType[output_weights.upper()])
    check_spec(spec, checkpoint.config_path)
    _check_shapes(tensors, spec)
    _check_space(target, spec)
    with _replaced(target) as temporary:
        warnings = convert_tokenizer(checkpoint.tokenizer(), temporary, spec.vocab_size)
        warnings += tie_warnings(checkpoint, tensors)
        warnings += _requantised(checkpoint, tensors, spec)
        _write_model(temporary / "model.m", spec, tensors, importance or {}, workers, progress)
        written = sum(file.stat().st_size for file in temporary.iterdir())
    read = sum(stored.nbytes for _, stored in tensors)
    seconds = time.perf_counter() - begin
    return Report(target, spec, read, written, seconds, tuple(warnings))


def read_spec(
    config: dict[str, Any], weights: WeightType, path: Path, files: Collection[str] = ()
) -> tuple[ModuleType, ModelSpec]:
    """Return the family and the spec of a config.json.

    Args:
        config: the config.json.
        weights: type of the matrices.
        path: the file, for messages.
        files: names of the files beside it.

    Raises:
        FormatError, UnsupportedError: the config is wrong or cannot be represented in a model file.
    """
    family = families.of_config(config, path)
    quantised.read_scheme(config, files, path)
    check_keys(config, family.KEYS | quantised.KEYS, path)
    spec: ModelSpec = family.read_config(config, weights, path)
    try:
        header = write_header(spec, path)
    except OverflowError:  # of a product
        raise FormatError(path, "a number", "too large", "what a float32 can have") from None
    read_header(header, path)
    return family, spec


def _thread_count(threads: int | None) -> int:
    given: int | None = THREADS.argument(threads)
    return min(os.cpu_count() or 1, MAX_THREADS) if given is None else given


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(choices)}")


def _kept(tensors: list[tuple[Source, Stored]]) -> Iterator[tuple[str, Stored, WeightType]]:
    """Yield the name of each tensor, where it is, and its own type.

    Raises:
        UnsupportedError: model files do not have the type.
    """
    for source, stored in tensors:
        kind = own_type(stored)
        if kind is None:
            raise UnsupportedError(
                f"{stored.path}: {stored.name} is {stored.lossy or stored.dtype}, which model "
                f"files do not have; --weights says to what all tensors are converted"
            )
        yield source.name, stored, kind


def _blocks(tensors: list[tuple[Source, Stored]]) -> dict[str, WeightType]:
    """The types of matrices that are stored in blocks, and of the embedding beside them."""
    own = {typed_name(source.name): own_type(stored) for source, stored in tensors}
    found = {name: kind for name, kind in own.items() if kind and kind.block_size > 1}
    if found and (embedding := own["embedding"]):
        found["embedding"] = embedding
    return found


def _requantised(
    checkpoint: Checkpoint, tensors: list[tuple[Source, Stored]], spec: ModelSpec
) -> list[str]:
    """Return a warning if quantised matrices are written in another quantisation."""
    kinds = {tensor.name: tensor.weight_type for tensor in all_tensors(spec)}
    found = [
        stored.lossy or stored.dtype.lower()
        for source, stored in tensors
        if kinds[source.name].block_size > 1
        and (stored.lossy or stored.dtype in BLOCKS)
        and BLOCKS.get(stored.dtype) is not kinds[source.name]
    ]
    if not found:
        return []
    lossy = ", ".join(sorted(set(found)))
    name = "other types" if spec.tensor_types else spec.weight_type.name.lower()
    lose = "1 tensor loses" if len(found) == 1 else f"{len(found)} tensors lose"
    return [f"{checkpoint.path}: {lose} accuracy from {lossy} to {name}"]


def _write_model(
    path: Path,
    spec: ModelSpec,
    tensors: list[tuple[Source, Stored]],
    importance: Importance,
    threads: int,
    progress: bool,
) -> None:
    """Write the model file, some rows at a time."""
    with (
        ModelWriter(path, spec, threads) as writer,
        tqdm(
            total=sum(stored.nbytes for _, stored in tensors),
            desc="converting",
            unit="B",
            unit_scale=True,
            disable=None if progress else True,
        ) as bar,
    ):
        for source, stored in tensors:
            columns = columns_of(importance, spec, source.name)
            for rows in _runs(source, stored):
                _write_rows(writer, source, stored, rows, columns)
                bar.update(stored.nbytes // stored.shape[0] * len(rows))
            stored.release()
        writer.commit()


def _write_rows(
    writer: ModelWriter,
    source: Source,
    stored: Stored,
    rows: NDArray[Any],
    columns: NDArray[np.float32] | None,
) -> None:
    """Write rows, or blocks unchanged if they have the right type."""
    info, kind = writer.tensors[source.name], BLOCKS.get(stored.dtype)
    try:
        if kind is None:
            writer.write_rows(info.name, rows, stored.dtype == "BF16", columns)
        elif kind is info.weight_type:
            writer.write_blocks(info.name, rows)
        else:
            numbers = decode(rows, kind, (len(rows), *info.shape[1:]))
            writer.write_rows(info.name, numbers, importance=columns)
    except FormatError as error:
        raise FormatError(
            stored.path, f"a number of {stored.name}", "not finite", error.expected
        ) from error


def _runs(source: Source, stored: Stored) -> Iterator[NDArray[Any]]:
    """Yield the rows of a tensor in the order of the model file, in chunks of whole heads."""
    count = stored.shape[0]
    width = math.prod(stored.shape[1:])
    unit = count // source.paired_heads if source.paired_heads else 1
    chunk = max(1, RUN // max(1, unit * width)) * unit
    for first in range(0, count, chunk):
        rows = stored.rows(first, min(chunk, count - first))
        yield _paired(rows, unit) if source.paired_heads else rows


def _paired(rows: NDArray[Any], head: int) -> NDArray[Any]:
    """Interleave the halves of each head, so that rows (i, i + head/2) become (2i, 2i + 1).

    Args:
        rows: (heads * head, ...).
        head: rows of a head.
    """
    halves = rows.reshape(-1, 2, head // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def checked_output(output: Path, source: Path | None = None) -> Path:
    """Return the output folder if it can be written: it must be absent, empty, or a model folder.

    Raises:
        ConfigError: it is the source folder.
        OutputError: it is something else.
    """
    if source is not None and output.resolve() == source.resolve():
        raise ConfigError(f"output {output} is the source folder")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file, expected a folder")
    if output.is_dir() and any(output.iterdir()) and not (output / "model.m").is_file():
        raise OutputError(f"{output}: is neither empty nor a model folder, nothing was written")
    return output


def _check_shapes(tensors: list[tuple[Source, Stored]], spec: ModelSpec) -> None:
    """FormatError, before anything is written, if a tensor has a shape that the model lacks."""
    expected = {tensor.name: tensor.shape for tensor in all_tensors(spec)}
    for source, stored in tensors:
        if stored.shape != (shape := expected[source.name]):
            raise FormatError(stored.path, f"shape of {stored.name}", stored.shape, shape)


def _check_space(target: Path, spec: ModelSpec) -> None:
    """Raise OutputError if the disk is too full for the model file."""
    needed = sum(tensor.nbytes for tensor in all_tensors(spec))
    folder = target.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(f"{target}: needs {needed} bytes, the disk has {free} free")


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to the target, which takes the target's name on success."""
    target = target.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Scratch(target.parent, scratch_prefix(target))
    except OSError as error:
        raise OutputError(f"{target}: cannot write: {error.strerror}") from error
    with scratch:
        yield scratch.path
        try:
            scratch.path.chmod(0o755)
            put(scratch.path, target)
        except OSError as error:
            raise OutputError(f"{target}: cannot write: {error.strerror}") from error


def scratch_prefix(target: Path) -> str:
    """Return how the names of folders begin in which the content of a target is made."""
    return f".{target.name}.dllama-"
