"""What the nodes of a cluster agree on."""

from __future__ import annotations

from dataclasses import dataclass

from dllama.model.weight_types import WeightType

LEAST_SHARE, MOST_SHARE = 1e-6, 1e6
MOST_CONTEXTS = 64
WIRE = {"f32": WeightType.F32, "f16": WeightType.F16, "q80": WeightType.Q80}


@dataclass(frozen=True)
class RunConfig:
    """What all nodes agree on.

    shares: one per node, by rank. seq_len: positions of a context. half: KV cache in float16.
    batch: most tokens of a pass. logits: most rows of logits of a pass. buffer: numbers of an
    all-reduce (q80, f32, f16). all_reduce: auto, exchange, two-step. timeout: seconds. contexts:
    how many have a KV cache.
    """

    shares: tuple[float, ...]
    seq_len: int
    half: bool
    batch: int
    logits: int
    buffer: str
    all_reduce: str = "auto"
    timeout: float = 5.0
    contexts: int = 1

    @property
    def world(self) -> int:
        """Number of nodes."""
        return len(self.shares)

    @property
    def exact(self) -> bool:
        """Whether an all-reduce sends numbers as they are."""
        return WIRE[self.buffer] is WeightType.F32

    @property
    def patience(self) -> float:
        """Seconds a node waits for bytes of another; the rest of the timeout is for finding
        out which node is to blame."""
        return 0.8 * self.timeout
