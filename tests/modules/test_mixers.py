from __future__ import annotations

import pytest
import torch as th
from support.settings import args
from torch.nn import functional as F

from modules import critics, world_models
from modules.mixers import REGISTRY

B, T, N, S = 4, 6, 3, 8


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("layers", [1, 2])
def test_shape_monotonicity_and_independence_of_rows(name: str, layers: int) -> None:
    th.manual_seed(0)
    for _ in range(5):
        mixer = REGISTRY[name](args(hypernet_layers=layers))
        q, states = (5 * th.randn(B, T, N)).requires_grad_(), 3 * th.randn(B, T, S)
        total = mixer(q, states)
        assert total.shape == (B, T, 1)
        (gradient,) = th.autograd.grad(total.sum(), q)
        assert (gradient >= 0).all() and gradient.any()
        th.testing.assert_close(mixer(q[1:2, 2:3], states[1:2, 2:3]), total[1:2, 2:3])


def test_vdn_is_the_sum() -> None:
    q = th.randn(B, T, N)
    th.testing.assert_close(REGISTRY["vdn"](args())(q, th.randn(B, T, S)), q.sum(-1, keepdim=True))


def test_qmix_is_the_stated_function() -> None:
    th.manual_seed(0)
    mixer = REGISTRY["qmix"](args())
    q, s = th.randn(N), th.randn(S)
    weights = mixer.weights_in(s).abs().view(N, -1)
    hidden = F.elu(q @ weights + mixer.bias_in(s))
    expected = hidden @ mixer.weights_out(s).abs() + mixer.value(s)
    th.testing.assert_close(mixer(q.view(1, 1, N), s.view(1, 1, S)).flatten(), expected)


def test_qmix_refuses_other_depths() -> None:
    with pytest.raises(ValueError, match="hypernet_layers"):
        REGISTRY["qmix"](args(hypernet_layers=3))


def test_plugins_find_their_registries() -> None:
    assert isinstance(world_models.REGISTRY, dict) and isinstance(critics.REGISTRY, dict)


def test_vdn_is_made_as_upstreams_learners_make_it() -> None:
    q = th.randn(B, T, N)
    th.testing.assert_close(REGISTRY["vdn"]()(q, th.randn(B, T, S)), q.sum(-1, keepdim=True))
