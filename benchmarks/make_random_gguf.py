"""Write a GGUF file of the shape of a published model, with random weights and fewer layers.

    python benchmarks/make_random_gguf.py gpt-oss-20b --layers 4 --output random.gguf
    python benchmarks/versus_llama_cpp.py random.gguf random.gguf --llama-python VENV/bin/python

Types of weights are those of published files. The file has no vocabulary. Writing needs the package
gguf.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Type = gguf.GGMLQuantizationType
Shape = tuple[int, ...]
# Bytes of a block of 32 numbers, and the root mean square of its numbers if its scale is 1 and the
# other bytes are random.
BLOCKS = {Type.Q4_0: (18, 4.64), Type.Q8_0: (34, 73.9), Type.MXFP4: (17, 2.93)}
EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


@dataclass(frozen=True)
class Model:
    """A published model.

    Args:
        arch: GGUF's name of the architecture.
        layers: how many it has.
        keys: metadata without the architecture.
        tensors: of a layer, rows first; one number is a vector.
        vocab: rows of the embedding.
        matrices: type of matrices.
        experts: type of the matrices of experts.
        embedding: type of the embedding and of the output.
        tied: whether the output is the embedding.
    """

    arch: str
    layers: int
    keys: dict[str, Any]
    tensors: dict[str, Shape]
    vocab: int
    matrices: Type = Type.Q4_0
    experts: Type = Type.Q4_0
    embedding: Type = Type.Q8_0
    tied: bool = False


def attention(dim: int, heads: int, kv_heads: int, size: int) -> dict[str, Shape]:
    return {
        "attn_norm.weight": (dim,),
        "attn_q.weight": (heads * size, dim),
        "attn_k.weight": (kv_heads * size, dim),
        "attn_v.weight": (kv_heads * size, dim),
        "attn_output.weight": (dim, heads * size),
    }


def experts(dim: int, hidden: int, count: int) -> dict[str, Shape]:
    return {
        "ffn_gate_inp.weight": (count, dim),
        "ffn_gate_exps.weight": (count, hidden, dim),
        "ffn_up_exps.weight": (count, hidden, dim),
        "ffn_down_exps.weight": (count, dim, hidden),
    }


def keys(dim: int, hidden: int, heads: int, kv_heads: int, size: int, theta: float,
         **others: Any) -> dict[str, Any]:  # fmt: skip
    return {
        "context_length": 4096, "embedding_length": dim, "feed_forward_length": hidden,
        "attention.head_count": heads, "attention.head_count_kv": kv_heads,
        "attention.key_length": size, "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": theta, **others,
    }  # fmt: skip


MODELS = {
    "gemma-3-1b": Model(
        "gemma3", 26,
        keys(1152, 6912, 4, 1, 256, 1e6, **{"attention.sliding_window": 512}),
        {
            **attention(1152, 4, 1, 256),
            "attn_q_norm.weight": (256,), "attn_k_norm.weight": (256,),
            "post_attention_norm.weight": (1152,), "ffn_norm.weight": (1152,),
            "ffn_gate.weight": (6912, 1152), "ffn_up.weight": (6912, 1152),
            "ffn_down.weight": (1152, 6912), "post_ffw_norm.weight": (1152,),
        },
        262144, tied=True,
    ),
    "qwen3-30b-a3b": Model(
        "qwen3moe", 48,
        keys(2048, 6144, 32, 4, 128, 1e6, expert_count=128, expert_used_count=8,
             expert_feed_forward_length=768),
        {
            **attention(2048, 32, 4, 128),
            "attn_q_norm.weight": (128,), "attn_k_norm.weight": (128,),
            "ffn_norm.weight": (2048,), **experts(2048, 768, 128),
        },
        151936,
    ),
    "gpt-oss-20b": Model(
        "gpt-oss", 24,
        keys(2880, 2880, 64, 8, 64, 150000.0, expert_count=32, expert_used_count=4,
             expert_feed_forward_length=2880,
             **{"attention.sliding_window": 128, "rope.scaling.type": "yarn",
                "rope.scaling.factor": 32.0, "rope.scaling.original_context_length": 4096}),
        {
            **attention(2880, 64, 8, 64),
            "attn_q.bias": (4096,), "attn_k.bias": (512,), "attn_v.bias": (512,),
            "attn_output.bias": (2880,), "attn_sinks.weight": (64,),
            "post_attention_norm.weight": (2880,), **experts(2880, 2880, 32),
            "ffn_gate_inp.bias": (32,),
            "ffn_gate_exps.bias": (32, 2880), "ffn_up_exps.bias": (32, 2880),
            "ffn_down_exps.bias": (32, 2880),
        },
        201088, matrices=Type.Q8_0, experts=Type.MXFP4,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--layers", type=int, help="default: all")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    model = MODELS[args.model]
    write(args.output, model, args.layers or model.layers)


def write(path: Path, model: Model, layers: int) -> None:
    """Write a file of a model with so many layers."""
    writer = gguf.GGUFWriter(str(path), model.arch)
    values = {"block_count": layers, "vocab_size": model.vocab, **model.keys}
    for key, value in values.items():
        name = f"{model.arch}.{key}"
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_uint32(name, value)
    writer.add_tokenizer_model("no_vocab")
    rng = np.random.default_rng(7)
    for name, shape in tqdm(list(tensors(model, layers)), desc=path.name, disable=None):
        kind = type_of(model, name, shape)
        writer.add_tensor(name, numbers(rng, name, shape, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(model: Model, layers: int) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of all tensors."""
    dim = model.keys["embedding_length"]
    yield "token_embd.weight", (model.vocab, dim)
    for layer in range(layers):
        for name, shape in model.tensors.items():
            yield f"blk.{layer}.{name}", shape
    yield "output_norm.weight", (dim,)
    if not model.tied:
        yield "output.weight", (model.vocab, dim)


def type_of(model: Model, name: str, shape: Shape) -> Type:
    """The type of a tensor: float32 for vectors, biases and routers."""
    if len(shape) == 1 or name.endswith(".bias") or "ffn_gate_inp" in name:
        return Type.F32
    if name in ("token_embd.weight", "output.weight"):
        return model.embedding
    return model.experts if any(expert in name for expert in EXPERTS) else model.matrices


def numbers(rng: np.random.Generator, name: str, shape: Shape, kind: Type) -> NDArray[Any]:
    """Random numbers that keep activations near 1, as bytes if they are in blocks."""
    if kind == Type.F32:
        if name.endswith("norm.weight"):
            return np.ones(shape, np.float32)
        return rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(shape[-1]))
    size, spread = BLOCKS[kind]
    scale = 1 / (spread * math.sqrt(shape[-1]))
    blocks = rng.integers(0, 256, (math.prod(shape) // 32, size), dtype=np.uint8)
    if kind == Type.MXFP4:
        blocks[:, 0] = 127 + round(math.log2(scale))
    else:
        blocks[:, :2] = np.array([scale], np.float16).view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


if __name__ == "__main__":
    main()
