"""What the nodes of a cluster agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from dllama import options
from dllama._kernels.ops.kv_cache import block_positions
from dllama.checks import shown
from dllama.errors import ConfigError, ProtocolError
from dllama.graph.kv_layers import kv_layers
from dllama.model.spec import ModelSpec
from dllama.model.tensors import all_tensors, typed
from dllama.model.weight_types import WeightType
from dllama.options.option import Option, checked

# Numbers of the KV cache.
NUMBERS = {"f32": WeightType.F32, "f16": WeightType.F16, "q80": WeightType.Q80}
OF_TRANSPORT = "mpi"  # the all-reduce that MPI has
MAX_LOGITS = 1 << 24  # numbers of all logits of a pass
# Bytes that sequences may take if nobody says how many to keep: those of the model divided by the
# first number, or the second number if that is more.
CONTEXTS_DIVISOR, CONTEXTS_BYTES = 4, 10**9


@dataclass(frozen=True)
class RunConfig:
    """What all nodes agree on.

    Args:
        shares: how much of the model each node holds, by rank.
        seq_len: most positions of a sequence.
        kv_cache: type of the numbers in the KV cache: f32, f16 or q80.
        batch: most rows of a pass.
        logits: most rows of a pass whose logits are wanted.
        buffer: type of the numbers in an all-reduce: q80, q60, f16 or f32.
        all_reduce: auto, exchange, two-step or mpi.
        timeout: seconds after which a node that does not reply is given up.
        contexts: for how many sequences of full length there are KV blocks.
        parallel: most sequences in a pass.
        lag: most ids of a text that its states have not taken in, since they were drafted.
        halves: whether the halves of a long pass take turns, so that one computes while the other
            is sent. Nodes that share a machine wait for processors, not for links, so they do
            without.
    """

    shares: tuple[float, ...]
    seq_len: int
    kv_cache: str
    batch: int
    logits: int
    buffer: str
    all_reduce: str = options.ALL_REDUCE.default
    timeout: float = options.TIMEOUT.default
    contexts: int = 1
    parallel: int = options.PARALLEL.default
    lag: int = 0
    halves: bool = True

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        nodes: int,
        *,
        shares: Sequence[float] | str | None = None,
        buffer: str | None = None,
        all_reduce: str | None = None,
        timeout: float | None = None,
        max_seq_len: int | None = None,
        contexts: int | None = options.CONTEXTS.default,
        parallel: int = options.PARALLEL.default,
        kv_cache: str | None = None,
        batch_size: int | None = None,
        drafted: int = 0,
        halves: bool = True,
    ) -> RunConfig:
        """Return what options mean for a model.

        Args:
            spec: of the model.
            nodes: how many; there are as many shares.
            drafted: most ids that a pass evaluates and that may turn out wrong.
            halves: as above; of no account on one node.

        The other arguments are options of LLM(); None stands for the default.

        Raises:
            ConfigError: an option does not take a value, or the value does not fit the model.
        """
        seq_len = _context_length(max_seq_len, spec)
        parallel = options.PARALLEL.argument(parallel)
        batch = max(parallel, min(options.BATCH_SIZE.argument(batch_size), seq_len))
        kv_type = _kv_type(options.KV_CACHE.argument(kv_cache), spec)
        lag = drafted if spec.linear else 0
        return cls(
            shares=_node_shares(shares, nodes),
            seq_len=seq_len,
            kv_cache=kv_type,
            batch=batch,
            logits=max(parallel, min(batch, MAX_LOGITS // spec.vocab_size)),
            buffer=_added(options.BUFFER.argument(buffer), all_reduce) or _buffer(spec),
            all_reduce=options.ALL_REDUCE.argument(all_reduce),
            timeout=options.TIMEOUT.argument(timeout),
            contexts=context_count(contexts, parallel, spec, seq_len, kv_type, batch, lag),
            parallel=parallel,
            lag=lag,
            halves=halves and options.ALL_REDUCE.argument(all_reduce) != OF_TRANSPORT,
        )

    @classmethod
    def from_json(cls, content: object, peer: str) -> RunConfig:
        """Check what a peer sends; ProtocolError names the peer and the wrong field."""
        if not isinstance(content, Mapping):
            raise ProtocolError(f"{peer}: config is {type(content).__name__}, expected an object")
        try:
            values = checked(FIELDS, content)
        except ValueError as error:
            raise ProtocolError(f"{peer}: config: {error}") from None
        return cls(**{**values, "shares": tuple(values["shares"])})

    @property
    def world_size(self) -> int:
        """How many nodes there are."""
        return len(self.shares)

    @property
    def exact(self) -> bool:
        """Whether an all-reduce adds in the order of one node, without rounding."""
        return self.buffer == "f32" and self.all_reduce != OF_TRANSPORT

    @property
    def patience(self) -> float:
        """Seconds that a node waits for bytes of another one.

        The rest of the timeout is for finding out which node is at fault.
        """
        return 0.8 * self.timeout


# What each field may be in a message.
FIELDS = (
    options.GIVEN_SHARES,
    replace(options.MAX_SEQ_LEN, name="seq_len", most=(1 << 31) - 1),
    replace(options.KV_CACHE, choices=tuple(NUMBERS)),
    replace(options.BATCH_SIZE, name="batch"),
    replace(options.BATCH_SIZE, name="logits"),
    options.BUFFER,
    options.ALL_REDUCE,
    options.TIMEOUT,
    replace(options.CONTEXTS, default=1),
    options.PARALLEL,
    replace(options.DRAFT_TOKENS, name="lag", least=0, default=0),
    Option("halves", bool, "whether the halves of a long pass take turns", default=True),
)
assert [option.name for option in FIELDS] == [field.name for field in fields(RunConfig)]


def context_count(
    contexts: int | None,
    parallel: int,
    spec: ModelSpec,
    seq_len: int,
    kv_type: str,
    batch: int,
    lag: int = 0,
) -> int:
    """Return for how many sequences of full length there are KV blocks.

    None: for as many as a pass works on, if they take little memory beside the model.
    """
    if contexts is not None:
        count: int = options.CONTEXTS.argument(contexts)
        return count
    kind = NUMBERS[kv_type]
    block = kind.block_size
    stored = 1 if spec.kv_latent_dim else 2  # keys, and values unless these are parts of keys
    caches = [(one, one.most(seq_len, batch, lag)) for one in kv_layers(spec)]
    keys = sum(
        len(one.layers)
        * one.kv_heads
        * sum(kind.nbytes(-(-size // block) * block) for size in one.kept[:stored])
        * min(seq_len, most * block_positions(seq_len))
        for one, most in caches
    )
    states = sum(one.state_bytes(spec, lag) * most for one, most in caches)
    model = sum(tensor.nbytes for tensor in all_tensors(spec))
    room = max(model // CONTEXTS_DIVISOR, CONTEXTS_BYTES)
    return max(1, min(parallel, room // (keys + states)))


def _context_length(max_seq_len: int | None, spec: ModelSpec) -> int:
    """Return the most positions of a sequence."""
    option = replace(options.MAX_SEQ_LEN, most=spec.seq_len)
    length: int | None = option.argument(max_seq_len)
    return min(spec.seq_len, options.DEFAULT_SEQ_LEN) if length is None else length


def _added(buffer: str | None, all_reduce: str | None) -> str | None:
    """Return the type of the numbers that are added, if it is said or follows from how."""
    if all_reduce != OF_TRANSPORT:
        return buffer
    if buffer not in (None, "f32"):
        raise ConfigError(f"buffer is {buffer}, expected f32: MPI adds no other numbers")
    return "f32"


def _buffer(spec: ModelSpec) -> str:
    """The shortest numbers whose rounding is small next to that of the weights."""
    kinds = {spec.type_of(name) for name in typed(spec) if name.startswith("layers.")}
    quantised = {kind for kind in kinds if kind.quantised}
    if not quantised:
        return "f32"
    return "f16" if quantised == {WeightType.Q80} else "q80"


def _kv_type(kv_cache: str, spec: ModelSpec) -> str:
    """Return the type of the numbers in the KV cache."""
    if kv_cache != "auto":
        return kv_cache
    return "f32" if spec.weight_type is WeightType.F32 else "f16"


def _node_shares(shares: Sequence[float] | str | None, nodes: int) -> tuple[float, ...]:
    """Return one share for each node, equal ones unless they are given. Auto is for later."""
    if shares is None or shares == options.SHARES.word:
        return (1.0,) * nodes
    if isinstance(shares, str):
        raise ConfigError(f"shares is {shown(shares)}, expected {options.SHARES.expected}")
    if len(shares) != nodes:
        raise ConfigError(f"shares are {list(shares)}, expected {nodes}, one for each node")
    try:
        return tuple(options.GIVEN_SHARES.check(share) for share in shares)
    except ValueError:
        raise ConfigError(
            f"shares are {list(shares)}, expected for each {options.GIVEN_SHARES.expected}"
        ) from None
