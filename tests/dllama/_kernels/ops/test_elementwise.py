"""Row-wise kernels against the NumPy oracle."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import ops, quants

from dllama._kernels.ops import elementwise

WIDTHS = [1, 15, 16, 17, 33, 256]


@pytest.mark.parametrize("width", WIDTHS)
def test_rmsnorm(rng, width):
    x = rng.standard_normal((5, width)).astype(np.float32)
    weight = rng.standard_normal(width).astype(np.float32)
    result = elementwise.rmsnorm(x, weight, 1e-5, threads=2)
    np.testing.assert_allclose(result, ops.rms_norm(x, weight, 1e-5), rtol=1e-6)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("biased", [True, False])
def test_layernorm(rng, width, biased):
    x = (5 + rng.standard_normal((5, width))).astype(np.float32)
    weight = rng.standard_normal(width).astype(np.float32)
    bias = rng.standard_normal(width).astype(np.float32) if biased else None
    result = elementwise.layernorm(x, weight, bias, 1e-5, threads=2)
    expected = ops.layer_norm(x, weight, bias if biased else 0, 1e-5)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_layernorm_of_a_constant_is_its_bias():
    x, weight = np.full((1, 20), 3e4, np.float32), np.ones(20, np.float32)
    bias = np.arange(20, dtype=np.float32)
    np.testing.assert_allclose(elementwise.layernorm(x, weight, bias, 1e-5), bias[None], atol=1e-2)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["silu", "gelu"])
def test_activations(rng, width, name):
    x = (4 * rng.standard_normal((4, width))).astype(np.float32)
    x[:, 0] = [-1e4, -200, 200, 1e4]
    result = getattr(elementwise, name)(x, threads=3)
    np.testing.assert_allclose(result, getattr(ops, name)(x), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_swiglu(rng, width):
    gate = (20 * rng.standard_normal((4, width))).astype(np.float32)
    up = rng.standard_normal((4, width)).astype(np.float32)
    result = elementwise.swiglu(gate, up, threads=3)
    np.testing.assert_allclose(result, ops.swiglu(gate, up), rtol=1e-6, atol=1e-30)


def test_swiglu_of_large_gates():
    gate = np.array([[-1e4, -200, 200, 1e4]], np.float32)
    result = elementwise.swiglu(gate, np.ones_like(gate))
    np.testing.assert_allclose(result, [[0, 0, 200, 1e4]], atol=1e-30)


@pytest.mark.parametrize("width", WIDTHS)
def test_geglu(rng, width):
    gate = (4 * rng.standard_normal((4, width))).astype(np.float32)
    up = rng.standard_normal((4, width)).astype(np.float32)
    result = elementwise.geglu(gate, up, threads=3)
    np.testing.assert_allclose(result, ops.geglu(gate, up), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_swiglu_clamped(rng, width):
    gate = (4 * rng.standard_normal((4, width))).astype(np.float32)
    up = (4 * rng.standard_normal((4, width))).astype(np.float32)
    result = elementwise.swiglu_clamped(gate, up, 2.5, threads=3)
    expected = ops.swiglu_clamped(gate, up, 2.5)
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-6)


def test_geglu_of_large_gates():
    gate = np.array([[-1e4, -200, 200, 1e4]], np.float32)
    result = elementwise.geglu(gate, np.ones_like(gate))
    np.testing.assert_allclose(result, [[0, 0, 200, 1e4]], atol=1e-30)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_softcap(rng, width, cap):
    x = (20 * rng.standard_normal(width)).astype(np.float32)
    x[0] = 1e9
    np.testing.assert_allclose(elementwise.softcap(x, cap), ops.softcap(x, cap), atol=3e-7 * cap)


def test_exp():
    x = np.linspace(-86.9, 88, 10_001, dtype=np.float32)
    np.testing.assert_allclose(elementwise.exp(x), np.exp(x.astype(np.float64)), rtol=3e-7)
    assert elementwise.exp(np.array([-np.inf, -1e30, -87], np.float32)).tolist() == [0, 0, 0]
    assert elementwise.exp(np.zeros(3, np.float32)).tolist() == [1, 1, 1]


def test_quantise(rng):
    x = rng.standard_normal((3, 96)).astype(np.float32)
    x[1, :32] = 0
    values, scales = elementwise.quantise(x)
    expected = quants.quantise_q80(x)
    np.testing.assert_array_equal(values, expected.values.reshape(3, 96))
    np.testing.assert_array_equal(scales, expected.scales.astype(np.float32))


def test_quantise_survives_what_is_not_finite():
    x = np.array([[np.nan, np.inf, -np.inf, 1e38] * 8], np.float32)
    values, _ = elementwise.quantise(x)
    assert values.shape == (1, 32)


def test_refuses_widths_that_differ():
    x = np.zeros((2, 8), np.float32)
    with pytest.raises(ValueError, match="expected 8"):
        elementwise.rmsnorm(x, np.zeros(7, np.float32), 1e-5)
    for sizes in ((7, 8), (8, 7)):
        with pytest.raises(ValueError, match="7, expected 8"):
            elementwise.layernorm(x, *(np.zeros(size, np.float32) for size in sizes), 1e-5)
    with pytest.raises(ValueError, match="expected 8"):
        elementwise.swiglu(x, x[:, :7].copy())
    with pytest.raises(ValueError, match="multiple of 32"):
        elementwise.quantise(x)
