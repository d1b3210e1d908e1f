"""Which layers share a KV cache, and how many KV blocks it has."""

from __future__ import annotations

from typing import NamedTuple

from dllama._kernels.ops.kv_cache import block_positions
from dllama.model.spec import ModelSpec


class KVLayers(NamedTuple):
    """Layers that share a KV cache, since they need keys and values of the same positions.

    Args:
        window: of these layers; 0 if they have none.
        layers: their numbers, ascending.
    """

    window: int
    layers: tuple[int, ...]

    def most(self, seq_len: int, rows: int) -> int:
        """Return the most KV blocks that a sequence needs at once.

        Args:
            seq_len: most positions of a sequence.
            rows: most rows of a pass.
        """
        size = block_positions(seq_len)
        whole = -(-seq_len // size)
        return min(whole, -(-(self.window + rows) // size) + 1) if self.window else whole

    def blocks(self, seq_len: int, rows: int, contexts: int, parallel: int) -> int:
        """Return how many KV blocks there are.

        That is for `contexts` sequences of full length. Layers with a window need no more than the
        windows of `contexts` sequences, or of those in a pass if these are more, and of another
        one, for places that texts return to.

        Args:
            seq_len: most positions of a sequence.
            rows: most rows of a pass.
            contexts: sequences of full length.
            parallel: most sequences in a pass.
        """
        windows = (max(contexts, parallel) + 1) * self.most(seq_len, rows)
        return min(contexts * -(-seq_len // block_positions(seq_len)), windows)


def kv_layers(spec: ModelSpec) -> tuple[KVLayers, ...]:
    """The layers of each KV cache, those without a window first."""
    found: dict[int, list[int]] = {}
    for layer in range(spec.n_layers):
        found.setdefault(spec.layer(layer).attention.window, []).append(layer)
    return tuple(KVLayers(window, tuple(layers)) for window, layers in sorted(found.items()))
