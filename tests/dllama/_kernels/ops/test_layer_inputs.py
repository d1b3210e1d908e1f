"""Per-layer inputs against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import ops

from dllama._kernels.ops.layer_inputs import layer_inputs


@pytest.mark.parametrize(("rows", "layers", "size"), [(1, 1, 1), (3, 4, 32), (5, 3, 7), (2, 2, 40)])
def test_norms_of_projections_and_embeddings(rng, rows, layers, size):
    shape = rows, layers * size
    projection, embedding = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    weight, epsilon, scale = rng.standard_normal(size).astype(np.float32), 1e-3, size**0.5
    runs = projection.reshape(rows, layers, size)
    normed = ops.rms_norm(runs, weight, epsilon).reshape(shape)
    expected = (normed + embedding.astype(np.float64) * scale) / np.sqrt(2)
    found = layer_inputs(projection, embedding, weight, epsilon, scale)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_refuses_shapes_that_do_not_fit():
    rows = np.zeros((2, 6), np.float32)
    for projection, embedding, size in [(rows, rows, 4), (rows, rows[:1], 3), (rows, rows, 0)]:
        with pytest.raises(ValueError, match="do not fit"):
            layer_inputs(projection, embedding, np.zeros(size, np.float32), 1e-6, 1.0)
