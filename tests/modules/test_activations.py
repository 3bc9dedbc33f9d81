"""The compiled activations are torch's own, in value and gradient, also far from 0."""

import pytest
import torch as th
from torch.nn import functional as F

from modules.activations import ELU, elu, tanh

X = th.cat([th.linspace(-120.0, 120.0, 8997), th.linspace(-1e-3, 1e-3, 101), th.tensor([-1e30, -0.0, 0.0, 1e30])])
CASES = {"elu": (elu, F.elu), "ELU": (ELU(), F.elu), "tanh": (tanh, th.tanh)}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_torch(name):
    ours, reference = CASES[name]
    x, exact = X.clone().requires_grad_(True), X.double().requires_grad_(True)
    weight = th.linspace(0.5, 2.0, X.numel())
    y, expected = ours(x), reference(exact)
    (y * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    th.testing.assert_close(y.double(), expected, rtol=1e-6, atol=2e-7)
    th.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-6, atol=1e-6)
    assert th.equal(x.detach(), X)  # the input is left alone


@pytest.mark.parametrize("name", CASES)
def test_any_shape_and_order_in_memory(name):
    ours, reference = CASES[name]
    x = th.randn(6, 5, 4).transpose(0, 2).requires_grad_(True)
    y = ours(x)
    (gradient,) = th.autograd.grad(y.sum(), x)
    (expected,) = th.autograd.grad(reference(x).sum(), x)
    th.testing.assert_close(y, reference(x), rtol=1e-6, atol=2e-7)
    th.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)
    assert ours(x[:0]).shape == (0, 5, 6)


@pytest.mark.parametrize("activation", [elu, tanh])
def test_float64_keeps_its_precision(activation):
    x = th.linspace(-2.0, 2.0, 5, dtype=th.float64)
    reference = {elu: F.elu, tanh: th.tanh}[activation]
    assert th.equal(activation(x), reference(x))


@pytest.mark.parametrize("activation", [elu, tanh])
def test_nan_stays_nan(activation):
    x = th.ones(40)
    x[7] = th.nan
    assert activation(x).isnan().nonzero().tolist() == [[7]]
