"""Model families: one file each, all of the same shape.

A family module has
  MODEL_TYPES     the model types (or classes, where there is none) of Hugging Face config files
                  that it reads
  runs            whether a model file is one of this family
  read_config     config.json -> ModelSpec
  sources         where the converter finds each tensor of the model file
  build           ModelSpec, Shard -> Graph
"""

from __future__ import annotations

from types import ModuleType

from dllama.converter.families import grok, llama, mixtral, qwen2, qwen3, qwen3_moe
from dllama.converter.families.config import Config
from dllama.errors import UnsupportedError
from dllama.model.spec import ModelSpec

ALL: tuple[ModuleType, ...] = (llama, qwen2, qwen3, qwen3_moe, mixtral, grok)


def of_config(config: Config, path: object) -> ModuleType:
    """The family that reads a config.json; UnsupportedError names those there are."""
    classes = config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else None
    model_type = str(config.get("model_type") or named)
    for family in ALL:
        if model_type in family.MODEL_TYPES:
            return family
    known = ", ".join(name for family in ALL for name in family.MODEL_TYPES)
    raise UnsupportedError(f"{path}: model_type {model_type!r} is not supported, only {known}")


def of_spec(spec: ModelSpec, path: object = "model") -> ModuleType:
    """The family that runs a model file; UnsupportedError where there is none."""
    for family in ALL:
        if family.runs(spec):
            return family
    what = f"{spec.arch.name.lower()} with {spec.n_experts} experts"
    what += " and norms behind its blocks" if spec.post_norms else ""
    raise UnsupportedError(f"{path}: architecture {what} is not supported")
