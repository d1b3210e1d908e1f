"""Random models as GGUF files, in any type of ggml, and what they are to the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import ggufmodel
import numpy as np
from numpy.typing import NDArray

Type = gguf.GGMLQuantizationType
Tensors = dict[str, tuple[NDArray[Any], Type]]
SIZES = {"embedding_length": 256, "feed_forward_length": 512, "block_count": 2,
         "attention.head_count": 4, "attention.head_count_kv": 2}  # fmt: skip
EXPERTS = {"expert_count": 3, "expert_used_count": 2, "expert_feed_forward_length": 512}
GRANITE = ("granite.embedding_scale", "granite.residual_scale", "granite.attention.scale",
           "granite.logit_scale")  # fmt: skip
VOCAB = 96
# Types whose blocks have float16 numbers: where they are, and how they relate.
SCALES: dict[str, dict[int, float]] = {
    "Q4_0": {0: 1}, "Q4_1": {0: 1, 2: -7.5}, "Q5_0": {0: 1}, "Q5_1": {0: 1, 2: -15.5},
    "Q8_0": {0: 1}, "Q2_K": {80: 1, 82: 1.5}, "Q3_K": {108: 1}, "Q4_K": {0: 1, 2: 7.5},
    "Q5_K": {0: 1, 2: 15.5}, "Q6_K": {208: 1}, "IQ4_NL": {0: 1}, "IQ4_XS": {0: 1},
    "IQ2_XXS": {0: 1},
}  # fmt: skip
SPREAD = 0.06  # standard deviation of the numbers


def random_matrix(
    rng: np.random.Generator, shape: tuple[int, ...], kind: str
) -> tuple[NDArray[Any], Type]:
    """Return random valid blocks."""
    if kind in ("F32", "F16", "BF16"):
        numbers = (SPREAD * rng.standard_normal(shape)).astype(np.float32)
        return gguf.quantize(numbers, Type[kind]), Type[kind]
    block, nbytes = gguf.GGML_QUANT_SIZES[Type[kind]]
    raw = rng.integers(0, 256, (*shape[:-1], shape[-1] // block, nbytes), np.uint8)
    if kind not in (*SCALES, "MXFP4"):
        return raw.reshape(*shape[:-1], -1), Type[kind]  # nobody decodes it
    if kind == "MXFP4":
        raw[..., 0] = rng.integers(119, 124, raw.shape[:-1])
    else:
        _set_scales(rng, raw, kind)
    return raw.reshape(*shape[:-1], -1), Type[kind]


def _set_scales(rng: np.random.Generator, raw: NDArray[np.uint8], kind: str) -> None:
    """Give blocks scales with which their numbers have the wanted spread."""

    def put(scale: NDArray[np.float64]) -> None:
        for at, factor in SCALES[kind].items():
            numbers = np.ascontiguousarray((factor * scale).astype("<f2"))
            raw[..., at : at + 2] = numbers[..., None].view(np.uint8)

    put(np.ones(raw.shape[:-1]))
    one_row = raw.reshape(1, -1)  # because gguf decodes a few rows at a time
    spread = gguf.dequantize(one_row, Type[kind]).std()
    put(SPREAD / spread * rng.uniform(0.5, 1.5, raw.shape[:-1]))


def shapes(arch: str, experts: bool, tied: bool) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors by GGUF's names."""
    dim, hidden, kv = 256, 512, 128
    layer = {"attn_q": (dim, dim), "attn_k": (kv, dim), "attn_v": (kv, dim),
             "attn_output": (dim, dim), "attn_norm": (dim,), "ffn_norm": (dim,)}  # fmt: skip
    gated = {"ffn_gate": (hidden, dim), "ffn_down": (dim, hidden), "ffn_up": (hidden, dim)}
    if experts:
        layer |= {f"{name}_exps": (3, *shape) for name, shape in gated.items()}
        layer["ffn_gate_inp"] = (3, dim)
    else:
        layer |= gated
    if arch.startswith(("qwen3", "exaone4")):
        layer |= {"attn_q_norm": (64,), "attn_k_norm": (64,)}
    if arch == "exaone4":
        layer = {name.replace("attn_norm", "post_attention_norm")
                 .replace("ffn_norm", "post_ffw_norm"): shape
                 for name, shape in layer.items()}  # fmt: skip
    all_shapes = {
        f"blk.{i}.{name}.weight": shape for i in range(2) for name, shape in layer.items()
    }
    if arch == "qwen2":
        sizes = {"q": dim, "k": kv, "v": kv}
        all_shapes |= {f"blk.{i}.attn_{x}.bias": (n,) for i in range(2) for x, n in sizes.items()}
    all_shapes |= {"token_embd.weight": (VOCAB, dim), "output_norm.weight": (dim,)}
    return all_shapes if tied else all_shapes | {"output.weight": (VOCAB, dim)}


def random_tensors(
    rng: np.random.Generator,
    arch: str = "llama",
    kinds: str | Mapping[str, str] = "F32",
    *,
    experts: bool = False,
    tied: bool = False,
) -> Tensors:
    """Return tensors of a model.

    Args:
        rng: random numbers.
        arch: the architecture.
        kinds: the type of all matrices, or by a part of their names (the last that fits counts).
        experts: whether the model is a mixture of experts.
        tied: whether there is no output matrix.
    """
    chosen = {"": kinds} if isinstance(kinds, str) else kinds
    tensors: Tensors = {}
    for name, shape in shapes(arch, experts, tied).items():
        if len(shape) == 1:
            centre = 0.0 if name.endswith("bias") else 1.0
            vector = centre + 0.2 * rng.standard_normal(shape)
            tensors[name] = (vector.astype(np.float32), Type.F32)
            continue
        kind = "F32"
        for part, other in chosen.items():
            kind = other if part in name and "gate_inp" not in name else kind
        tensors[name] = random_matrix(rng, shape, kind)
    return tensors


def keys(arch: str = "llama", experts: bool = False, **changes: Any) -> dict[str, Any]:
    """Return the metadata of such a model."""
    return ggufmodel.keys(arch, **SIZES, **(EXPERTS if experts else {}), **changes)


def write(path: Path, rng: np.random.Generator, arch: str = "llama", **options: Any) -> Tensors:
    """Write a random model; the options are those of random_tensors."""
    tensors = random_tensors(rng, arch, **options)
    ggufmodel.write(path, arch, tensors, keys(arch, options.get("experts", False)))
    return tensors


LAYER = {
    "attn_q.weight": "q", "attn_k.weight": "k", "attn_v.weight": "v", "attn_output.weight": "o",
    "attn_q.bias": "q_bias", "attn_k.bias": "k_bias", "attn_v.bias": "v_bias",
    "attn_q_norm.weight": "q_norm", "attn_k_norm.weight": "k_norm",
    "ffn_gate.weight": "gate", "ffn_down.weight": "down", "ffn_up.weight": "up",
    "ffn_gate_inp.weight": "router",
    "attn_norm.weight": "attention_norm", "ffn_norm.weight": "ffn_norm",
}  # fmt: skip
WHOLE = {"token_embd.weight": "embedding", "output_norm.weight": "final_norm",
         "output.weight": "output"}  # fmt: skip


def decoded(tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    """Return the tensors as the package gguf decodes them, with the oracle's names."""
    found: dict[str, NDArray[np.float32]] = {}
    for name, (raw, kind) in tensors.items():
        numbers = gguf.dequantize(raw, kind)
        if name in WHOLE:
            found[WHOLE[name]] = numbers
            continue
        _, layer, rest = name.split(".", 2)
        if rest in LAYER:
            found[f"layers.{layer}.{LAYER[rest]}"] = numbers
            continue
        short = rest.removeprefix("ffn_").removesuffix("_exps.weight")
        for expert, matrix in enumerate(numbers):
            found[f"layers.{layer}.experts.{expert}.{short}"] = matrix
    found.setdefault("output", found["embedding"])
    return found
