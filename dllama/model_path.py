"""The model that a path stands for, what to call it, and its tokenizer."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dllama.errors import ConfigError, ModelError
from dllama.model.file import ModelFile
from dllama.model.formats import is_gguf
from dllama.model.stored_model import StoredModel
from dllama.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from dllama.converter.gguf_model import GgufModel

log = logging.getLogger("dllama.engine")

DEMO = Path(__file__).parent / "demo"
CONFIG = "config.json"


def open_model(model: str | Path | None, requantise: bool = False) -> StoredModel:
    """Open a model folder, a .m file, a GGUF file, or None for the demo model.

    Args:
        model: the path; of a split GGUF model, any of its files.
        requantise: convert tensors of a GGUF file that have no weight type to q80.

    Raises:
        ModelError: there is no such model, or it cannot be read.
        FormatError: a file is broken.
        UnsupportedError: the model uses something that dllama does not implement.
    """
    path = _file(DEMO if model is None else Path(model).expanduser())
    if is_gguf(path):
        # It takes a quarter of the time in which everything else is imported.
        from dllama.converter.gguf_model import GgufModel

        return GgufModel(path, requantise)
    return ModelFile.open(path)


def planned_model(model: str | None, weights: str | None, requantise: bool = False) -> StoredModel:
    """Open a model, or what a config.json would become, for plans.

    Args:
        model: as open_model takes it, or a config.json, or a folder with one and without a model.
        weights: type of the matrices of a model that is not converted yet, as for `convert`.
        requantise: as open_model.

    Raises:
        ConfigError: weights are given for a model that has its own.
        ModelError, FormatError, UnsupportedError: there is no model, or it is wrong.
    """
    from dllama.planning.unwritten import unwritten  # the converter takes a while to import

    path = Path(model).expanduser() if model else DEMO
    if path.is_dir() and not [*path.glob("*.m")] and (path / CONFIG).is_file():
        path /= CONFIG
    if path.suffix == ".json":
        return unwritten(path, weights)
    if weights is not None:
        raise ConfigError(f"weights is for a {CONFIG}, and {model or 'the model'} has its own")
    return open_model(model, requantise)


def _file(path: Path) -> Path:
    """The file of a model; a folder's is model.m, or its only .m file."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelError(f"{path}: no such model file or folder")
    found = sorted(path.glob("*.m"))
    if (path / "model.m") in found:
        return path / "model.m"
    if len(found) != 1:
        raise ModelError(f"{path}: holds {len(found)} .m files and no model.m, expected one")
    return found[0]


def model_folder(path: Path) -> Path | None:
    """The folder whose other files belong to a model's file; None for a GGUF file."""
    return None if is_gguf(path) else path.parent


def model_name(path: Path) -> str:
    """What to call the model of a file: by its folder if it is model.m, else by the file, without
    the number of a split model."""
    if path.name == "model.m":
        name = Path(os.path.abspath(path)).parent.name  # noqa: PTH100  (links keep their names)
    else:
        name = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
    return name.encode(errors="replace").decode()


def own_tokenizer(model: StoredModel) -> Tokenizer | None:
    """The tokenizer in a GGUF file, or the one beside a model file; None if there is none."""
    if isinstance(model, ModelFile):
        return Tokenizer.beside(model.path)
    return cast("GgufModel", model).tokenizer()


def tokenizer_of(model: StoredModel, tokenizer: str | Path | None) -> Tokenizer | None:
    """The tokenizer asked for, or the model's own, if it fits the model."""
    path = model.path if tokenizer is None else Path(tokenizer).expanduser()
    opened = own_tokenizer(model) if tokenizer is None else Tokenizer.open(path)
    if opened is None:
        log.warning("%s has no tokenizer: it takes and gives ids only", model.path)
        return None
    if opened.vocab_size > model.spec.vocab_size:
        raise ModelError(
            f"{path}: the tokenizer has {opened.vocab_size} tokens, more than the "
            f"{model.spec.vocab_size} of {model.path}"
        )
    if opened.vocab_size < model.spec.vocab_size:
        log.warning(
            "%s: the tokenizer has %d tokens, %s has %d",
            path, opened.vocab_size, model.path, model.spec.vocab_size,
        )  # fmt: skip
    return opened
