"""Qwen3-Next 80B-A3B: Qwen3.5-MoE with fewer and larger matrices of linear attention.

Qwen team 2025. The rows of in_proj_qkvz are those of q, k, v and z of the first key head, then
those of the next one; so are those of in_proj_ba, which gives beta and decay of each value head.
Some layers may have no experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import qwen3_5_moe
from dllama.converter.families.config import Config
from dllama.converter.families.source import Place, Source
from dllama.converter.sources.views import HeadRows
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("qwen3_next",)
ARCHITECTURES = ("Qwen3NextForCausalLM",)
KEYS = qwen3_5_moe.KEYS | {"decoder_sparse_step"}
# Values of fields that a config.json may leave out.
DEFAULTS: Config = {
    "intermediate_size": 5632, "num_experts_per_tok": 10, "num_key_value_heads": 2,
    "vocab_size": 151936,
}  # fmt: skip
EXPERTS = 512


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    given = fields.completed(config, DEFAULTS)
    if not given.get("num_local_experts"):
        given = fields.completed(given, {"num_experts": EXPERTS})
    spec = qwen3_5_moe.read_config({**given, "mlp_only_layers": None}, weights, path)
    return replace(spec, dense=fields.dense_layers(given, spec.n_layers, path))


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file.

    GGUF files have in_proj_qkvz as two tensors of Qwen3.5: in_proj_qkv and in_proj_z.
    """
    places = _places(spec) if spec.linear else {}
    for source in qwen3_5_moe.sources(spec):
        at, _, name = source.name.rpartition(".")
        if name not in places:
            yield source
            continue
        tensor, rows = places[name]
        place = Place(f"model.{at}.linear_attn.{tensor}.weight", heads=rows)
        others = (source.place,) if source.place and tensor == QKVZ else ()
        yield replace(source, tensor=place.tensor, place=place, others=others)


QKVZ, BA = "in_proj_qkvz", "in_proj_ba"


def _places(spec: ModelSpec) -> dict[str, tuple[str, HeadRows]]:
    """For some tensors of linear attention, the larger one and their rows of each key head."""
    heads, key = spec.linear_key_heads, spec.linear_key_dim
    values = spec.linear_value_heads // heads
    value = values * spec.linear_value_dim
    sizes = {
        QKVZ: {"linear_q": key, "linear_k": key, "linear_v": value, "linear_z": value},
        BA: {"beta": values, "decay": values},
    }
    found = {}
    for tensor, parts in sizes.items():
        first = 0
        for name, count in parts.items():
            found[name] = tensor, HeadRows(heads, sum(parts.values()), first, count, False)
            first += count
    return found
