"""Which tensors of a checkpoint become which tensors of the model, and that none is left over."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from dllama.checks import is_integer
from dllama.converter.families.source import Place, Source
from dllama.converter.sources.checkpoint import Checkpoint
from dllama.converter.sources.stored import BLOCKS, DTYPES, Added, Stored
from dllama.converter.sources.views import Joined, OfHeads, Scaled, View
from dllama.errors import FormatError, UnsupportedError

log = logging.getLogger("dllama.convert")

# Tensors that follow from the config, or that no forward pass reads.
HARMLESS = re.compile(r"(.*\.)?(rotary_emb\.(inv_freq|cos_cached|sin_cached)|masked_bias)")
# Beginning of the names of tensors that predict further tokens, in models of Qwen.
AHEAD = "mtp."
NEXT = "num_nextn_predict_layers"
# So many layers, the last ones, read the keys and values of earlier ones.
SHARED = "num_kv_shared_layers"
KEYS = re.compile(r"model\.layers\.(\d+)\.self_attn\.[kv]_(?:proj|norm)\.weight")
SHOWN = 3  # names in a message
ROWS = 256  # that are compared at a time


def find_tensors(checkpoint: Checkpoint, sources: Iterable[Source]) -> list[tuple[Source, Stored]]:
    """Return the sources with their stored tensors.

    Raises:
        FormatError: a tensor is missing or cannot be divided.
        UnsupportedError: a type cannot be converted, or there are tensors that nothing uses.
    """
    found, used = [], set()
    for source in sources:
        place = _place(checkpoint, source)
        used.update(place.names)
        parts = [checkpoint.tensors[name] for name in place.names]
        for stored in parts:
            if stored.dtype not in DTYPES and stored.dtype not in BLOCKS:
                what, known = f"{stored.name} is {stored.dtype}", ", ".join(DTYPES)
                raise UnsupportedError(f"{stored.path}: {what}, supported are {known}")
        stored = Joined(parts) if place.joined else parts[0]
        if checkpoint.paired:
            source = replace(source, paired_heads=0)
        stored = stored.part(place.index, place.count, place.span)
        if place.layout != "rows" or place.step > 1:
            stored = View(stored, place.layout, place.first, place.step)
        if place.heads:
            stored = OfHeads(stored, place.heads)
        if source.plus and not checkpoint.added:
            stored = Added(stored, source.plus)
        if source.factor != 1.0 and not checkpoint.added:
            stored = Scaled(stored, source.factor)
        if source.times != 1.0:
            stored = Scaled(stored, source.times)
        found.append((source, stored))
    ahead = _layers_ahead(checkpoint)
    if ahead:
        log.warning(
            "%s: layers that predict further tokens are left out (%s)",
            checkpoint.path,
            AHEAD if any(name.startswith(AHEAD) for name in ahead) else NEXT,
        )
    used |= ahead | _shared_keys(checkpoint)
    unused = [stored.name for name, stored in checkpoint.tensors.items() if name not in used]
    refuse_unused(dict.fromkeys(unused), (), checkpoint.path)
    return found


def _layers_ahead(checkpoint: Checkpoint) -> set[str]:
    """The names of tensors of layers behind the last, as far as the config says they are there.

    Those of Qwen have names of their own.
    """
    config = checkpoint.config
    more = config.get(NEXT)
    if not is_integer(more, 1) or not is_integer(config.get("num_hidden_layers"), 1):
        return {name for name in checkpoint.tensors if name.startswith(AHEAD)}
    first = config["num_hidden_layers"]
    layers = {f"model.layers.{layer}" for layer in range(first, first + more)}
    return {name for name in checkpoint.tensors if ".".join(name.split(".")[:3]) in layers}


def _shared_keys(checkpoint: Checkpoint) -> set[str]:
    """The names of tensors for keys and values that the config says no layer reads."""
    count, layers = (checkpoint.config.get(name) for name in (SHARED, "num_hidden_layers"))
    if not is_integer(count, 1) or not is_integer(layers, 1):
        return set()
    first = layers - count
    matches = ((name, KEYS.fullmatch(name)) for name in checkpoint.tensors)
    found = {name for name, match in matches if match and int(match[1]) >= first}
    if found:
        what = "keys and values of layers that read those of earlier ones"
        log.warning("%s: %s are left out (%s)", checkpoint.path, what, SHARED)
    return found


def refuse_unused(names: Iterable[str], used: Collection[str], path: object) -> None:
    """UnsupportedError names tensors that the model does not use.

    Args:
        names: all tensors of a checkpoint.
        used: those that the model uses.
        path: the checkpoint, for the message.
    """
    unused = [name for name in names if name not in used and not HARMLESS.fullmatch(name)]
    if unused:
        verb = "tensor is" if len(unused) == 1 else "tensors are"
        shown = ", ".join(unused[:SHOWN]) + (", ..." if len(unused) > SHOWN else "")
        raise UnsupportedError(f"{path}: {len(unused)} {verb} not used by this model: {shown}")


def all_places(sources: Iterable[Source]) -> set[str]:
    """Return the names of all tensors that a model may use."""
    return {name for source in sources for name in (source.tensor, source.tied_to, *_names(source))}


def _names(source: Source) -> Iterator[str]:
    """The names of all tensors in the places of a source."""
    places = [source.place, *source.others]
    yield from (name for place in places if place for name in place.names)


def is_tied(tensors: Iterable[tuple[Source, Stored]]) -> bool:
    """Whether the output matrix is the embedding."""
    found = {source.name: stored for source, stored in tensors}
    return found["output"] is found["embedding"]


def tie_warnings(checkpoint: Checkpoint, tensors: Iterable[tuple[Source, Stored]]) -> list[str]:
    """Return a warning if an output matrix of its own wins over a flag that says it is tied."""
    if not checkpoint.config.get("tie_word_embeddings"):
        return []
    return [
        f"{checkpoint.config_path}: tie_word_embeddings is true, but {stored.name} differs from "
        "the embedding: it is used"
        for source, stored in tensors
        if source.tied_to
        and (embedding := checkpoint.tensors.get(source.tied_to)) is not None
        and not _equal(stored, embedding)
    ]


def _place(checkpoint: Checkpoint, source: Source) -> Place:
    """Return where a tensor is; FormatError if it is missing.

    An output matrix of its own comes first, whatever the config says.
    """
    places = [source.place or Place(source.tensor), *source.others]
    if source.tied_to and checkpoint.config.get("tie_word_embeddings") is not False:
        places.insert(1, Place(source.tied_to))
    for place in places:
        missing = [name for name in place.names if name not in checkpoint.tensors]
        if not missing:
            return place
        if missing[0] in checkpoint.absent:
            raise checkpoint.absent[missing[0]]
        if missing != place.names:
            raise FormatError(checkpoint.path, missing[0], "missing", f"a part of {source.name}")
    raise FormatError(checkpoint.path, source.tensor, "missing", f"the tensor of {source.name}")


def _equal(left: Stored, right: Stored) -> bool:
    """Whether two tensors hold the same numbers of the same type."""
    if left is right:
        return True
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    count = left.shape[0]
    return all(
        _bytes(left, first, count) == _bytes(right, first, count) for first in range(0, count, ROWS)
    )


def _bytes(tensor: Stored, first: int, count: int) -> bytes:
    rows: Any = tensor.rows(first, min(ROWS, count - first))
    return np.ascontiguousarray(rows).tobytes()
