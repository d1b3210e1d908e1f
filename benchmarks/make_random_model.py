"""Write a model of a known shape with random weights for dllama, llama.cpp, or the converter.

    python benchmarks/make_random_model.py tinyllama-1.1b --m tiny.m --gguf tiny.gguf
    python benchmarks/make_random_model.py tinyllama-1.1b --hugging-face folder

--m and --gguf write the same Q40 (Q4_0) blocks, so both programs compute the same. The .gguf has no
vocabulary; writing it needs the package `gguf`. --hugging-face writes float16 safetensors.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dllama.converter.families import llama
from dllama.model.file import TensorInfo, tensor_table
from dllama.model.header import write_header
from dllama.model.spec import Arch, ModelSpec, QKNorm, RopeScaling, RopeType
from dllama.model.weight_types import WeightType

RUN = 1 << 22


def spec(dim: int, hidden: int, layers: int, heads: int, kv: int, head: int, vocab: int, seq: int,
         theta: float = 10000.0, scaling: RopeScaling | None = None) -> ModelSpec:  # fmt: skip
    return ModelSpec(
        Arch.LLAMA, dim, hidden, layers, heads, kv, head, vocab, seq, WeightType.Q40,
        rope_theta=theta,
        rope_type=RopeType.LLAMA31 if scaling else RopeType.LLAMA,
        rope_scaling=scaling,
    )  # fmt: skip


SHAPES = {
    "small-100m": spec(768, 2048, 12, 12, 4, 64, 32000, 2048),
    "tinyllama-1.1b": spec(2048, 5632, 22, 32, 4, 64, 32000, 2048),
    "llama-3.2-1b": spec(2048, 8192, 16, 32, 8, 64, 128256, 8192, 500000.0,
                         RopeScaling(32.0, 1.0, 4.0, 8192)),
    "llama-2-7b": spec(4096, 11008, 32, 32, 32, 128, 32000, 4096),
    # A small mixture of experts; only as --m.
    "moe-200m": ModelSpec(
        Arch.QWEN3_MOE, 1024, 3072, 6, 16, 4, 64, 8192, 4096, WeightType.Q40,
        rope_theta=1e6, rope_type=RopeType.FALCON, norm_epsilon=1e-6,
        n_experts=16, n_active_experts=4, moe_hidden_dim=512, qk_norm=QKNorm.HEAD,
    ),
    # Three of the 48 layers of Qwen3 30B-A3B, and a fifth of its vocabulary; only as --m.
    "qwen3-30b-a3b-cut": ModelSpec(
        Arch.QWEN3_MOE, 2048, 6144, 3, 32, 4, 128, 32000, 4096, WeightType.Q40,
        rope_theta=1e6, rope_type=RopeType.FALCON, norm_epsilon=1e-6,
        n_experts=128, n_active_experts=8, moe_hidden_dim=768, qk_norm=QKNorm.HEAD,
    ),
}  # fmt: skip
GGUF_NAMES = {
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate",
    "down": "ffn_down", "up": "ffn_up", "attention_norm": "attn_norm", "ffn_norm": "ffn_norm",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--m", type=Path, metavar="FILE")
    parser.add_argument("--gguf", type=Path, metavar="FILE")
    parser.add_argument("--hugging-face", type=Path, metavar="FOLDER")
    parser.add_argument("--layers", type=int, help="fewer than the model has")
    parser.add_argument("--kv-heads", type=int, help="others than the model has")
    parser.add_argument("--vocabulary", type=int, help="another size than the model's")
    args = parser.parse_args()
    model = cut(SHAPES[args.shape], args)
    if model.n_experts and (args.gguf or args.hugging_face):
        parser.error(f"{args.shape} is only written as --m")
    if args.m:
        write_m(args.m, model)
    if args.gguf:
        write_gguf(args.gguf, model)
    if args.hugging_face:
        write_hugging_face(args.hugging_face, model)


def cut(model: ModelSpec, args: argparse.Namespace) -> ModelSpec:
    """The shape with what the command line says."""
    asked = {
        "n_layers": args.layers, "n_kv_heads": args.kv_heads, "vocab_size": args.vocabulary
    }  # fmt: skip
    return replace(model, **{name: value for name, value in asked.items() if value})


def blocks(index: int, info: TensorInfo) -> Iterator[np.ndarray]:
    """Yield the bytes of a tensor: random nibbles with scales that keep activations near 1."""
    rng = np.random.default_rng(index)
    count = int(np.prod(info.shape))
    for begin in range(0, count, RUN):
        n = min(RUN, count - begin)
        if len(info.shape) == 1:
            yield np.ones(n, np.float32).view(np.uint8)
        elif info.weight_type is WeightType.F32:
            short = rng.standard_normal(n, np.float32).astype(np.float16)  # as of published models
            yield short.astype(np.float32).view(np.uint8)
        else:
            scale = np.float16(1 / (4.6 * np.sqrt(info.shape[1])))
            run = rng.integers(0, 256, (n // 32, 18), dtype=np.uint8)
            run[:, :2] = np.array([scale]).view(np.uint8)
            yield run.reshape(-1)


def write_m(path: Path, model: ModelSpec) -> None:
    """Write a model file for dllama."""
    header = write_header(model)
    table = tensor_table(model, len(header))
    with path.open("wb") as file:
        file.write(header)
        for index, info in enumerate(tqdm(table.values(), desc=path.name, disable=None)):
            for run in blocks(index, info):
                file.write(run.data)


def write_gguf(path: Path, model: ModelSpec) -> None:
    """Write the same model for llama.cpp."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(model.seq_len)
    writer.add_embedding_length(model.dim)
    writer.add_block_count(model.n_layers)
    writer.add_feed_forward_length(model.hidden_dim)
    writer.add_head_count(model.n_heads)
    writer.add_head_count_kv(model.n_kv_heads)
    writer.add_layer_norm_rms_eps(model.norm_epsilon)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(model.rope_theta)
    writer.add_vocab_size(model.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("no_vocab")
    if model.rope_scaling:
        writer.add_tensor("rope_freqs.weight", rope_factors(model))
    tensors = tensor_table(model, 0).values()
    for index, info in enumerate(tqdm(tensors, desc=path.name, disable=None)):
        raw = np.concatenate(list(blocks(index, info)))
        name = gguf_name(info.name)
        if len(info.shape) == 1:
            writer.add_tensor(name, raw.view(np.float32))
        elif info.weight_type is WeightType.F32:
            wide = raw.view(np.float32).reshape(info.shape)
            writer.add_tensor(name, wide.astype(np.float16))
        else:
            kind = gguf.GGMLQuantizationType.Q4_0
            writer.add_tensor(name, raw.reshape(info.shape[0], -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rope_factors(model: ModelSpec) -> np.ndarray:
    """Return the divisors of the RoPE frequencies, which a .gguf stores as a tensor."""
    plain = replace(model, rope_type=RopeType.LLAMA).frequencies
    return (np.array(plain) / np.array(model.frequencies)).astype(np.float32)


def gguf_name(name: str) -> str:
    """Return the name of a tensor in a .gguf."""
    fixed = {"embedding": "token_embd", "final_norm": "output_norm", "output": "output"}
    if name in fixed:
        return fixed[name] + ".weight"
    _, layer, short = name.split(".")
    return f"blk.{layer}.{GGUF_NAMES[short]}.weight"


def write_hugging_face(folder: Path, model: ModelSpec) -> None:
    """Write a folder with config.json and model.safetensors (float16), one tensor at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "llama",
        "hidden_size": model.dim,
        "intermediate_size": model.hidden_dim,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads,
        "head_dim": model.head_dim,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.seq_len,
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rope_theta,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    names = {source.name: source.tensor for source in llama.sources(model)}
    tensors = list(tensor_table(model, 0).values())
    header, at = {}, 0
    for info in tensors:
        end = at + 2 * int(np.prod(info.shape))
        header[names[info.name]] = {
            "dtype": "F16",
            "shape": list(info.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for index, info in enumerate(tqdm(tensors, desc=folder.name, disable=None)):
            rng = np.random.default_rng(index)
            count = int(np.prod(info.shape))
            for begin in range(0, count, RUN):
                numbers = rng.standard_normal(min(RUN, count - begin), np.float32)
                file.write((numbers * np.float32(0.02)).astype(np.float16).data)


if __name__ == "__main__":
    main()
