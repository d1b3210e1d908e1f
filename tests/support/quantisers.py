"""Hugging Face folders with quantised weights, written from the definitions of the formats.

Every function here takes numbers and gives tensors as the formats store them, with NumPy alone and
one number at a time where bits are packed. I: inputs (columns of a weight). O: outputs (its rows).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Tensors = dict[str, NDArray[Any]]
LINEAR = re.compile(r"(model\.layers\..*(?:_proj|w[123]))\.weight")


class Typed(NamedTuple):
    """A tensor of a type that NumPy does not have, by its bits."""

    bits: NDArray[Any]
    dtype: str


class Grouped(NamedTuple):
    """A matrix in groups of columns: scales[o, g] * (numbers[o, i] - zeros[o, g]).

    numbers: int (O, I). scales: (O, G). zeros: int (O, G). order: the group of each column, (I,).
    """

    numbers: NDArray[np.int64]
    scales: NDArray[np.floating]
    zeros: NDArray[np.int64]
    order: NDArray[np.int64]

    def decoded(self) -> NDArray[np.float32]:
        """The weight, float32 (O, I)."""
        numbers = self.numbers - self.zeros[:, self.order]
        return self.scales.astype(np.float32)[:, self.order] * numbers.astype(np.float32)


def grouped(
    weight: NDArray[Any],
    bits: int,
    group: int,
    symmetric: bool,
    order: NDArray[np.int64] | None = None,
    dtype: Any = np.float16,
) -> Grouped:
    """Round a weight to numbers from 0 to 2^bits - 1, half to even.

    dtype: of the scales.
    """
    columns = weight.shape[1]
    order = np.arange(columns) // group if order is None else order
    numbers = np.zeros(weight.shape, np.int64)
    groups = int(order.max()) + 1
    scales, zeros = np.zeros((len(weight), groups), dtype), np.zeros((len(weight), groups), int)
    top, half = 2**bits - 1, 2 ** (bits - 1)
    for g in range(groups):
        part = weight[:, order == g].astype(np.float64)
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            scales[:, g] = 2 * np.maximum(-low, high) / top
            zeros[:, g] = half
        else:
            scales[:, g] = (high - low) / top
            zeros[:, g] = np.clip(np.rint(-low / scales[:, g]), 1, top)
        rounded = np.rint(part / scales[:, g, None].astype(np.float64)) + zeros[:, g, None]
        numbers[:, order == g] = np.clip(rounded, 0, top)
    return Grouped(numbers, scales, zeros, order)


def words(numbers: NDArray[Any], bits: int, places: list[int] | None = None) -> NDArray[np.int32]:
    """Pack the last axis: number i of a word begins at bit bits * places[i]."""
    per_word = 32 // bits
    places = list(range(per_word)) if places is None else places
    count = -(-numbers.shape[-1] // per_word)
    out = np.zeros((*numbers.shape[:-1], count), np.uint64)
    for i in range(numbers.shape[-1]):
        shift = np.uint64(bits * places[i % per_word])
        out[..., i // per_word] |= (numbers[..., i].astype(np.uint64) & np.uint64(255)) << shift
    return out.astype(np.uint32).view(np.int32)


def gptq(matrix: Grouped, bits: int, version: int = 1, order: bool = True) -> Tensors:
    """The tensors of a module as AutoGPTQ stores them."""
    stored = matrix.zeros - 1 if version == 1 else matrix.zeros
    tensors: Tensors = {
        "qweight": words(matrix.numbers, bits).T,
        "qzeros": words(stored.T, bits),
        "scales": matrix.scales.T,
    }
    return {**tensors, "g_idx": matrix.order.astype(np.int32)} if order else tensors


def awq(matrix: Grouped) -> Tensors:
    """The tensors of a module as AutoAWQ stores them: outputs 0 2 4 6 1 3 5 7 in a word."""
    places = [0, 4, 1, 5, 2, 6, 3, 7]
    return {
        "qweight": words(matrix.numbers.T, 4, places),
        "qzeros": words(matrix.zeros.T, 4, places),
        "scales": matrix.scales.T,
    }


def e4m3(numbers: NDArray[np.floating]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The nearest numbers of E4M3, as bytes and as float32."""
    values = []
    for byte in range(127):
        exponent, fraction = byte // 8, byte % 8
        values.append((8 + fraction) / 8 * 2.0 ** (exponent - 7) if exponent else fraction / 512)
    table = np.array(values)
    index = np.abs(np.abs(numbers)[..., None] - table).argmin(-1)
    negative = numbers < 0
    decoded = np.where(negative, -table[index], table[index]).astype(np.float32)
    return (index + 128 * negative).astype(np.uint8), decoded


def bf16(numbers: NDArray[np.floating]) -> Typed:
    """Numbers as bfloat16, cut off."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32) >> 16
    return Typed(bits.astype(np.uint16), "BF16")


def value_of(tensor: Any) -> NDArray[Any]:
    """The numbers of a tensor that may be bfloat16."""
    if isinstance(tensor, Typed):
        return (tensor.bits.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(tensor)


def write_safetensors(path: Path, tensors: dict[str, Any]) -> None:
    """Write a file with types that NumPy does not have."""
    plain = {
        name: np.ascontiguousarray(t.bits if isinstance(t, Typed) else t)
        for name, t in tensors.items()
    }
    save_file(plain, path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for name, tensor in tensors.items():
        if isinstance(tensor, Typed):
            header[name]["dtype"] = tensor.dtype
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


Module = Callable[[NDArray[Any]], tuple[dict[str, Any], NDArray[np.float32]]]


def write_folder(
    source: Path,
    target: Path,
    config: dict[str, Any],
    module: Module,
    names: re.Pattern[str] = LINEAR,
) -> Path:
    """Copy a folder, some of its matrices quantised.

    Args:
        source: a folder with one file of tensors.
        target: the folder to write.
        config: the quantization_config.
        module: from a weight (O, I) to the tensors of the module and the decoded weight.
        names: of the matrices; its group is the name of the module. Default: those in layers.

    Returns:
        Another folder with the decoded weights as float32.
    """
    plain = target.with_name(f"{target.name}-decoded")
    shutil.copytree(source, target)
    shutil.copytree(source, plain)
    described = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**described, "quantization_config": config}))
    stored, decoded = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        match = names.fullmatch(name)
        if match is None:
            stored[name], decoded[name] = tensor, tensor.astype(np.float32)
            continue
        parts, decoded[name] = module(tensor.astype(np.float32))
        stored |= {f"{match[1]}.{part}": value for part, value in parts.items()}
    write_safetensors(target / "model.safetensors", stored)
    save_file(decoded, plain / "model.safetensors")
    return plain


def edit_config(folder: Path, **changes: Any) -> None:
    """Change fields of the quantization_config; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    fields = {**config["quantization_config"], **changes}
    fields = {name: value for name, value in fields.items() if value is not None}
    path.write_text(json.dumps({**config, "quantization_config": fields}))


def edit_tensor(folder: Path, name: str, change: Callable[[NDArray[Any]], Any]) -> None:
    """Change a tensor of a folder; None removes it."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    save_file({name: value for name, value in tensors.items() if value is not None}, path)


def read_safetensors(path: Path) -> dict[str, Any]:
    """All tensors of a file that `write_safetensors` wrote."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    tensors: dict[str, Any] = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        other = {"F8_E4M3": "u1", "BF16": "<u2"}.get(entry["dtype"])
        known = {"F32": "<f4", "F16": "<f2", "I8": "i1", "I32": "<i4", "I64": "<i8"}
        array = np.frombuffer(body[begin:end], other or known[entry["dtype"]])
        array = array.reshape(entry["shape"])
        tensors[name] = Typed(array, entry["dtype"]) if other else array
    return tensors
