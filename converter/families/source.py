"""Where the converter finds tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A tensor of the source, or one of several equal slices of its rows.

    Args:
        tensor: its name.
        index: which slice.
        count: slices that the tensor is cut into. All axes but the last count as rows.
    """

    tensor: str
    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Source:
    """Where a tensor of the model file comes from.

    Args:
        name: its name in the model file.
        tensor: its name in the Hugging Face folder.
        tied_to: the tensor to use instead if `tensor` is absent and the embeddings are tied.
        paired_heads: if not 0, the number of heads in the rows. In each, pairs (i, i + S/2) are
            moved to (2i, 2i + 1).
        others: other places where it may be.
    """

    name: str
    tensor: str
    tied_to: str = ""
    paired_heads: int = 0
    others: tuple[Place, ...] = ()


def with_experts(
    dense: Iterable[Source], layer_experts: Callable[[str], Iterator[Source]]
) -> Iterator[Source]:
    """The sources of a dense model, with experts instead of feed-forward networks.

    Args:
        dense: sources of the dense model.
        layer_experts: from the prefix of a layer in the model file to its router and experts.
    """
    for source in dense:
        at, _, name = source.name.rpartition(".")
        if name == "gate":
            yield from layer_experts(f"{at}.")
        elif name not in ("down", "up"):
            yield source


def expert_sources(
    at: str, count: int, separate: str, names: tuple[str, str, str], fused: str
) -> Iterator[Source]:
    """Gate, down and up of the experts of a layer, in the order of the model file.

    Args:
        at: prefix of the layer in the model file.
        count: number of experts.
        separate: prefix of the tensors of one expert, with {} for its number.
        names: names of gate, down and up after that prefix.
        fused: prefix of the tensors of all experts: gate_up_proj (experts, 2 * hidden, dim), gate
            first, and down_proj (experts, dim, hidden).
    """
    gate_up, down = f"{fused}.gate_up_proj", f"{fused}.down_proj"
    for expert in range(count):
        places = (
            Place(gate_up, 2 * expert, 2 * count),
            Place(down, expert, count),
            Place(gate_up, 2 * expert + 1, 2 * count),
        )
        for ours, theirs, place in zip(("gate", "down", "up"), names, places, strict=True):
            tensor = f"{separate.format(expert)}.{theirs}.weight"
            yield Source(f"{at}experts.{expert}.{ours}", tensor, others=(place,))
