"""Model families, a module for each: how to read its config.json, and where its tensors are.

A family module has
  MODEL_TYPES     the values of model_type in config.json that it reads, or of architectures if
                  model_type is missing
  read_config     config.json -> ModelSpec
  sources         where the converter finds each tensor of the model file

How a model runs only depends on its ModelSpec (dllama.graph.build).
"""

from __future__ import annotations

from types import ModuleType

from dllama.converter.families import grok, llama, mixtral, qwen2, qwen3, qwen3_moe
from dllama.converter.families.config import Config
from dllama.errors import UnsupportedError

ALL: tuple[ModuleType, ...] = (llama, qwen2, qwen3, qwen3_moe, mixtral, grok)


def of_config(config: Config, path: object) -> ModuleType:
    """The family of a config.json; UnsupportedError if there is none."""
    classes = config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else None
    model_type = str(config.get("model_type") or named)
    for family in ALL:
        if model_type in family.MODEL_TYPES:
            return family
    known = ", ".join(name for family in ALL for name in family.MODEL_TYPES)
    raise UnsupportedError(f"{path}: model_type {model_type!r} is not supported, only {known}")
