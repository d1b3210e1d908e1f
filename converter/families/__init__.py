"""Model families, a module for each: how to read its config.json, and where its tensors are.

A family module has
  MODEL_TYPES     the values of model_type in config.json that it reads, or of architectures if
                  model_type is missing
  ARCHITECTURES   the values of architectures that it reads
  KEYS            the fields of config.json that it reads or refuses (keys.py has harmless ones)
  read_config     config.json -> ModelSpec
  sources         where the converter finds each tensor of the model file
  factors         if it has some: config.json -> what tensors are multiplied by, by the last word of
                  their names in the model file

How a model runs only depends on its ModelSpec (dllama.graph.build).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

from dllama.converter.families import (
    deepseek_v2,
    deepseek_v3,
    exaone4,
    falcon_h1,
    gemma2,
    gemma3,
    gemma4,
    glm4,
    glm4_moe,
    gpt_oss,
    granite,
    granite_moe,
    grok,
    llama,
    mixtral,
    olmo2,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_5,
    qwen3_5_moe,
    qwen3_moe,
    qwen3_next,
    smollm3,
    stablelm,
    starcoder2,
)
from dllama.converter.families.config import Config
from dllama.converter.families.source import Source
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import ModelSpec

ALL: tuple[ModuleType, ...] = (
    llama, qwen2, qwen2_moe, qwen3, qwen3_moe, qwen3_5, qwen3_5_moe, qwen3_next, mixtral, granite,
    granite_moe, smollm3, phi3, olmo2, glm4, glm4_moe, deepseek_v2, deepseek_v3, exaone4,
    falcon_h1, gemma2, gemma3, gemma4, gpt_oss, starcoder2, stablelm, grok,
)  # fmt: skip


def sources_of(
    family: ModuleType, spec: ModelSpec, config: Config, path: object
) -> Iterator[Source]:
    """Where each tensor of a model is, with its factor; FormatError names a field of the config."""
    factors = family.factors(config, path) if hasattr(family, "factors") else {}
    for source in family.sources(spec):
        factor = factors.get(source.name.rpartition(".")[2])
        yield source if factor is None else replace(source, factor=factor)


def of_config(config: Config, path: object) -> ModuleType:
    """The family of a config.json.

    Raises:
        FormatError: architectures is no list of names.
        UnsupportedError: there is no such family, or it does not know the architecture.
    """
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise FormatError(path, "architectures", repr(classes), "a list of names")
    family = _of_type(config.get("model_type") or (classes[0] if classes else None), path)
    for name in classes:
        if name not in family.ARCHITECTURES:
            known = ", ".join(family.ARCHITECTURES)
            raise UnsupportedError(
                f"{path}: the architecture {name!r} is not supported for this model_type, "
                f"only {known}"
            )
    return family


def _of_type(model_type: object, path: object) -> ModuleType:
    for family in ALL:
        if model_type in family.MODEL_TYPES:
            return family
    known = ", ".join(name for family in ALL for name in family.MODEL_TYPES)
    raise UnsupportedError(f"{path}: model_type {model_type!r} is not supported, only {known}")
