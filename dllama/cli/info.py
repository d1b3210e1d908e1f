"""`dllama info`: what this machine offers, or what a model is."""

from __future__ import annotations

import argparse
import platform
from collections import Counter
from dataclasses import fields
from enum import IntEnum
from pathlib import Path
from typing import Any

from dllama import LLM, __version__
from dllama._kernels import cpu
from dllama.cli.options import add_command
from dllama.modelfile import ModelFile
from dllama.settings import model_file


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers,
        "info",
        run,
        "Show a model's header, tensors and memory; without a model, this machine's kernels.",
        "dllama info llama --max-seq-len 2048",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="model folder or .m file")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes (this version: 1)")
    parser.add_argument("--max-seq-len", type=int, metavar="N", help="positions of the context")
    parser.add_argument("--threads", type=int, metavar="N", help="threads per node")


def run(args: argparse.Namespace) -> int:
    """Print a table."""
    rows = _machine() if args.model is None else _model(args)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}".rstrip())
    return 0


def _machine() -> list[tuple[str, str]]:
    """What the kernels can use here."""
    return [
        ("dllama", __version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("cpu features", " ".join(cpu.features()) or "none"),
        ("kernels", f"{cpu.isa()} (available: {', '.join(cpu.available())})"),
        ("openmp", "yes" if cpu.openmp() else "no, kernels run on one thread"),
        ("threads", f"{cpu.default_threads()} by default"),
    ]


def _model(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Header and tensors of the file, and the memory that it takes when loaded."""
    path = model_file(args.model)
    with ModelFile.open(path) as file:
        rows = [("file", str(path)), ("size", _bytes(path.stat().st_size))]
        rows += [(field.name, _word(getattr(file.spec, field.name))) for field in fields(file.spec)]
        rows += _tensors(file)
    return rows + _memory(args, path)


def _tensors(file: ModelFile) -> list[tuple[str, str]]:
    """How many tensors of each type, and their bytes."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for info in file.tensors.values():
        count[info.float_type.name.lower()] += 1
        size[info.float_type.name.lower()] += info.nbytes
    return [(f"{name} tensors", f"{count[name]}, {_bytes(size[name])}") for name in count]


def _memory(args: argparse.Namespace, path: Path) -> list[tuple[str, str]]:
    """The tokenizer, and what each node allocates."""
    with LLM(path, nodes=args.nodes, max_seq_len=args.max_seq_len, threads=args.threads) as llm:
        tokenizer = llm.tokenizer
        rows = [("tokenizer", f"{tokenizer.vocab_size} tokens" if tokenizer else "none")]
        rows.append(("context", f"{llm.seq_len} positions"))
        memory = llm.memory()
        parts = ", ".join(f"{name.replace('_', ' ')} {_bytes(n)}" for name, n in memory.items())
        rows.append(("memory of node 0", f"{_bytes(sum(memory.values()))}: {parts}"))
    return rows


def _word(value: object) -> str:
    """A field as a word."""
    return value.name.lower() if isinstance(value, IntEnum) else str(value)


def _bytes(count: int) -> str:
    """Bytes in MB of 10^6."""
    return f"{count / 1e6:.1f} MB"
