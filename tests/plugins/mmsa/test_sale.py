"""State-action embeddings: the norm, the two ways through g, the loss, and TD7's own encoders."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch as th
from support.mmsa import mmsa_args
from torch.nn import functional as F

from mmsa.config import MMSAConfig
from mmsa.sale import SALE, ActionEncoder, avg_l1_norm

N, A, Z, HIDDEN, INPUT = 3, 5, 7, 11, 6


def make(**changes: Any) -> SALE:
    th.manual_seed(1)
    return SALE(INPUT, N, A, MMSAConfig.from_args(mmsa_args(**changes)).sale)


# --- AvgL1Norm ---
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_mean_absolute_value_becomes_one(scale: float) -> None:
    x = scale * th.randn(20, 4, 9)
    y = avg_l1_norm(x)
    th.testing.assert_close(y.abs().mean(-1), th.ones(20, 4))
    th.testing.assert_close(y * x.abs().mean(-1, keepdim=True), x)


def test_zero_stays_zero_with_a_finite_gradient() -> None:
    x = th.zeros(2, 5, requires_grad=True)
    y = avg_l1_norm(x)
    y.sum().backward()
    assert th.equal(y, th.zeros(2, 5)) and x.grad.isfinite().all()


def test_the_compiled_form_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = th.cat([th.randn(3, 4, 9), th.zeros(1, 4, 9), 1e-12 * th.randn(1, 4, 9)]).transpose(0, 1)
    x[0, 0, :4] = 0.0
    weight = th.randn(5, 4, 9).transpose(0, 1)  # gradients come in any order in memory, too

    def value_and_gradient() -> tuple[th.Tensor, th.Tensor]:
        leaf = x.clone().requires_grad_(True)
        y = avg_l1_norm(leaf)
        (y * weight).sum().backward()
        return y, leaf.grad

    ours = value_and_gradient()
    monkeypatch.setattr("modules.compiled.runs", lambda x: False)
    for mine, torchs in zip(ours, value_and_gradient(), strict=True):
        th.testing.assert_close(mine, torchs, rtol=1e-5, atol=1e-6)


def test_normalise_switch() -> None:
    x = th.randn(4, N, INPUT)
    on, off = make(), make(**{"sale.normalise": False})
    off.load_state_dict(on.state_dict())
    assert not th.allclose(off.zs(x), on.zs(x))
    assert th.equal(off.zs(x), off.f(x))
    th.testing.assert_close(on.zs(x), avg_l1_norm(off.zs(x)))


# --- g ---
def plain_g(g: ActionEncoder, zs: th.Tensor, actions: th.Tensor) -> th.Tensor:
    x = th.cat([zs, F.one_hot(actions, A).float()], -1)
    for layer in (g.inp, g.mid):
        x = F.elu(F.linear(x, layer.weight, layer.bias))
    return F.linear(x, g.out.weight, g.out.bias)


def test_g_is_a_network_of_embedding_and_one_hot_action() -> None:
    g, zs, actions = make().g, th.randn(30, Z, requires_grad=True), th.randint(0, A, (30,))
    weight = th.randn(30, Z)
    expected = th.autograd.grad((plain_g(g, zs, actions) * weight).sum(), [zs, *g.parameters()])
    got = th.autograd.grad((g(zs, actions) * weight).sum(), [zs, *g.parameters()])
    th.testing.assert_close(g(zs, actions), plain_g(g, zs, actions))
    for a, b in zip(got, expected, strict=True):
        th.testing.assert_close(a, b)


# --- loss ---
@pytest.mark.parametrize("scope", ["local", "joint"])
def test_loss_is_the_mean_squared_error_of_the_next_embedding(scope: str) -> None:
    sale = make(**{"sale.scope": scope})
    zs, actions, target = th.randn(8, N, Z), th.randint(0, A, (8, N)), th.randn(8, N, Z)
    expected = sum(
        (plain_g(sale.g, zs[r, i][None], actions[r, i][None])[0] - target[r, i]).square().sum()
        for r in range(8)
        for i in range(N)
    ) / (8 * N * Z)
    if scope == "joint":
        x = th.cat([zs.flatten(1), F.one_hot(actions, A).float().flatten(1)], 1)
        expected = expected + F.mse_loss(sale.g_joint.net(x), target.flatten(1))
    th.testing.assert_close(sale.loss(zs, actions, target), expected)


@pytest.mark.parametrize("scope", ["local", "joint"])
def test_no_gradient_reaches_the_target(scope: str) -> None:
    sale = make(**{"sale.scope": scope})
    zs = th.randn(8, N, Z, requires_grad=True)
    target = th.randn(8, N, Z, requires_grad=True)
    sale.loss(zs, th.zeros(8, N, dtype=th.long), target).backward()
    assert target.grad is None and zs.grad.any()


@pytest.mark.parametrize("scope", ["local", "joint"])
def test_dynamics(scope: str) -> None:
    """The world model is told zsa, or with joint scope all agents' prediction, normalised agent by agent."""
    sale = make(**{"sale.scope": scope})
    zs, zsa, actions = th.randn(8, N, Z), th.randn(8, N, Z), th.randint(0, A, (8, N))
    told = sale.dynamics(zs, actions, zsa)
    if scope == "local":
        assert th.equal(told, zsa)
        return
    th.testing.assert_close(told.abs().mean(-1), th.ones(8, N))
    others = zs.clone()
    others[:, 1] += 1
    assert not th.allclose(sale.dynamics(others, actions, zsa)[:, 0], told[:, 0])  # it is joint
    acted = actions.clone()
    acted[:, 1] = (acted[:, 1] + 1) % A
    assert not th.allclose(sale.dynamics(zs, acted, zsa)[:, 0], told[:, 0])


def test_scope_decides_whether_there_is_a_joint_encoder() -> None:
    assert make().g_joint is None
    assert make(**{"sale.scope": "joint"}).g_joint is not None


# --- TD7's own encoders ---
def waves(shape: tuple[int, ...], salt: float) -> th.Tensor:
    n = th.arange(th.Size(shape).numel(), dtype=th.float64)
    return (0.5 * th.sin(1.7 * n + salt)).view(shape).float()


def wave_sale() -> tuple[SALE, th.Tensor, th.Tensor]:
    """Weights, inputs and actions that are the same everywhere."""
    sale = make()
    with th.no_grad():
        for salt, p in enumerate(sale.parameters()):
            p.copy_(waves(tuple(p.shape), salt))
    return sale, waves((4, INPUT), 99.0), th.tensor([0, 2, 4, 1])


# fmt: off
# Printed by Encoder.zs and Encoder.zsa of TD7.py (github.com/sfujim/TD7, MIT) on these weights and inputs.
TD7_ZS = [
    [0.377749, 1.020090, 1.288794, 0.788086, 0.811502, 1.417845, 1.295934],
    [0.257372, 0.996151, 1.311610, 0.751145, 0.793161, 1.504537, 1.386024],
    [0.311207, 1.012086, 1.307208, 0.764326, 0.795966, 1.466211, 1.342996],
    [0.423869, 1.027788, 1.278417, 0.803181, 0.820050, 1.384505, 1.262189],
]
TD7_ZSA = [
    [-0.091260, 0.641792, 1.211606, 0.675072, 0.550501, 1.382896, 1.507617],
    [-0.683697, 0.071982, 0.677142, 0.187888, 0.121473, 1.021602, 1.222122],
    [-0.010433, 0.712881, 1.271369, 0.722175, 0.583892, 1.401830, 1.511671],
    [0.046876, 0.757108, 1.301525, 0.737588, 0.584218, 1.387061, 1.482136],
]
# fmt: on


def test_encoders_give_td7s_numbers() -> None:
    sale, x, actions = wave_sale()
    zs = sale.zs(x)
    th.testing.assert_close(zs, th.tensor(TD7_ZS), atol=2e-5, rtol=1e-4)
    th.testing.assert_close(sale.g(zs, actions), th.tensor(TD7_ZSA), atol=2e-5, rtol=1e-4)


@pytest.mark.skipif("TD7_PATH" not in os.environ, reason="TD7_PATH names no folder with TD7.py")
def test_encoders_equal_td7s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "buffer", ModuleType("buffer"))  # TD7's replay, not needed here
    spec = importlib.util.spec_from_file_location("td7", Path(os.environ["TD7_PATH"]) / "TD7.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "td7", module)
    spec.loader.exec_module(module)
    sale, x, actions = wave_sale()
    theirs = module.Encoder(INPUT, A, Z, HIDDEN)
    ours = [sale.f[0], sale.f[2], sale.f[4], sale.g.inp, sale.g.mid, sale.g.out]
    layers = (theirs.zs1, theirs.zs2, theirs.zs3, theirs.zsa1, theirs.zsa2, theirs.zsa3)
    for mine, layer in zip(ours, layers, strict=True):
        layer.load_state_dict({"weight": mine.weight, "bias": mine.bias})
    zs = theirs.zs(x)
    one_hot = F.one_hot(actions, A).float()
    th.testing.assert_close(sale.zs(x), zs)
    th.testing.assert_close(sale.g(zs, actions), theirs.zsa(zs, one_hot))
    next_x = waves((4, INPUT), 7.0)
    loss = F.mse_loss(theirs.zsa(zs, one_hot), theirs.zs(next_x).detach())
    got = sale.loss(sale.zs(x)[:, None], actions[:, None], sale.zs(next_x)[:, None])
    th.testing.assert_close(got, loss)
