"""Which keys of GGUF metadata may stand beside those that read_config applies.

A key of an architecture changes what a model computes, unless it is listed here. So a key that is
neither applied nor listed is refused by name. Keys are those of gguf-py/gguf/constants.py of
github.com/ggml-org/llama.cpp, without the architecture and the dot; what their values mean follows
src/llama-model.cpp there.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from dllama.checks import shown
from dllama.errors import UnsupportedError

Metadata = dict[str, Any]

# Keys that say nothing about the forward pass of a causal language model.
HARMLESS = frozenset({
    "vocab_size",  # read_config compares it with the embedding
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_ext_factor",
})  # fmt: skip
# Values with which a key changes nothing.
NO_ID = 0xFFFFFFFF  # -1 as it is written
OFF = (0, False)
ONE = (0, 1)  # a factor that is 0 stands for none
NEUTRAL: dict[str, tuple[object, ...]] = {
    "leading_dense_block_count": OFF,
    "interleave_moe_layer_step": ONE,
    "moe_every_n_layers": ONE,
    "nextn_predict_layers": OFF,
    "use_parallel_residual": OFF,
    "tensor_data_layout": ("Meta AI original pth",),
    "pooling_type": (0, -1, NO_ID),
    "decoder_start_token_id": (-1, NO_ID),
    "logit_scale": ONE,
    "residual_scale": ONE,
    "embedding_scale": ONE,
    "attn_logit_softcapping": OFF,
    "final_logit_softcapping": OFF,
    "router_logit_softcapping": OFF,
    "swin_norm": OFF,
    "rescale_every_n_layers": OFF,
    "expert_shared_count": OFF,
    "expert_shared_feed_forward_length": OFF,
    "expert_group_count": ONE,
    "expert_group_used_count": ONE,
    "expert_group_scale": ONE,
    "expert_weights_scale": ONE,
    "expert_weights_norm": (True, 1),
    "expert_gating_func": ONE,  # 1 is softmax
    "attention.causal": (True, 1),
    "attention.max_alibi_bias": OFF,
    "attention.clamp_kqv": OFF,
    "attention.output_scale": ONE,
    "attention.temperature_length": OFF,
    "attention.temperature_scale": OFF,
    "attention.shared_kv_layers": OFF,
    "rope.scale_linear": ONE,
    "rope.scaling.factor": ONE,
    "rope.scaling.attn_factor": ONE,
    "rope.scaling.yarn_attn_factor": ONE,
    "rope.scaling.yarn_log_multiplier": OFF,
}
# Kinds of RoPE scaling that do nothing with a factor of 1.
SCALINGS = ("none", "linear", "yarn")
# Namespaces that describe another kind of file.
OTHER_FILES = ("adapter.", "clip.", "controlvector.", "imatrix.chunk_count")


def check_keys(metadata: Metadata, arch: str, applied: Collection[str], path: Path) -> None:
    """Make sure that every key is applied or changes nothing.

    Args:
        metadata: of the file.
        arch: its architecture.
        applied: the keys of the architecture that are applied.
        path: the file.

    Raises:
        UnsupportedError: a key changes what the model computes; the message names it.
    """
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise UnsupportedError(f"{path}: general.type is {shown(kind)}, only model is supported")
    if metadata.get("general.quantization_version", 2) != 2:
        version = shown(metadata["general.quantization_version"])
        raise UnsupportedError(f"{path}: general.quantization_version is {version}, only 2 is "
                               "supported")  # fmt: skip
    for key, value in metadata.items():
        if key.startswith(OTHER_FILES):
            raise UnsupportedError(f"{path}: {key} is not supported: the file is not a model")
        if key.startswith(f"{arch}."):
            _check_key(key, key.removeprefix(f"{arch}."), value, applied, path)


def _check_key(key: str, name: str, value: object, applied: Collection[str], path: Path) -> None:
    """UnsupportedError if a key is not applied and changes something."""
    if name in HARMLESS or name in applied:
        return
    if name == "rope.scaling.type":
        if not isinstance(value, str) or value not in SCALINGS:
            raise _refused(key, value, SCALINGS, path)
    elif name not in NEUTRAL:
        raise UnsupportedError(f"{path}: {key} {shown(value)} is not supported")
    elif not _is_neutral(value, NEUTRAL[name]):
        raise _refused(key, value, NEUTRAL[name], path)


def _refused(key: str, value: object, known: tuple[object, ...], path: Path) -> UnsupportedError:
    words = " and ".join(str(one) for one in dict.fromkeys(known))
    return UnsupportedError(f"{path}: {key} {shown(value)} is not supported, only {words}")


def _is_neutral(value: object, neutral: tuple[object, ...]) -> bool:
    """Whether a value, or each of a list, is one of these; a float is compared as float32."""
    if isinstance(value, np.ndarray):
        return all(_is_neutral(one, neutral) for one in value.tolist())
    if isinstance(value, float) and math.isnan(value):
        return False
    return value in neutral
