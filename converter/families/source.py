"""Where the converter finds a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A tensor of the source, or one of several equal runs of its rows.

    part, of parts: which run. All axes but the last count as rows.
    """

    tensor: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Source:
    """name: in the model file. tensor: in the Hugging Face folder.

    tied_to: the tensor to take where `tensor` is absent and the embeddings are tied.
    paired_heads: if not 0, rows are heads of halves (i, i + S/2) to be put as pairs (2i, 2i + 1).
    others: where else it may be.
    """

    name: str
    tensor: str
    tied_to: str = ""
    paired_heads: int = 0
    others: tuple[Place, ...] = ()


def with_experts(
    dense: Iterable[Source], layer_experts: Callable[[str], Iterator[Source]]
) -> Iterator[Source]:
    """Sources of a dense model, but with a mixture of experts as the network of each layer.

    layer_experts: the router and the experts of a layer, whose name in the model file it gets.
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

    at: the layer in the model file. separate: prefix of the experts' own tensors, with a {} for
    the number, and names of theirs. fused: prefix of gate_up_proj (experts, 2 * hidden, dim), where
    gate comes first, and down_proj (experts, dim, hidden).
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
