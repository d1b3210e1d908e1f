"""The files of a model: which one a path stands for, what to call it, and its tokenizer."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from dllama.converter.cache import cached_model
from dllama.converter.sources.gguf import GgufFile
from dllama.errors import ModelError
from dllama.model.spec import ModelSpec
from dllama.text.tokenizer import Tokenizer

log = logging.getLogger("dllama.engine")

DEMO = Path(__file__).parent / "demo"


def model_file(model: str | Path | None, progress: bool = False) -> Path:
    """The .m file of a model folder, a path to one or to a GGUF file, or None for the demo model.

    A GGUF file stands for the model folder that is made of it on first use (converter/cache.py);
    progress: show a bar while it is made.
    """
    path = DEMO if model is None else Path(model).expanduser()
    if path.is_file() and GgufFile.recognises(path):
        return cached_model(path, progress) / "model.m"
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


def model_name(model: str | Path | None, file: Path) -> str:
    """What to call a model, of which model_file made `file`: by its folder where that holds it as
    model.m, else by the file; by a GGUF file that it is made of."""
    given = file if model is None else Path(model).expanduser()
    if given.is_file() and given != file:
        name = re.sub(r"-00001-of-\d{5}$", "", given.stem)  # of several files
    elif file.name == "model.m":
        name = Path(os.path.abspath(file)).parent.name  # noqa: PTH100  (links keep their names)
    else:
        name = file.stem
    return name.encode(errors="replace").decode()


def tokenizer_of(model: Path, tokenizer: str | Path | None, spec: ModelSpec) -> Tokenizer | None:
    """The tokenizer asked for, or the one beside the model, if it fits the model."""
    path = Path(tokenizer).expanduser() if tokenizer is not None else model.parent
    opened = Tokenizer.open(path) if tokenizer is not None else Tokenizer.beside(model)
    if opened is None:
        log.warning("%s has no tokenizer beside it: it takes and gives ids only", model)
        return None
    if opened.vocab_size > spec.vocab_size:
        raise ModelError(
            f"{path}: the tokenizer has {opened.vocab_size} tokens, more than the "
            f"{spec.vocab_size} of {model}"
        )
    if opened.vocab_size < spec.vocab_size:
        log.warning(
            "%s: the tokenizer has %d tokens, %s has %d",
            path, opened.vocab_size, model, spec.vocab_size,
        )  # fmt: skip
    return opened
