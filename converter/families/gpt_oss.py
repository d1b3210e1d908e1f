"""gpt-oss: experts with biases and a clamped SwiGLU, attention sinks, windows in every other layer.

OpenAI 2025 (gpt-oss-120b and gpt-oss-20b model card, section 2). Rows of gate and of up alternate
in one matrix, which is stored transposed unless its blocks are MXFP4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import keys, llama
from dllama.converter.families.config import Config
from dllama.converter.families.rope import unpaired
from dllama.converter.families.source import Place, Source, dense_sources, with_experts
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import HiddenAct, ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("gpt_oss",)
ARCHITECTURES = ("GptOssForCausalLM",)
KEYS = (
    llama.KEYS
    | keys.EXPERTS
    | {"experts_per_token", "initial_context_length", "swiglu_alpha", "swiglu_limit"}
)
# Values of fields that a config.json may leave out.
DEFAULTS: Config = {
    "attention_bias": True, "experts_per_token": 4, "head_dim": 64, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5, "sliding_window": 128, "swiglu_alpha": 1.702, "swiglu_limit": 7.0,
}  # fmt: skip
ALPHA = 1.702
THETA = 150000.0
# Where gate, down and up of an expert are in the tensors of all experts: the rows or numbers.
PARTS = {"gate": ("gate_up_proj", 0, 2), "down": ("down_proj", 0, 1), "up": ("gate_up_proj", 1, 2)}


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    given = fields.completed(config, DEFAULTS)
    count, taken = fields.experts(given, path)
    if given["swiglu_alpha"] != ALPHA:
        found = given["swiglu_alpha"]
        raise UnsupportedError(f"{path}: swiglu_alpha {found!r} is not supported, only {ALPHA}")
    if config.get("experts_per_token") not in (None, taken):
        raise FormatError(path, "experts_per_token", config["experts_per_token"], f"{taken}")
    if not fields.flag(given, "attention_bias", path, True):
        raise UnsupportedError(f"{path}: attention_bias false is not supported")
    fields.refuse_set(given, ("mlp_bias",), path)
    layers = fields.size(given, "num_hidden_layers", path)
    plain = {**given, "sliding_window": None, "layer_types": None}
    spec = unpaired(llama.read_config(plain, weights, path, THETA))
    return replace(
        spec,
        hidden_act=HiddenAct.CLAMPED,
        act_limit=fields.number(given, "swiglu_limit", path),
        n_experts=count,
        n_active_experts=taken,
        ffn_bias=True,
        sinks=True,
        **fields.context(given, path, range(0, layers, 2)),
    )


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return with_experts(dense_sources(spec), lambda at: _expert_sources(at, spec.n_experts))


def _expert_sources(at: str, count: int) -> Iterator[Source]:
    """The router and the experts of a layer; in GGUF files, all experts are apart."""
    mlp = f"model.{at}mlp"
    yield Source(f"{at}router", f"{mlp}.router.weight")
    yield Source(f"{at}router_bias", f"{mlp}.router.bias")
    for expert in range(count):
        for name, (tensor, first, step) in PARTS.items():
            where = f"{mlp}.experts.{tensor}"
            place = Place(where, expert, count, 1, "columns", first, step)
            others = (
                Place(f"{where}_blocks", expert, count, 1, "rows", first, step),
                Place(f"{mlp}.experts.{expert}.{name}_proj.weight"),
            )
            yield Source(f"{at}experts.{expert}.{name}", where, place, others=others)
        for name, (tensor, first, step) in PARTS.items():
            where = f"{mlp}.experts.{tensor}_bias"
            place = Place(where, expert, count, 1, "vector", first, step)
            apart = Place(f"{mlp}.experts.{expert}.{name}_proj.bias")
            yield Source(f"{at}experts.{expert}.{name}_bias", where, place, others=(apart,))
