"""Granite 3 with experts (1B-A400M, 3B-A800M): Granite whose feed-forward network is a mixture.

Granite team, IBM 2024 (Granite 3.0 language models). A token takes the 8 best of 32 or 40 experts,
weighted by the softmax of their scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import granite, keys
from dllama.converter.families.config import Config
from dllama.converter.families.source import Place, Source, with_experts
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("granitemoe",)
ARCHITECTURES = ("GraniteMoeForCausalLM",)
KEYS = granite.KEYS | keys.EXPERTS


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    count, taken = fields.experts(config, path)
    spec = granite.read_config(config, weights, path)
    return replace(spec, n_experts=count, n_active_experts=taken)


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file.

    Rows of q and k are reordered so that RoPE rotates adjacent pairs.
    """
    return with_experts(granite.sources(spec), lambda at: _expert_sources(at, spec.n_experts))


def _expert_sources(at: str, count: int) -> Iterator[Source]:
    """The router and the experts of a layer.

    Gate, then up of an expert are one matrix; in GGUF files all are apart.
    """
    moe = f"model.{at}block_sparse_moe"
    inner, outer = f"{moe}.input_linear.weight", f"{moe}.output_linear.weight"
    yield Source(f"{at}router", f"{moe}.router.layer.weight")
    for expert in range(count):
        rows = {
            "gate": Place(inner, 2 * expert, 2 * count),
            "down": Place(outer, expert, count),
            "up": Place(inner, 2 * expert + 1, 2 * count),
        }
        for name, place in rows.items():
            apart = Place(f"{moe}.experts.{expert}.{name}_proj.weight")
            yield Source(f"{at}experts.{expert}.{name}", place.tensor, place, others=(apart,))
