"""The fast activations are torch's own, in value and gradient, also far from 0."""

import pytest
import torch as th
from torch.nn import functional as F

from modules.activations import ELU, MIN_VALUES, elu, elu_, tanh, tanh_

X = th.cat([th.linspace(-120.0, 120.0, 8997), th.linspace(-1e-3, 1e-3, 101), th.tensor([-1e30, -0.0, 0.0, 1e30])])
CASES = {"elu": (elu, F.elu), "ELU": (ELU(), F.elu), "tanh": (tanh, th.tanh)}
IN_PLACE = {"elu_": (elu_, F.elu), "tanh_": (tanh_, th.tanh)}


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


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_forms_write_into_their_argument(name):
    ours, reference = IN_PLACE[name]
    x = X.clone()
    assert ours(x) is x
    th.testing.assert_close(x.double(), reference(X.double()), rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("activation", [elu_, tanh_, elu, tanh])
def test_nan_stays_nan(activation):
    x = th.ones(MIN_VALUES)
    x[7] = th.nan
    assert activation(x).isnan().nonzero().tolist() == [[7]]
