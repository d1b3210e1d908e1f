"""Gated delta networks and gates against the oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from oracle import delta as oracle

from dllama._kernels.ops.delta import decay_of, delta_rule, sigmoid_gate
from dllama._kernels.ops.states import causal_conv


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("taps", "channels"), [(2, 16), (4, 100), (16, 7)])
def test_causal_conv(rng, taps, channels):
    x, weight = floats(rng, 20, channels), floats(rng, taps, channels)
    expected = oracle.convolved(x, weight.T)
    found = causal_conv(x, weight, np.zeros((taps - 1, channels), np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    later = causal_conv(x[15:], weight, x[16 - taps : 15])
    np.testing.assert_array_equal(later, found[15:])
    bias = floats(rng, channels)
    biased = causal_conv(x, weight, np.zeros((taps - 1, channels), np.float32), bias)
    expected = oracle.convolved(x, weight.T, bias)
    np.testing.assert_allclose(biased, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("keys", "values"), [(8, 16), (24, 48), (128, 128)])
def test_delta_rule(rng, keys, values):
    q, k = (oracle.unit(floats(rng, 30, keys)).astype(np.float32) for _ in range(2))
    v, state = floats(rng, 30, values), floats(rng, keys, values)
    decay, beta = (rng.uniform(0.2, 1, 30).astype(np.float32) for _ in range(2))
    out, after = delta_rule(q, k, v, decay, beta, state)
    expected, kept = oracle.rule(q, k, v, decay, beta, state)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    np.testing.assert_allclose(after, kept, atol=2e-6)
    first, between = delta_rule(q[:7], k[:7], v[:7], decay[:7], beta[:7], state)
    rest, last = delta_rule(q[7:], k[7:], v[7:], decay[7:], beta[7:], between)
    np.testing.assert_array_equal(np.concatenate([first, rest]), out)
    np.testing.assert_array_equal(last, after)


@pytest.mark.parametrize("a", [-200.0, -20.0, -1.0, -1e-3, 0.0, 0.3, 5.0, 60.0])
@pytest.mark.parametrize("rate", [1e-3, 0.7, 16.0])
def test_decay(a, rate):
    softplus = max(a, 0) + math.log1p(math.exp(-abs(a)))
    expected = math.exp(-rate * softplus)
    # Absolute below the smallest number that the kernels' exp gives, e^-87.
    assert decay_of(a, rate) == pytest.approx(expected, rel=1e-4, abs=1e-37)


def test_sigmoid_gate(rng):
    x, gate = floats(rng, 37), 4 * floats(rng, 37)
    expected = x / (1 + np.exp(-gate.astype(np.float64)))
    np.testing.assert_allclose(sigmoid_gate(x, gate), expected, rtol=1e-6)
