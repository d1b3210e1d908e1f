"""What the description of an architecture says, and what most architectures share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dllama.converter.sources.gguf_header import typed
from dllama.converter.sources.stored import Stored
from dllama.errors import UnsupportedError

Config = dict[str, Any]
# Tensors with factors of the RoPE frequencies, by name.
Factors = Mapping[str, NDArray[np.float32]]


class Field(NamedTuple):
    """A key of the metadata, after the architecture and a dot, as a field of config.json.

    Args:
        name: of the field.
        least: smallest value; a number that is not whole must be larger.
        whole: whether it is an integer.
        required: whether every file has the key.
        none: whether 0 stands for none, so that the field is left out.
        flag: whether it is true or false.
        each: whether files may have a list with a value for each layer, which the field then is.
    """

    name: str
    least: int = 1
    whole: bool = True
    required: bool = False
    none: bool = False
    flag: bool = False
    each: bool = False


@dataclass(frozen=True)
class Given:
    """What a file says.

    Args:
        path: the file, for messages.
        metadata: by full keys.
        tensors: names of the tensors.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Collection[str]

    @property
    def arch(self) -> str:
        """The architecture, with which its keys begin."""
        return str(typed(dict(self.metadata), "general.architecture", str, self.path))

    def key(self, name: str) -> str:
        """The full key."""
        return f"{self.arch}.{name}"

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a key of the architecture; arrays become lists.

        A float32 becomes the shortest decimal number that rounds to it.
        """
        value = self.metadata.get(self.key(name), default)
        if isinstance(value, np.ndarray):
            return [_short(one) for one in value.tolist()]
        return _short(value)


def _short(value: Any) -> Any:
    return float(str(np.float32(value))) if isinstance(value, float) else value


def nothing(config: Config, given: Given) -> Config:
    """No fields."""
    return {}


def as_wide(config: Config, given: Given) -> Config:
    """Experts are as wide as a feed-forward network would be; UnsupportedError if not."""
    width, whole = config.pop("moe_intermediate_size", None), config["intermediate_size"]
    if width not in (None, whole):
        key, other = given.key("expert_feed_forward_length"), given.key("feed_forward_length")
        raise UnsupportedError(f"{given.path}: {key} {width} differs from {other} {whole}")
    return {"num_local_experts": config["num_experts"]}


@dataclass(frozen=True)
class Arch:
    """How llama.cpp writes the models of an architecture, and what it knows without a key.

    Args:
        name: general.architecture.
        model_type: of config.json.
        keys: keys of the metadata beside COMMON that are fields of config.json.
        tensors: GGUF's names of tensors as Hugging Face's, without `blk.N.` and
            `model.layers.N.`. A name without .weight and .bias stands for both, and one that ends
            in a dot for a tensor without such an ending. {} in
            Hugging Face's name is the number of an expert, which GGUF stacks in one tensor.
        older: names of tensors that only older files have, in place of others.
        rows: tensors that are matrices of one row, which files may store as vectors.
        stacked: matrices of all heads, which files have as one tensor with three axes.
        biases: tensors that may have a .bias.
        present: fields of config.json that are true if there is a tensor in any layer.
        read: other keys that `finish` reads, or that change nothing.
        constants: fields of config.json that no key says.
        experts: whether the feed-forward network is a mixture of experts.
        paired: whether the rows of q and k are ordered for RoPE on adjacent pairs.
        own_heads: whether `finish` checks the sizes of heads, since these are not those of
            head_dim.
        partial: whether RoPE may rotate only a part of each head.
        scaling: fields of rope_scaling that no key says, if there is scaling.
        windows: whether layers may have a sliding window.
        pattern: of that many layers in a row the last has no sliding window, if no key says
            which have none; 0: all have it, and no key may say otherwise.
        predictors: whether the last blocks may be layers that predict further tokens, which are
            left out.
        factors: tensors with factors of the RoPE frequencies.
        rope: the fields of config.json about RoPE, where they are not rope_theta and rope_scaling,
            from the fields that keys gave, the file, and its factors.
        change: what becomes of a tensor, by its name in the file.
        neutral: values with which a key changes nothing, where gguf_keys.py says otherwise.
        finish: more fields of config.json, from those that the keys gave.
    """

    name: str
    model_type: str
    keys: Mapping[str, Field] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    older: Collection[str] = ()
    rows: Collection[str] = ()
    stacked: Collection[str] = ()
    biases: Collection[str] = ()
    present: Mapping[str, str] = field(default_factory=dict)
    read: Collection[str] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    experts: bool = False
    paired: bool = False
    own_heads: bool = False
    partial: bool = False
    scaling: Mapping[str, Any] = field(default_factory=dict)
    windows: bool = False
    pattern: int = 0
    predictors: bool = False
    factors: Collection[str] = ()
    rope: Callable[[Config, Given, Factors], Config] | None = None
    change: Callable[[str, Stored, Config], Stored] | None = None
    neutral: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    finish: Callable[[Config, Given], Config] = nothing


COMMON = {
    "context_length": Field("max_position_embeddings", required=True),
    "embedding_length": Field("hidden_size", required=True),
    "block_count": Field("num_hidden_layers", required=True),
    "feed_forward_length": Field("intermediate_size", required=True),
    "attention.head_count": Field("num_attention_heads", required=True),
    "attention.head_count_kv": Field("num_key_value_heads"),
    "attention.key_length": Field("head_dim"),
    "attention.layer_norm_rms_epsilon": Field("rms_norm_eps", 0, whole=False, required=True),
    "rope.freq_base": Field("rope_theta", 0, whole=False),
}
WINDOW = {"attention.sliding_window": Field("sliding_window", 0, none=True)}
EXPERTS = {
    "expert_count": Field("num_experts", required=True),
    "expert_used_count": Field("num_experts_per_tok", required=True),
    "expert_feed_forward_length": Field("moe_intermediate_size", 0, none=True),
}
WHOLE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
QKV = ("attn_q", "attn_k", "attn_v")
# Names of Llama, and of norms and experts that several families call so.
TENSORS = {
    **WHOLE,
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
