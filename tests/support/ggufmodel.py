"""Writes GGUF files like llama.cpp's converter, with the gguf package's writer and names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from ggufarchs import WRITERS, Tensors, rename, stack_experts
from numpy.typing import NDArray
from oracle.huggingface import read_safetensors

from dllama.model.file import encode as blocks_of
from dllama.model.weight_types import WeightType

Type = gguf.GGMLQuantizationType
FLOATS = (
    "ffn_gate_inp",
    "ffn_gate_inp_shexp",
    "ssm_conv1d",
    "ssm_norm",
)  # are float32 whatever the type


def write_folder(path: Path, folder: Path, kind: str = "F32", **metadata: Any) -> dict[str, Any]:
    """Write the model of a Hugging Face folder, with matrices in a type of the gguf package.

    Returns:
        The tensors as NumPy arrays of bytes, by GGUF's names.
    """
    tensors: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(read_safetensors(file))
    config = json.loads((folder / "config.json").read_text())
    return write_model(path, tensors, config, kind, **metadata)


def write_model(
    path: Path, tensors: Tensors, config: dict[str, Any], kind: str, **metadata: Any
) -> dict[str, Any]:
    """Write a model with tensors of Hugging Face's names; see write_folder."""
    writer = WRITERS[config["model_type"]]
    found = stack_experts(writer.tensors(tensors, config))
    renamed = rename(found, writer.arch, config["num_hidden_layers"])
    stored = {name: encode(name, tensor, kind) for name, tensor in renamed.items()}
    arch = gguf.MODEL_ARCH_NAMES[writer.arch]
    keys = {f"{arch}.{k}": value for k, value in writer.keys(config).items() if value is not None}
    write(path, arch, stored, {**keys, **metadata})
    return {name: array for name, (array, _) in stored.items()}


def keys(arch: str, **changes: Any) -> dict[str, Any]:
    """Return the metadata that every file has; `changes` come without the architecture."""
    values = {
        "context_length": 64, "embedding_length": 64, "block_count": 1, "feed_forward_length": 32,
        "attention.head_count": 4, "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    return {f"{arch}.{key}": value for key, value in (values | changes).items()}


def encode(name: str, tensor: NDArray[Any], kind: str) -> tuple[NDArray[Any], Type]:
    """Return the bytes of a tensor and their type; vectors, norms and routers stay float32."""
    if tensor.dtype == np.uint8:
        return tensor, Type.MXFP4
    part = name.removesuffix(".weight").rpartition(".")[2]
    if tensor.ndim == 1 or not name.endswith(".weight") or part in FLOATS or part.endswith("norm"):
        return tensor.astype(np.float32), Type.F32
    numbers = tensor.astype(np.float32)
    if kind.endswith("_K"):
        blocks = blocks_of(numbers, WeightType[kind.replace("_", "")])
        return blocks.reshape(*tensor.shape[:-1], -1), Type[kind]
    return gguf.quantize(numbers, Type[kind]), Type[kind]


def read(path: Path) -> tuple[dict[str, tuple[NDArray[Any], Type]], dict[str, Any]]:
    """Return the tensors of a file and the metadata that write() does not add by itself."""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: (np.array(tensor.data), tensor.tensor_type)
               for tensor in reader.tensors}  # fmt: skip
    own = ("GGUF.", "general.architecture")
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith(own)}
    return tensors, fields


def write(
    path: Path,
    arch: str,
    tensors: dict[str, tuple[NDArray[Any], Type]],
    metadata: dict[str, Any],
) -> None:
    """Write a file with any tensors. Metadata has full keys; tuples become arrays of integers."""
    path.unlink(missing_ok=True)  # ext4 waits for the disk if a file is cut to nothing instead
    writer = gguf.GGUFWriter(path, arch)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
