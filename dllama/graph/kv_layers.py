"""Which layers share a cache of keys and values or of states, and how many blocks it has."""

from __future__ import annotations

from typing import NamedTuple

from dllama._kernels.ops.kv_cache import block_positions
from dllama.model.spec import ModelSpec

# Linear attention goes on from the block of the last position.
STATE_WINDOW = 2


class KVLayers(NamedTuple):
    """Layers that share a cache, since they need the blocks of the same positions.

    Args:
        window: of these layers; 0 if they have none.
        layers: their numbers, ascending.
        kv_heads: KV heads of each, over all nodes; 0 for states.
        kept: elements of a key and of a value; 0 for states.
        states: whether they have linear attention. A block then has the state after the last
            evaluated one of its positions.
    """

    window: int
    layers: tuple[int, ...]
    kv_heads: int = 0
    kept: tuple[int, int] = (0, 0)
    states: bool = False

    def state_bytes(self, spec: ModelSpec, lag: int = 0) -> int:
        """Return the bytes of a block with states; 0 for keys and values.

        Args:
            spec: of the model.
            lag: most positions whose changes are kept beside a state.
        """
        sizes = spec.linear_sizes
        change = sizes.value_heads * (sizes.key_dim + sizes.value_dim + 2)
        numbers = sizes.key_dim * sizes.values + lag * change
        numbers += (sizes.taps - 1 + lag) * sizes.channels
        return 4 * len(self.layers) * numbers if self.states else 0

    def most(self, seq_len: int, rows: int, lag: int = 0) -> int:
        """Return the most KV blocks that a sequence needs at once.

        Args:
            seq_len: most positions of a sequence.
            rows: most rows of a pass.
            lag: most positions that states have not taken in.
        """
        size = block_positions(seq_len)
        whole = -(-seq_len // size)
        if self.states:  # those before the first row and after each block of the others
            return min(whole, -(-(rows + lag) // size) + 1)
        return min(whole, -(-(self.window + rows) // size) + 1) if self.window else whole

    def blocks(self, seq_len: int, rows: int, contexts: int, parallel: int, lag: int = 0) -> int:
        """Return how many KV blocks there are.

        That is for `contexts` sequences of full length. Layers with a window need no more than the
        windows of `contexts` sequences, or of those in a pass if these are more, and of another
        one, for places that texts return to.

        Args:
            seq_len: most positions of a sequence.
            rows: most rows of a pass.
            contexts: sequences of full length.
            parallel: most sequences in a pass.
            lag: most positions that states have not taken in.
        """
        windows = (max(contexts, parallel) + 1) * self.most(seq_len, rows, lag)
        return min(contexts * -(-seq_len // block_positions(seq_len)), windows)


def kv_layers(spec: ModelSpec) -> tuple[KVLayers, ...]:
    """The layers of each cache: those without a window, with one, and with linear attention.

    Layers that read the keys and values of another layer are left out. A layer with linear
    attention beside attention has both.
    """
    found: dict[tuple[bool, int, int, tuple[int, int]], list[int]] = {}
    for layer in range(spec.n_layers):
        features = spec.layer(layer)
        kind = features.attention
        if features.attends and not kind.shared:
            found.setdefault((False, kind.window, kind.kv_heads, kind.kept), []).append(layer)
        if features.linear:
            found.setdefault((True, STATE_WINDOW, 0, (0, 0)), []).append(layer)
    return tuple(
        KVLayers(window, tuple(layers), kv_heads, kept, states)
        for (states, window, kv_heads, kept), layers in sorted(found.items())
    )
