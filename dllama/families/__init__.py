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
from dllama.spec import HiddenAct, ModelSpec

ALL: tuple[ModuleType, ...] = (llama,)


def of_model_type(model_type: str, path: object) -> ModuleType:
    """The family that reads a config.json; UnsupportedError names those there are."""
    for family in ALL:
        if model_type in family.MODEL_TYPES:
            return family
    known = ", ".join(sorted(name for family in ALL for name in family.MODEL_TYPES))
    raise UnsupportedError(f"{path}: model_type {model_type!r} is not supported, only {known}")


def of_spec(spec: ModelSpec, path: object = "model") -> ModuleType:
    """The family that runs a model file; UnsupportedError names those there are."""
    if spec.hidden_act is not HiddenAct.SILU:
        raise UnsupportedError(f"{path}: hidden_act {spec.hidden_act.name.lower()} does not run")
    if spec.n_experts:
        raise UnsupportedError(f"{path}: a model of {spec.n_experts} experts does not run")
    for family in ALL:
        if spec.arch is family.ARCH:
            return family
    known = ", ".join(family.ARCH.name.lower() for family in ALL)
    name = spec.arch.name.lower()
    raise UnsupportedError(f"{path}: architecture {name} is not supported, only {known}")
