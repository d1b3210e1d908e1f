"""`dllama info`: what this machine offers, or what a model consists of."""

from __future__ import annotations

import argparse
import math
import platform
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from enum import IntEnum
from typing import Any

from dllama import __version__, transports
from dllama._kernels import cpu
from dllama.checks import is_flag
from dllama.cli.parser import add_command, add_options
from dllama.cluster.domains import domain_cores
from dllama.cluster.layout import node_count, thread_count
from dllama.graph.shard import Shard, kv_heads_of, split
from dllama.model.spec import ModelSpec
from dllama.model.stored_model import StoredModel
from dllama.model.tensors import Tensor
from dllama.model.weight_types import WeightType
from dllama.model_path import open_model, own_tokenizer
from dllama.options import INFO_OPTIONS, MODEL, PARALLEL
from dllama.run_config import RunConfig
from dllama.runtime.block_pool import pools
from dllama.runtime.footprint import footprint

EXAMPLES = """\
dllama info
dllama info llama --max-seq-len 2048
dllama info llama --nodes 4 --shares 2,1,1,1"""
Rows = Iterator[tuple[str, str]]


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers,
        "info",
        run,
        "Show a model's header, tensors and memory, or without arguments what this machine offers.",
        EXAMPLES,
    )
    add_options(parser, {"model": (MODEL,), "memory": INFO_OPTIONS}, MODEL, config=False)


def run(args: argparse.Namespace) -> int:
    """Print a table; the model is not loaded."""
    asked = any(getattr(args, option.name) is not None for option in INFO_OPTIONS)
    if args.model is None and not asked:
        _print(_machine())
        return 0
    with open_model(args.model, bool(args.requantise)) as file:
        memory = list(_memory(file, args))  # first: it checks the arguments
        _print(_header(file))
        print()
        _print_tensors(file)
        print()
        _print(memory)
    return 0


# Fields of a header that are shown even if they have their usual value.
ALWAYS = ("hidden_act", "norm_epsilon", "rope_theta", "rope_type", "tied")
# Numbers of a list that are shown.
MOST_SHOWN = 12


def _print(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    table = list(rows)
    width = max(len(name) for name, _ in table)
    for name, value in table:
        print(f"{name:<{width}}  {value}".rstrip())


def _machine() -> Rows:
    """What this machine offers."""
    yield "dllama", __version__
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "cpu features", " ".join(cpu.features()) or "none"
    yield "kernels", f"{cpu.isa()} (available: {', '.join(cpu.available())})"
    yield "openmp", "yes" if cpu.openmp() else "no, kernels run on one thread"
    yield "threads", f"{cpu.default_threads()} by default"
    yield "numa domains", _domains()
    yield "transports", ", ".join(transports.names())


def _domains() -> str:
    """The NUMA domains, and what --nodes auto does about them."""
    sizes = [len(cores) for cores in domain_cores()]
    if len(sizes) == 1:
        return "1"
    cores = ", ".join(map(str, sizes))
    return f"{len(sizes)}, of {cores} cores: --nodes auto tries a node for each"


def _header(file: StoredModel) -> Rows:
    """The fields of the header, and the tokenizer."""
    yield "file", str(file.path)
    for path in file.files[1:]:
        yield "", str(path)
    yield "size", size(sum(path.stat().st_size for path in file.files))
    yield "weights", _weights(file)
    for field in fields(file.spec):
        value = getattr(file.spec, field.name)
        usual = field.name not in ALWAYS and value == field.default
        if not usual and field.name != "tensor_types":  # the table of tensors says these
            yield field.name, _word(value)
    yield "tokenizer", _tokenizer(file)


def _word(value: object) -> str:
    """A field of the header as words."""
    if is_flag(value):
        return "yes" if value else "no"
    if isinstance(value, IntEnum):
        return value.name.lower()
    if isinstance(value, tuple):
        more = f", ... ({len(value)})" if len(value) > MOST_SHOWN else ""
        return ", ".join(f"{one:g}" for one in value[:MOST_SHOWN]) + more
    if is_dataclass(value):
        return ", ".join(f"{field.name} {getattr(value, field.name)}" for field in fields(value))
    return "none" if value is None else str(value)


def _weights(file: StoredModel) -> str:
    """How many numbers the tensors have, and bits of each on average."""
    count = sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    bits = 8 * sum(tensor.nbytes for tensor in file.tensors.values()) / count
    return f"{count / 1e6:.2f} million, {bits:.2f} bits each"


def _tokenizer(file: StoredModel) -> str:
    """The tokenizer in or beside the file."""
    tokenizer = own_tokenizer(file)
    if tokenizer is None:
        return "none"
    eos = ", ".join(map(str, tokenizer.eos_ids)) or "none"
    template = "" if tokenizer.chat_template is None else ", chat template"
    return f"{tokenizer.vocab_size} tokens, bos {tokenizer.bos_id}, eos {eos}{template}"


def _print_tensors(file: StoredModel) -> None:
    """Print a row for each kind and type of tensor, which stands for all layers (and experts)."""
    groups: dict[str, dict[WeightType, list[Tensor]]] = {}
    for info in file.tensors.values():
        kinds = groups.setdefault(re.sub(r"\.\d+\.", ".*.", info.name), {})
        kinds.setdefault(info.weight_type, []).append(info)
    width = max(map(len, groups))
    print(f"{'tensor':<{width}}  type   {'shape':>16}  count {'size':>12}")
    for name, kinds in groups.items():
        for kind, infos in kinds.items():
            shape = " x ".join(map(str, infos[0].shape))
            total, label = size(sum(info.nbytes for info in infos)), kind.name.lower()
            print(f"{name:<{width}}  {label:<5}  {shape:>16}  {len(infos):5d} {total:>12}")


def _memory(file: StoredModel, args: argparse.Namespace) -> Rows:
    """The memory of each node, and its shard of the model."""
    nodes = node_count(args.nodes or 1, ())
    config = RunConfig.of(
        file.spec,
        nodes,
        shares=args.shares,
        buffer=args.buffer,
        all_reduce=args.all_reduce,
        max_seq_len=args.max_seq_len,
        contexts=args.contexts,
        parallel=args.parallel or PARALLEL.default,
        kv_cache=args.kv_cache,
    )
    threads = thread_count(args.threads, nodes)
    cache = _positions(file, config)
    for shard in split(file.spec, config.shares, config.exact):
        memory = footprint(file, config, threads=threads, rank=shard.rank)
        yield f"memory of node {shard.rank}", size(sum(memory.values()))
        yield "  weights", size(memory["weights"])
        yield "  KV cache", f"{size(memory['kv_cache'])}, {cache}"
        yield "  buffers", size(memory["buffers"])
        if nodes > 1:
            yield "  query heads", _range(shard.heads)
            yield "  KV heads", _range(shard.kv_heads)
            if file.spec.full_kv_heads:
                group = file.spec.n_heads // file.spec.full_kv_heads
                yield "  without a window", _range(kv_heads_of(group, shard.heads))
            if shard.linear:
                yield "  value heads", _range(shard.linear.heads)
            yield from _hidden_units(file.spec, shard)
            yield "  vocabulary", _range(shard.vocab)


def _hidden_units(spec: ModelSpec, shard: Shard) -> Rows:
    """Rows about the hidden units of a node: of experts, and of what there is beside them."""
    (_, *shared), *others = shard.networks.values()
    widths = [*shard.networks][1:]
    kind = "beside experts" if spec.dense_beside else "without experts"
    yield "  hidden units", _range(shard.hidden)
    for network in shared:
        yield "  of shared expert", _range(network.hidden)
    for (width,), (network, *_) in zip(widths, others, strict=True):
        keys = width == spec.kv_shared_hidden_dim
        yield "  with others' keys" if keys else f"  {kind}", _range(network.hidden)


def _positions(file: StoredModel, config: RunConfig) -> str:
    """For how many positions there are keys and values, and how many states, in words."""
    times = f"{config.contexts} x " if config.contexts > 1 else ""
    words = [f"{times}{config.seq_len} positions"]
    kept = pools(file.spec, config)
    for pool in kept:
        if pool.window and not pool.states:
            words.append(f"{pool.begin(pool.count)} of layers with a window")
    states = [f", {pool.count} states of linear attention in f32" for pool in kept if pool.states]
    return ", ".join(words) + f" in {config.kv_cache}" + "".join(states)


def _range(part: range) -> str:
    """A range as words."""
    return f"{part.start} to {part.stop - 1}" if part else "none"


def size(count: int) -> str:
    """A number of bytes in MB or GB (powers of ten)."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
