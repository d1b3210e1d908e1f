"""Which columns of a model's matrices matter most for a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dllama.converter import convert
from dllama.converter.convert import checked_output, scratch_prefix
from dllama.errors import ConfigError, ModelError, OutputError
from dllama.graph.squares import with_squares
from dllama.graph.weights import FileSource, load
from dllama.model.file import ModelFile
from dllama.run_config import RunConfig
from dllama.runtime.batch import Batch, Span
from dllama.runtime.block_pool import BlockPool, pools
from dllama.runtime.node import Node, graph_of
from dllama.scratch import Scratch
from dllama.text.tokenizer import Tokenizer

WINDOW = 512  # ids that see each other
MOST_WINDOWS = 24
ROWS = 64  # of a pass, so that the logits of a large vocabulary take little memory


def calibrate(
    source: Path, output: Path, text: str, threads: int, progress: bool = True
) -> dict[str, NDArray[np.float32]]:
    """Return the second moments of a checkpoint on a text.

    The checkpoint is converted to bf16 in a temporary folder beside the output folder. That takes 2
    bytes for each weight until the text is read.

    Args:
        source: a checkpoint, as for `convert`.
        output: the folder that will be written.
        text: what the model reads.
        threads: that compute.
        progress: whether to show progress bars.

    Raises:
        DllamaError: whatever `convert` and `second_moments` raise.
    """
    target = checked_output(output, source).absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Scratch(target.parent, scratch_prefix(target))
    except OSError as error:
        raise OutputError(f"{output}: cannot write: {error.strerror}") from error
    with scratch:
        model = scratch.path / "model"
        convert(source, model, "bf16", threads=threads, progress=progress)
        bar = tqdm(desc="calibrating", unit="token", disable=None if progress else True)
        return second_moments(model / "model.m", text, threads, bar.update)


def second_moments(
    path: Path,
    text: str,
    threads: int,
    progress: Callable[[int], object] = lambda ids: None,
) -> dict[str, NDArray[np.float32]]:
    """Return the mean square of every number that a matrix is multiplied by, over a text.

    A rounding error of a weight changes a product by this much, on average and squared. At most
    24 windows of 512 ids count; they are spread evenly over a longer text.

    Args:
        path: a model file with float weights, beside its tokenizer.
        text: what the model reads.
        threads: that compute.
        progress: called with the ids that have been read.

    Returns:
        float32 (columns,) by the names of tensors in ModelSpec.tensor_types. Experts of a layer
        share theirs.

    Raises:
        ModelError: the model has no tokenizer.
        ConfigError: the text is empty.
    """
    with ModelFile.open(path) as model:
        windows = _windows(path, text, min(WINDOW, model.spec.seq_len))
        config = RunConfig.of(
            model.spec, 1, max_seq_len=len(windows[0]), batch_size=ROWS, kv_cache="f32"
        )
        graph, tensors = with_squares(graph_of(model.spec, config, 0, path))
        weights = load(graph, FileSource(model), threads)
        widths = {name: _width(model, names[0]) for name, names in tensors.items()}
        sums = {name: np.zeros(width, np.float32) for name, width in widths.items()}
        weights.vectors.update(sums)
        node = Node(graph, weights, config, threads, None)
        caches = pools(model.spec, config)
        for window in windows:
            _read(node, window, config.logits, caches)
            progress(len(window))
    count = sum(map(len, windows))
    return {
        name: sums[vector] / np.float32(count)
        for vector, names in tensors.items()
        for name in names
    }


def _windows(path: Path, text: str, length: int) -> list[NDArray[np.int32]]:
    """Cut a text into windows of ids; all but a lone one have the same length."""
    tokenizer = Tokenizer.beside(path)
    if tokenizer is None:
        raise ModelError(f"{path} has no tokenizer, which calibration needs")
    ids = tokenizer.encode(text, add_bos=False)
    if not ids:
        raise ConfigError("--calibration: the text is empty")
    whole = max(1, len(ids) // length)
    used = min(whole, MOST_WINDOWS)
    starts = [index * whole // used * length for index in range(used)]
    bos = [tokenizer.bos_id] if tokenizer.bos_id is not None else []
    return [np.array([*bos, *ids[at : at + length]][:length], np.int32) for at in starts]


def _width(model: ModelFile, tensor: str) -> int:
    """The columns of a tensor, or of all experts' of this name."""
    return model.info(tensor.replace(".experts.", ".experts.0.")).shape[1]


def _read(node: Node, ids: NDArray[np.int32], rows: int, caches: Sequence[BlockPool]) -> None:
    """Evaluate a window from position 0 on, some rows at a time."""
    for begin in range(0, len(ids), rows):
        part = ids[begin : begin + rows]
        wanted = range(len(part))
        blocks = [_in_turn(pool, begin, begin + len(part)) for pool in caches]
        node.run(part, Batch([Span(len(part), begin, blocks)], wanted))


def _in_turn(pool: BlockPool, begin: int, end: int) -> list[int]:
    """The KV blocks of the only sequence that rows of it see; it takes one after another."""
    return [place % pool.count for place in range(pool.first(begin), pool.blocks(end))]
