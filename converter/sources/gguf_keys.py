"""Which keys of GGUF metadata may stand beside those that gguf_config.py applies.

A key of an architecture changes what a model computes, unless it is listed here. So a key that is
neither applied nor listed is refused by name. Keys are those of gguf-py/gguf/constants.py of
github.com/ggml-org/llama.cpp, without the architecture and the dot; what their values mean follows
src/llama-model.cpp there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from dllama.checks import shown
from dllama.converter.sources.gguf_archs.arch import Given
from dllama.errors import UnsupportedError

Neutral = Mapping[str, tuple[object, ...]]

# Keys that say nothing about the forward pass of a causal language model.
HARMLESS = frozenset({
    "vocab_size",  # compared with the embedding
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
})  # fmt: skip
# Values with which a key changes nothing.
NO_ID = 0xFFFFFFFF  # -1 as it is written
OFF = (0, False)
ONE = (0, 1)  # a factor that is 0 stands for none
NEUTRAL: Neutral = {
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
    "expert_count": OFF,
    "expert_used_count": OFF,
    "expert_feed_forward_length": OFF,
    "expert_shared_count": OFF,
    "expert_shared_feed_forward_length": OFF,
    "expert_group_count": ONE,
    "expert_group_used_count": ONE,
    "expert_group_scale": ONE,
    "expert_weights_scale": ONE,
    "expert_weights_norm": (True, 1),
    "expert_gating_func": ONE,  # 1 is softmax
    "attention.causal": (True, 1),
    "attention.sliding_window": (0, False, NO_ID),
    "attention.max_alibi_bias": OFF,
    "attention.clamp_kqv": OFF,
    "attention.output_scale": ONE,
    "attention.temperature_length": OFF,
    "attention.temperature_scale": OFF,
    "attention.shared_kv_layers": OFF,
    "rope.scaling.type": ("none", "linear", "yarn"),  # with a factor of 1
    "rope.scale_linear": ONE,
    "rope.scaling.factor": ONE,
    "rope.scaling.yarn_ext_factor": (1, -1),  # -1: as it is usual
    "rope.scaling.attn_factor": ONE,
    "rope.scaling.yarn_attn_factor": ONE,
    "rope.scaling.yarn_log_multiplier": OFF,
}
# Namespaces that describe another kind of file.
OTHER_FILES = ("adapter.", "clip.", "controlvector.", "imatrix.chunk_count")


def check_keys(given: Given, applied: Collection[str], neutral: Neutral) -> None:
    """Make sure that every key is applied or changes nothing.

    Args:
        given: the file.
        applied: the keys of its architecture that are applied.
        neutral: values with which keys of the architecture change nothing, beside NEUTRAL.

    Raises:
        UnsupportedError: a key changes what the model computes; the message names it.
    """
    metadata, path = given.metadata, given.path
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise UnsupportedError(f"{path}: general.type is {shown(kind)}, only model is supported")
    if metadata.get("general.quantization_version", 2) != 2:
        version = shown(metadata["general.quantization_version"])
        raise UnsupportedError(f"{path}: general.quantization_version is {version}, only 2 is "
                               "supported")  # fmt: skip
    known = {**NEUTRAL, **dict.fromkeys(HARMLESS), **neutral, **dict.fromkeys(applied)}
    for key, value in metadata.items():
        if key.startswith(OTHER_FILES):
            raise UnsupportedError(f"{path}: {key} is not supported: the file is not a model")
        if key.startswith(given.key("")):
            _check_key(key, value, known.get(key.removeprefix(given.key("")), ()), path)


def _check_key(key: str, value: object, known: tuple[object, ...] | None, path: Path) -> None:
    """UnsupportedError if a key changes something that is not applied.

    Args:
        key: the key.
        value: its value.
        known: values that change nothing; None: all values are applied or harmless.
        path: the file.
    """
    if known == ():
        raise UnsupportedError(f"{path}: {key} {shown(value)} is not supported")
    if known is not None and not _is_neutral(value, known):
        raise _refused(key, value, known, path)


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
