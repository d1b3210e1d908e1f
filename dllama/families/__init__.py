"""Model families: one file each, all of the same shape.

A family module has
  MODEL_TYPES     the model types of Hugging Face config files that it reads
  ARCH            the architecture id of its model files
  read_config     config.json -> ModelSpec
  sources         where the converter finds each tensor of the model file
  build           ModelSpec, Shard -> Program
"""

from __future__ import annotations

from types import ModuleType

from dllama.errors import UnsupportedError
from dllama.families import llama
from dllama.spec import Arch

ALL: tuple[ModuleType, ...] = (llama,)


def of_model_type(model_type: str, path: object) -> ModuleType:
    """The family that reads a config.json; UnsupportedError names those there are."""
    for family in ALL:
        if model_type in family.MODEL_TYPES:
            return family
    known = ", ".join(sorted(name for family in ALL for name in family.MODEL_TYPES))
    raise UnsupportedError(f"{path}: model_type {model_type!r} is not supported, only {known}")


def of_arch(arch: Arch, path: object = "model") -> ModuleType:
    """The family that runs a model file; UnsupportedError names those there are."""
    for family in ALL:
        if arch is family.ARCH:
            return family
    known = ", ".join(family.ARCH.name.lower() for family in ALL)
    name = arch.name.lower()
    raise UnsupportedError(f"{path}: architecture {name} is not supported, only {known}")
