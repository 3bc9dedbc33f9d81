"""Roll-outs: each step by hand, availability, gradients, and the encoder that reads them backwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from support.mmsa import build, spy
from torch import nn

from mmsa.agent import Choice, MMSAAgent
from mmsa.imagination import RolloutEncoder, imagine
from mmsa.world_model import WorldModel

R, N, A, K = 9, 3, 5, 4


class Case:
    """A model and an agent, and a present to imagine from."""

    def __init__(self, **changes: Any) -> None:
        learner = build(**changes)
        self.model: WorldModel = learner.online.model
        self.agent: MMSAAgent = learner.mac.agent
        g = th.Generator().manual_seed(1)
        self.h = th.randn(R, N, self.agent.hidden_dim, generator=g).tanh()
        self.zs = self.agent.zs(th.randn(R, N, self.agent.obs_dim, generator=g), self.h)
        avail = th.rand(R * N, A, generator=g) < 0.6
        self.s = self.model.posterior(self.h, self.zs).mean
        flat_zs = None if self.zs is None else self.zs.flatten(0, 1)
        self.first: Choice = self.agent.greedy(self.h.flatten(0, 1), flat_zs, avail)

    def imagine(self, horizon: int = K, encode: bool = False) -> th.Tensor:
        return imagine(self.model, self.agent, self.s, self.zs, self.first, horizon, encode)


def by_hand(case: Case, horizon: int, encode: bool) -> th.Tensor:
    """The roll-out of plugins/mmsa/README.md, one row and one action at a time."""
    model, agent = case.model, case.agent
    out = []
    for r in range(R):
        s, h, states = case.s[r], case.h[r], [case.s[r]]
        zs = None if case.zs is None else case.zs[r]
        avail = None
        actions = case.first.actions.view(R, N)[r]
        for k in range(horizon):
            if k:
                q = []
                for a in range(A):
                    acts = th.full((N,), a)
                    zsa = None if agent.sale is None else agent.sale.g(zs, acts)
                    q.append(agent.head.chosen(h, acts, zs, zsa))
                q = th.stack(q, 1)
                if avail is not None:
                    q = q.masked_fill(~avail, -1e7)
                actions = q.argmax(1)
                if avail is not None:
                    actions[~avail.any(1)] = 0
            zsa = None if agent.sale is None else agent.sale.g(zs, actions)
            if agent.sale is not None and agent.sale.g_joint is not None:
                zsa = agent.sale.normalise(agent.sale.g_joint(zs[None], actions[None]))[0]
            s = model.prior(s[None], actions[None], None if zsa is None else zsa[None]).mean[0]
            states.append(s)
            h = model.decode_hidden(s)
            avail = model.dec_avail(s) >= 0 if model.avail_seen else None
            if agent.sale is not None:
                zs = agent.sale.zs(h) if encode else zsa / zsa.abs().mean(-1, keepdim=True)
        out.append(th.stack(states))
    return th.stack(out, 1)


@pytest.mark.parametrize("horizon", [0, 1, 4])
@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{}, {"sale.enabled": False}, {"sale.scope": "joint"}, {"imagination.zs": "encode", "sale.input": "hidden"}],
    ids=str,
)
def test_roll_outs_equal_those_by_hand(changes: dict[str, Any], masks: bool, horizon: int) -> None:
    case = Case(**changes)
    case.model.avail_seen.fill_(masks)
    encode = "imagination.zs" in changes
    with th.no_grad():
        states = case.imagine(horizon, encode)
        assert states.shape == (horizon + 1, R, N, case.model.dim)
        th.testing.assert_close(states, by_hand(case, horizon, encode), atol=1e-4, rtol=1e-4)
    assert th.equal(states[0], case.s)


def test_joint_predictions_reach_the_roll_out() -> None:
    case = Case(**{"sale.scope": "joint"})
    before = case.imagine()
    with th.no_grad():
        case.agent.sale.g_joint.net[-1].weight.mul_(-3)
    assert not th.allclose(before[1], case.imagine()[1])


@pytest.mark.parametrize("only", [None, 3])
def test_imagined_actions_are_available(monkeypatch: pytest.MonkeyPatch, only: int | None) -> None:
    """Nothing left: the no-op, action 0. One action left: that one. Always after the first step, which is real."""
    case = Case()
    case.model.avail_seen.fill_(True)
    last = case.model.dec_avail[-1]
    with th.no_grad():
        last.weight.zero_()
        last.bias.fill_(-1.0)
        if only is not None:
            last.bias[only] = 1.0
    calls = spy(monkeypatch, case.model, "next_mean")
    case.imagine()
    actions = [args[1] for args in calls]
    assert th.equal(actions[0].flatten(), case.first.actions)
    assert all((a == (only or 0)).all() for a in actions[1:]) and len(actions) == K


def test_gradients_run_along_the_chain_of_latents_only() -> None:
    case = Case()
    case.zs.requires_grad_()
    case.imagine()[-1].square().sum().backward()
    trained = {
        name.partition(".")[0] for name, p in case.model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert trained == {"post", "enc_s", "enc_a", "enc_z", "trans", "prior_mean"}
    assert case.zs.grad is None and all(p.grad is None for p in case.agent.parameters())


def test_the_roll_out_is_read_from_its_end_to_the_present() -> None:
    encoder = RolloutEncoder(N, 3, 6)
    gru = nn.GRU(N * 3, 6)
    gru.load_state_dict(encoder.rnn.state_dict())
    states = th.randn(K + 1, R, N, 3)
    e = encoder(states)
    assert e.shape == (R, 6)
    expected = gru(th.stack([states[k].flatten(1) for k in range(K, -1, -1)]))[0][-1]
    th.testing.assert_close(e, expected)
