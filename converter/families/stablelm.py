"""StableLM: LayerNorm, RoPE on a part of each head, and in StableLM 2 12B parallel blocks.

Bellagente et al. 2024 (Stable LM 2 1.6B technical report). Norms of q and k are LayerNorm without
bias, with weights of its own for each head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.converter.families.rope import unpaired
from dllama.converter.families.source import Place, Source, dense_sources
from dllama.errors import UnsupportedError
from dllama.model.spec import ModelSpec, QKNorm
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("stablelm",)
ARCHITECTURES = ("StableLmForCausalLM",)
KEYS = llama.KEYS | {"layer_norm_eps", "qk_layernorm", "use_parallel_residual", "use_qkv_bias"}

NAMES = {"q_norm": "self_attn.q_layernorm", "k_norm": "self_attn.k_layernorm"}
PARTIAL = 0.25


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    fields.refuse_set(config, ("attention_bias", "mlp_bias", "sliding_window"), path)
    spec = llama.read_config({**config, "rms_norm_eps": None}, weights, path, partial=PARTIAL)
    size = spec.dim // spec.n_heads
    if spec.head_dim != size:
        what = f"head_dim {spec.head_dim} is not supported"
        raise UnsupportedError(f"{path}: {what}, only hidden_size / num_attention_heads ({size})")
    norms = fields.flag(config, "qk_layernorm", path, False)
    return replace(
        unpaired(spec),
        norm_epsilon=fields.number(config, "layer_norm_eps", path, 1e-5),
        layer_norms=True,
        qkv_bias=fields.flag(config, "use_qkv_bias", path, False),
        qk_norm=QKNorm.APART if norms else QKNorm.NONE,
        parallel_residual=fields.flag(config, "use_parallel_residual", path, False),
    )


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    heads = {"q_norm": spec.n_heads, "k_norm": spec.n_kv_heads}
    for source in dense_sources(spec, NAMES):
        count = heads.get(source.name.rpartition(".")[2])
        yield _of_heads(source, count) if count else source


def _of_heads(source: Source, heads: int) -> Source:
    """A norm whose weights are a tensor for each head, or the rows of one in GGUF files."""
    stem = source.tensor.removesuffix(".weight")
    apart = Place(f"{stem}.norms.{{}}.weight", joined=heads)
    stacked = Place(source.tensor, layout="flat")
    return replace(source, tensor=apart.names[0], place=apart, others=(stacked,))
