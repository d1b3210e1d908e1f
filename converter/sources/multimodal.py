"""Models that take more than text: the part of their config and of their tensors that is text.

The config.json of such a model has that of the text model in text_config. The tensors of the text
model have a prefix. Those of the other parts are left out, and a warning says so.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from dllama.converter.families.keys import check_keys
from dllama.errors import FormatError, UnsupportedError

log = logging.getLogger("dllama.convert")

T = TypeVar("T")


class Whole(NamedTuple):
    """A model with several parts.

    Args:
        text: model_type of text_config, if that does not say.
        architectures: the values of architectures.
    """

    text: str
    architectures: tuple[str, ...]


# By model_type.
MODELS = {
    "gemma3": Whole("gemma3_text", ("Gemma3ForConditionalGeneration",)),
    "gemma4": Whole("gemma4_text", ("Gemma4ForConditionalGeneration",)),
    "qwen3_5": Whole("qwen3_5_text", ("Qwen3_5ForConditionalGeneration",)),
    "qwen3_5_moe": Whole("qwen3_5_moe_text", ("Qwen3_5MoeForConditionalGeneration",)),
    "mistral3": Whole("mistral", ("Mistral3ForConditionalGeneration",)),
}
# Fields of the whole config that say nothing about text.
OTHERS = frozenset({
    "architectures", "model_type", "quantization_config", "text_config", "tie_word_embeddings",
    "vision_config",
    # Tokens that stand for images and sounds, and how these become such tokens.
    "audio_config", "audio_token_id", "boa_token_id", "boa_token_index", "boi_token_id",
    "boi_token_index", "eoa_token_id", "eoa_token_index", "eoi_token_id", "eoi_token_index",
    "image_token_id", "image_token_index", "mm_tokens_per_image", "multimodal_projector_bias",
    "projector_hidden_act", "spatial_merge_size", "video_token_id", "vision_end_token_id",
    "vision_feature_layer", "vision_soft_tokens_per_image", "vision_start_token_id",
})  # fmt: skip
# Fields of the whole config that also count for text.
SHARED = ("quantization_config", "tie_word_embeddings")
# Prefixes of text tensors, in files of transformers 4 and 5, and what they stand for.
TEXT = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "lm_head.": "lm_head.",
}
PARTS = "audio_tower|embed_audio|embed_vision|multi_modal_projector|vision_tower|visual"
PART = re.compile(rf"(?:model\.)?({PARTS})\.")


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether a config is that of a model with several parts, of which one is text."""
    kind = config.get("model_type")
    return isinstance(kind, str) and kind in MODELS


def text_config(config: dict[str, Any], path: object) -> dict[str, Any]:
    """The config of the text model in that of a whole model.

    Raises:
        FormatError: there is none.
        UnsupportedError: a field of the whole config may change what the text model computes.
    """
    whole = MODELS[config["model_type"]]
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise FormatError(path, "text_config", repr(text), "an object")
    for name in config.get("architectures") or ():
        if name not in whole.architectures:
            known = ", ".join(whole.architectures)
            raise UnsupportedError(
                f"{path}: the architecture {name!r} is not supported for this model_type, "
                f"only {known}"
            )
    check_keys(config, OTHERS, path)
    shared = {name: config[name] for name in SHARED if name in config}
    return {"model_type": whole.text, **shared, **text, "architectures": None}


def text_tensors(tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors of the text model, with the names that they have without other parts.

    Those that belong to no part keep their names.
    """
    found = {}
    for name, tensor in tensors.items():
        if not PART.match(name):
            prefix = next((prefix for prefix in TEXT if name.startswith(prefix)), "")
            found[TEXT.get(prefix, "") + name.removeprefix(prefix)] = tensor
    return found


def warn_of_parts(tensors: Iterable[str], path: object) -> None:
    """Say which parts are left out."""
    parts = sorted({match[1] for name in tensors if (match := PART.match(name))})
    if parts:
        log.warning("%s: only text is read, without %s", path, " and ".join(parts))
