"""Where the converter finds tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from dllama.converter.sources.views import HeadRows, Layout
from dllama.model.spec import ModelSpec, RopeType
from dllama.model.tensors import tensors

EMBEDDING = "model.embed_tokens.weight"
# Names of most families.
NAMES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "sinks": "self_attn.sinks",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}

Factor = float | tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Place:
    """A tensor of the source, or some of several equal slices of its rows.

    Args:
        tensor: its name.
        index: the first slice.
        count: slices that the tensor is cut into. All axes but the last count as rows.
        span: how many slices.
        layout: what of the slice it is: rows, columns that become rows, a vector, which is the
            numbers of the only row, or flat, a vector of all its numbers.
        first, step: which of its rows, columns or numbers: the first, and from one to the next.
        heads: which rows of each head it is; None for all of them.
        joined: if not 0, it is so many vectors one after another. The name has {} for the number
            of each.
    """

    tensor: str
    index: int = 0
    count: int = 1
    span: int = 1
    layout: Layout = "rows"
    first: int = 0
    step: int = 1
    heads: HeadRows | None = None
    joined: int = 0

    @property
    def names(self) -> list[str]:
        """The names of all tensors that it is made of."""
        return [self.tensor.format(n) for n in range(self.joined)] if self.joined else [self.tensor]


@dataclass(frozen=True)
class Source:
    """Where a tensor of the model file comes from.

    Args:
        name: its name in the model file.
        tensor: its name in the Hugging Face folder.
        place: where it is there, if it is only a part of a tensor.
        tied_to: the tensor to use instead if `tensor` is absent and the embeddings are tied.
        paired_heads: if not 0, the number of heads in the rows. In each, pairs (i, i + S/2) are
            moved to (2i, 2i + 1).
        times: what to multiply all of its numbers by, in GGUF files too.
        plus: what to add to all of its numbers there.
        factor: what to multiply all of its numbers there by; or (factor, count) for runs of the
            numbers of a vector.
        others: other places where it may be.
    """

    name: str
    tensor: str
    place: Place | None = None
    tied_to: str = ""
    paired_heads: int = 0
    times: float = 1.0
    plus: float = 0.0
    factor: Factor = 1.0
    others: tuple[Place, ...] = ()


def dense_sources(
    spec: ModelSpec, names: Mapping[str, str] | None = None, adjacent: bool = False
) -> Iterator[Source]:
    """Where each tensor of a dense model comes from, in the order of the model file.

    Rows of q and k, and their biases, are reordered if RoPE rotates adjacent pairs.

    Args:
        spec: the model.
        names: for the tensors of a layer by their names in the model file, those in the Hugging
            Face folder, where they are not those in NAMES. If several have the same name, they are
            rows of one tensor, in the order of NAMES.
        adjacent: whether pairs are adjacent there already.
    """
    biases = spec.ffn_bias and not spec.n_experts
    dense = [*tensors(replace(spec, n_experts=0, ffn_bias=biases))]
    there = {tensor.name.rpartition(".")[2] for tensor in dense}
    theirs = {ours: name for ours, name in {**NAMES, **(names or {})}.items() if ours in there}
    paired = {"q": spec.n_heads, "k": spec.n_kv_heads}
    if adjacent or spec.rope_type is RopeType.FALCON:
        paired = {}
    yield Source("embedding", EMBEDDING)
    for tensor in dense:
        at, _, name = tensor.name.rpartition(".")
        if at:
            name, bias, _ = name.partition("_bias")
            where = f"model.{at}.{theirs[name]}"
            if name != "sinks":
                where += ".bias" if bias else ".weight"
            place = Place(where, *_rows(spec, theirs, name))
            yield Source(tensor.name, where, place, paired_heads=paired.get(name, 0))
    yield Source("final_norm", "model.norm.weight")
    if spec.layer_norms:
        yield Source("final_norm_bias", "model.norm.bias")
    yield Source("output", "lm_head.weight", tied_to=EMBEDDING)


def _rows(spec: ModelSpec, names: Mapping[str, str], name: str) -> tuple[int, int, int]:
    """Which rows of its tensor a matrix is, as in Place: several may be one below another."""
    heads = {"q": spec.n_heads, "k": spec.n_kv_heads, "v": spec.n_kv_heads}
    joined = [other for other in names if names[other] == names[name]]
    if len(joined) == 1:
        return 0, 1, 1
    sizes = [heads.get(other, 1) for other in joined]
    index = joined.index(name)
    return sum(sizes[:index]), sum(sizes), sizes[index]


def with_experts(
    dense: Iterable[Source],
    layer_experts: Callable[[str], Iterator[Source]],
    without: Collection[int] = (),
) -> Iterator[Source]:
    """The sources of a dense model, with experts instead of feed-forward networks.

    Args:
        dense: sources of the dense model.
        layer_experts: from the prefix of a layer in the model file to its router and experts.
        without: layers that stay as they are.
    """
    kept = {f"layers.{layer}" for layer in without}
    for source in dense:
        at, _, name = source.name.rpartition(".")
        if at in kept:
            yield source
        elif name == "gate":
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
