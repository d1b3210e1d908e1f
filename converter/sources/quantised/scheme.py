"""What a quantisation makes of the names of tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from dllama.converter.sources.quantised.matrix import Grid, QuantisedMatrix
from dllama.converter.sources.stored import DTYPES, MappedTensor, Stored
from dllama.errors import DllamaError, FormatError, UnsupportedError

WEIGHT = "weight"
# The tensors of a module, by the last words of their names.
Parts = Mapping[str, MappedTensor]


@dataclass(frozen=True)
class Scheme:
    """How the weights of a checkpoint are quantised.

    A module MODULE has the tensors MODULE.PART in place of MODULE.weight. Modules with a weight of
    floats and no other part are not quantised.

    Attributes:
        name: for messages.
        weights: as in Checkpoint.
        parts: the tensors of a module; those that `read` needs come first.
        needed: how many of them every module must have.
        excluded: modules that are not quantised. A name stands for all modules within it. The
            tensors of a module say whether it is quantised; this is only compared with them.
        read: from the tensors of a module to its matrix. FormatError names a tensor.
        file: a file beside the config.json that says the same.
        inexact: what in the config says that no block of a model file holds the integers, or "".
    """

    name: str
    weights: str | None
    parts: tuple[str, ...]
    needed: int
    excluded: tuple[str, ...]
    read: Callable[[Parts], Grid]
    file: str = ""
    inexact: str = ""

    def names(self, weights: Collection[str]) -> set[str]:
        """The names of all tensors that may be there for some weights, and those of the weights."""
        modules = [name.removesuffix(WEIGHT) for name in weights if name.endswith("." + WEIGHT)]
        return {*weights, *(module + part for module in modules for part in self.parts)}

    def matrices(
        self,
        tensors: Mapping[str, MappedTensor],
        absent: Mapping[str, DllamaError],
        path: object,
    ) -> tuple[dict[str, Stored], dict[str, DllamaError]]:
        """Put matrices in place of the tensors that they consist of.

        Args:
            tensors: all tensors.
            absent: as in Checkpoint.
            path: the config.json, for messages.

        Returns:
            All tensors of the model, and what is absent.

        Raises:
            FormatError: a tensor is missing, or has the wrong type or shape.
            UnsupportedError: the config.json says something else.
        """
        missing = dict(absent)
        for name, error in absent.items():
            module, _, part = name.rpartition(".")
            if part in self.parts:
                missing.setdefault(f"{module}.{WEIGHT}", error)
        found: dict[str, Stored] = dict(self._others(tensors))
        count = 0
        for module, parts in self._modules(tensors):
            weight = f"{module}.{WEIGHT}"
            if weight in missing:
                continue
            self._check(module, parts, weight in found, path)
            grid = self.read(parts)
            found[weight] = QuantisedMatrix(grid, grid.shape)
            count += 1
        if not count and not missing:
            raise UnsupportedError(f"{path}: {self.name}: no tensor is quantised in this way")
        return found, missing

    def _modules(self, tensors: Mapping[str, MappedTensor]) -> Iterator[tuple[str, Parts]]:
        """Yield the quantised modules."""
        modules: dict[str, dict[str, MappedTensor]] = {}
        for name, tensor in tensors.items():
            module, _, part = name.rpartition(".")
            if part in self.parts and not self._plain(name, tensors):
                modules.setdefault(module, {})[part] = tensor
        yield from modules.items()

    def _others(self, tensors: Mapping[str, MappedTensor]) -> Iterator[tuple[str, Stored]]:
        """Yield the tensors that belong to no quantised module."""
        for name, tensor in tensors.items():
            if name.rpartition(".")[2] not in self.parts or self._plain(name, tensors):
                yield name, tensor

    def _plain(self, name: str, tensors: Mapping[str, MappedTensor]) -> bool:
        """Whether a tensor is a weight of floats without other parts."""
        module, _, part = name.rpartition(".")
        return (
            part == WEIGHT
            and tensors[name].dtype in DTYPES
            and not any(f"{module}.{other}" in tensors for other in self.parts if other != WEIGHT)
        )

    def _check(self, module: str, parts: Parts, twice: bool, path: object) -> None:
        """Refuse a module that lacks a tensor or has one too many, or that is excluded."""
        some = next(iter(parts.values()))
        for part in self.parts[: self.needed]:
            if part not in parts:
                raise FormatError(
                    some.path, f"{module}.{part}", "missing", f"it beside {some.name}"
                )
        if twice:
            expected = f"no weight beside {some.name}"
            raise FormatError(some.path, f"{module}.{WEIGHT}", "there", expected)
        for pattern in self.excluded:
            if f".{pattern}." in f".{module}.":
                raise UnsupportedError(
                    f"{path}: {self.name}: {pattern} is said not to be quantised, but there is "
                    f"{some.name}"
                )
