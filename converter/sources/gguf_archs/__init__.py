"""Architectures of GGUF files, a module for each: how metadata and tensors become Hugging Face's.

A module has ARCHS, its descriptions (arch.py says what is in them). gguf_config.py reads files by
them. What a model computes is the business of its family in dllama.converter.families, so a
description only says under which names the family finds sizes and tensors.

Names and keys are those of gguf-py/gguf/constants.py of github.com/ggml-org/llama.cpp. What its
converter does to tensors stands in conversion/ there, and what it assumes without a key in
src/models/.
"""

from __future__ import annotations

from dllama.converter.sources.gguf_archs import (
    deepseek,
    exaone4,
    falcon_h1,
    gemma,
    gemma4,
    glm4,
    gpt_oss,
    granite,
    layernorms,
    llama,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    qwen35,
    smollm3,
)
from dllama.converter.sources.gguf_archs.arch import Arch
from dllama.errors import UnsupportedError

MODULES = (
    llama,
    qwen2,
    qwen3,
    granite,
    smollm3,
    phi3,
    olmo2,
    glm4,
    exaone4,
    gemma,
    gemma4,
    gpt_oss,
    deepseek,
    qwen35,
    layernorms,
    falcon_h1,
)
ALL: tuple[Arch, ...] = tuple(arch for module in MODULES for arch in module.ARCHS)


def of_name(name: str | None, experts: bool, path: object) -> Arch:
    """The description of an architecture.

    Args:
        name: general.architecture.
        experts: whether the file has experts.
        path: the file, for the message.

    Raises:
        UnsupportedError: there is none.
    """
    found = [arch for arch in ALL if arch.name == name]
    if not found:
        known = ", ".join(dict.fromkeys(arch.name for arch in ALL))
        raise UnsupportedError(f"{path}: architecture {name!r} is not supported, only {known}")
    return next((arch for arch in found if arch.experts is experts), found[0])
