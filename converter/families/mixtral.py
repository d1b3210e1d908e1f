"""Mixtral 8x7B and 8x22B: Llama whose feed-forward network is a mixture of experts.

Jiang et al. 2024 (Mixtral of Experts): a token takes the 2 best of 8 experts, weighted by the
softmax of their scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import keys, llama
from dllama.converter.families.config import Config
from dllama.converter.families.source import Place, Source, expert_sources, with_experts
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("mixtral",)
ARCHITECTURES = ("MixtralForCausalLM",)
KEYS = llama.KEYS | keys.EXPERTS
# Values of fields that a config.json may leave out, if they differ from Llama's.
DEFAULTS = {"rms_norm_eps": 1e-5}
THETA = 1e6


def read_config(
    config: Config, weights: WeightType, path: object, theta: float = THETA
) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field.

    Args:
        config: a config.json.
        weights: type of the matrices.
        path: the file, for messages.
        theta: of RoPE, if the config has none.
    """
    count, taken = fields.experts(config, path)
    spec = llama.read_config(fields.completed(config, DEFAULTS), weights, path, theta)
    return replace(spec, n_experts=count, n_active_experts=taken)


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file.

    Rows of q and k are reordered so that RoPE rotates adjacent pairs.
    """
    return with_experts(llama.sources(spec), lambda at: _expert_sources(at, spec.n_experts))


def _expert_sources(at: str, count: int) -> Iterator[Source]:
    """The router and the experts of a layer, under the old or the new names."""
    old, new = f"model.{at}block_sparse_moe", f"model.{at}mlp"
    yield Source(f"{at}router", f"{old}.gate.weight", others=(Place(f"{new}.gate.weight"),))
    names = ("w1", "w2", "w3")
    yield from expert_sources(at, count, f"{old}.experts.{{}}", names, f"{new}.experts")
