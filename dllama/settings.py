"""What the arguments of LLM mean: defaults, ranges, and one clear error each."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dllama import transports
from dllama._kernels import cpu
from dllama._kernels.comm.communicator import ALGORITHMS
from dllama.converter.cache import cached_model
from dllama.converter.sources.gguf import GgufFile
from dllama.errors import ConfigError, ModelError
from dllama.model.file import tensor_table
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType
from dllama.run_config import LEAST_SHARE, MOST_CONTEXTS, MOST_SHARE, RunConfig
from dllama.text.tokenizer import Tokenizer
from dllama.transports import Transport

log = logging.getLogger("dllama.engine")

DEMO = Path(__file__).parent / "demo"
DEFAULT_SEQ_LEN = 4096
DEFAULT_BATCH = 256
# The logits of one pass are at most this many numbers.
MAX_LOGITS = 1 << 24
MAX_THREADS = 1024
BUFFERS = ("q80", "f32", "f16")
MAX_NODES = 256
MAX_LOGPROBS = 1000
# Contexts unless a number is given: so many at most, in this part of the model's bytes, or so many
# bytes where that is more.
DEFAULT_CONTEXTS = 4
CONTEXTS_PART, CONTEXTS_BYTES = 4, 10**9
LOCAL_TRANSPORT = "unix"
DEFAULT_TIMEOUT = 5.0
ALL_REDUCES = tuple(ALGORITHMS)
KV_CACHES = ("auto", "f16", "f32")


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


def node_count(nodes: int, workers: Sequence[str]) -> int:
    """Nodes that share the model: the workers and this one, or so many on this machine."""
    _integer("nodes", nodes, 1, MAX_NODES)
    if workers and nodes not in (1, len(workers) + 1):
        raise ConfigError(f"nodes is {nodes}, but there are {len(workers)} workers and the root")
    for address in workers:
        if list(workers).count(address) > 1:
            raise ConfigError(f"workers: {address} is given twice")
    return len(workers) + 1 if workers else nodes


def run_config_of(
    spec: ModelSpec,
    nodes: int,
    *,
    shares: Sequence[float] | None = None,
    buffer: str | None = None,
    all_reduce: str | None = None,
    timeout: float | None = None,
    max_seq_len: int | None = None,
    contexts: int | None = 1,
    kv_cache: str | None = None,
    batch_size: int | None = None,
) -> RunConfig:
    """What the nodes agree on; None stands for the default."""
    seq_len = context_length(max_seq_len, spec)
    batch = min(batch_tokens(batch_size), seq_len)
    half = half_cache(kv_cache or "auto", spec)
    return RunConfig(
        shares=node_shares(shares, nodes),
        seq_len=seq_len,
        half=half,
        batch=batch,
        logits=max(1, min(batch, MAX_LOGITS // spec.vocab_size)),
        buffer=buffer_type(buffer, spec),
        all_reduce=one_of("all_reduce", all_reduce or "auto", ALL_REDUCES),
        timeout=seconds("timeout", DEFAULT_TIMEOUT if timeout is None else timeout),
        contexts=context_count(contexts, spec, seq_len, half),
    )


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


def transport_of(name: str | None, nodes: int, workers: Sequence[str]) -> Transport | None:
    """How nodes are connected; None for one that is alone."""
    if name is None and workers:
        chosen = transports.of_address(workers[0])
    else:
        chosen = transports.get(name or LOCAL_TRANSPORT)
    for address in workers:
        if transports.scheme_of(address) != chosen.scheme:
            raise ConfigError(
                f"workers: {address} is no address of transport {chosen.name}, whose scheme "
                f"is {chosen.scheme}"
            )
    return chosen if nodes > 1 else None


def node_shares(shares: Sequence[float] | None, nodes: int) -> tuple[float, ...]:
    """One share per node; equal ones unless given."""
    if shares is None:
        return (1.0,) * nodes
    if len(shares) != nodes:
        raise ConfigError(f"shares are {list(shares)}, expected {nodes}, one for each node")
    for share in shares:
        if not isinstance(share, (int, float)) or not LEAST_SHARE <= share <= MOST_SHARE:
            expected = f"{LEAST_SHARE:g} to {MOST_SHARE:g}"
            raise ConfigError(f"shares are {list(shares)}, expected numbers of {expected}")
    return tuple(float(share) for share in shares)


def seconds(name: str, value: float) -> float:
    """A time limit."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.1 <= value <= 86400:
        raise ConfigError(f"{name} is {value!r}, expected 0.1 to 86400 seconds")
    return float(value)


def thread_count(threads: int | None, local_nodes: int = 1) -> int:
    """Threads of a node of this machine; 1 where the kernels were built without OpenMP.

    Unless given, nodes on one machine share its cores.
    """
    if threads is None:
        return max(1, cpu.default_threads() // local_nodes)
    _integer("threads", threads, 1, MAX_THREADS)
    if threads > 1 and not cpu.openmp():
        log.warning("threads is %d, but the kernels were built without OpenMP: using 1", threads)
        return 1
    return threads


def node_threads(threads: int | Sequence[int | None] | None, nodes: int, local: bool) -> list[int]:
    """Threads of every node, by rank: a number for each, or one for all nodes of this machine.

    0 leaves it to a worker that runs already.
    """
    if isinstance(threads, Sequence):
        if len(threads) != nodes:
            raise ConfigError(f"threads are {list(threads)}, expected {nodes}, one for each node")
        given = list(threads)
    else:
        given = [threads] * nodes if local else [threads] + [None] * (nodes - 1)
    shared = nodes if local else 1
    own = [thread_count(count, shared) for count in (given if local else given[:1])]
    return own + [
        0 if n is None else _integer("threads", n, 1, MAX_THREADS) for n in given[len(own) :]
    ]


def buffer_type(buffer: str | None, spec: ModelSpec) -> str:
    """What travels between nodes."""
    return one_of("buffer", buffer, BUFFERS) if buffer else "q80" if is_quantised(spec) else "f32"


def context_length(max_seq_len: int | None, spec: ModelSpec) -> int:
    """Positions of the context."""
    if max_seq_len is None:
        return min(spec.seq_len, DEFAULT_SEQ_LEN)
    return _integer("max_seq_len", max_seq_len, 1, spec.seq_len)


def context_count(contexts: int | None, spec: ModelSpec, seq_len: int, half: bool) -> int:
    """How many contexts there are."""
    if contexts is not None:
        return _integer("contexts", contexts, 1, MOST_CONTEXTS)
    width = 2 * spec.n_layers * spec.n_kv_heads * spec.head_dim * (2 if half else 4)
    model = sum(info.nbytes for info in tensor_table(spec, 0).values())
    room = max(model // CONTEXTS_PART, CONTEXTS_BYTES)
    return max(1, min(DEFAULT_CONTEXTS, room // (width * seq_len)))


def half_cache(kv_cache: str, spec: ModelSpec) -> bool:
    """Whether keys and values are kept as float16."""
    one_of("kv_cache", kv_cache, KV_CACHES)
    return kv_cache == "f16" or (kv_cache == "auto" and spec.weight_type is not WeightType.F32)


def batch_tokens(batch_size: int | None) -> int:
    """Most tokens of one pass."""
    return DEFAULT_BATCH if batch_size is None else _integer("batch_size", batch_size, 1, 4096)


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings as a tuple; none is empty."""
    if stop is None:
        return ()
    stops = tuple(stop) if isinstance(stop, Sequence) and not isinstance(stop, str) else (stop,)
    if any(not isinstance(text, str) or not text for text in stops):
        raise ConfigError(f"stop is {stop!r}, expected strings that are not empty")
    return stops


def alternatives(logprobs: int | None) -> int | None:
    """How many alternatives of a token are told, None for no log-probabilities."""
    return None if logprobs is None else _integer("logprobs", logprobs, 0, MAX_LOGPROBS)


def token_id(token: object) -> int:
    """A Python or NumPy integer as int."""
    if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
        raise ConfigError(f"token id is {token!r}, expected an integer")
    return int(token)


def is_quantised(spec: ModelSpec) -> bool:
    """Whether the weights are blocks."""
    return spec.weight_type.block_size > 1


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """value, if it is one of the choices."""
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
    return value


def _integer(name: str, value: int, least: int, most: int | None = None) -> int:
    """value, if it is an integer in the range."""
    bounds = f"an integer of at least {least}" if most is None else f"{least} to {most}"
    wrong_type = isinstance(value, bool) or not isinstance(value, int)
    if wrong_type or value < least or (most is not None and value > most):
        raise ConfigError(f"{name} is {value!r}, expected {bounds}")
    return value
