"""Trunk, head and greedy choice."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from support.mmsa import mmsa_args

import mmsa.agent
from mmsa.agent import MMSAAgent, masked_argmax
from mmsa.loops import BLOCK
from mmsa.returns import Rows

INPUTS, A = 9, 5  # 6 observed, 3 of the agent's number


def make(**changes: Any) -> tuple[MMSAAgent, Any]:
    args = mmsa_args(**changes)
    th.manual_seed(2)
    return MMSAAgent(INPUTS, args), args


def rows_and_inputs(agent: MMSAAgent, n_rows: int = 23) -> tuple[th.Tensor, th.Tensor | None]:
    g = th.Generator().manual_seed(4)
    h = th.randn(n_rows, agent.hidden_dim, generator=g).tanh()
    return h, agent.zs(th.randn(n_rows, agent.obs_dim, generator=g), h)


def q_of(agent: MMSAAgent, h: th.Tensor, zs: th.Tensor | None, actions: th.Tensor) -> th.Tensor:
    return agent.head.chosen(h, actions, zs, None if agent.sale is None else agent.sale.g(zs, actions))


def test_unroll_equals_steps_and_ignores_padding() -> None:
    agent, _ = make()
    lengths, n_agents = [4, 2, 5, 1], 3
    filled = (th.arange(5) < th.tensor(lengths)[:, None]).long()
    rows = Rows(filled)
    x = th.randn(len(rows), n_agents, INPUTS)
    unrolled = agent.trunk.unroll(x, rows)
    r = 0
    for length in lengths:
        h = th.zeros(n_agents, agent.hidden_dim)
        for _ in range(length):
            h = agent.trunk.step(x[r], h)
            th.testing.assert_close(unrolled[r], h)
            r += 1


def test_unroll_has_the_gradient_of_the_steps() -> None:
    agent, _ = make()
    x = th.randn(6, 2, INPUTS)
    weight = th.randn(6, 2, agent.hidden_dim)
    (agent.trunk.unroll(x, Rows(th.ones(1, 6))) * weight).sum().backward()
    got = [p.grad.clone() for p in agent.trunk.parameters()]
    agent.zero_grad()
    h, total = th.zeros(2, agent.hidden_dim), th.zeros(())
    for t in range(6):
        h = agent.trunk.step(x[t], h)
        total = total + (h * weight[t]).sum()
    total.backward()
    for a, p in zip(got, agent.trunk.parameters(), strict=True):
        th.testing.assert_close(a, p.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"sale.enabled": False}, {"sale.normalise": False}, {"sale.scope": "joint"}])
def test_all_actions_equal_a_loop_over_single_ones(changes: dict[str, Any]) -> None:
    agent, _ = make(**changes)
    h, zs = rows_and_inputs(agent)
    q, _ = agent.head.all_actions(h, zs, agent.fold())
    assert q.shape == (len(h), A)
    for a in range(A):
        single = q_of(agent, h, zs, th.full((len(h),), a))
        th.testing.assert_close(q[:, a], single, atol=1e-5, rtol=1e-5)
    assert len(q.round(decimals=5).unique()) > A  # actions and rows do differ


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(
    ("n_rows", "n_actions", "width"), [(1, A, 8), (2 * BLOCK, A, 8), (3 * BLOCK + 5, A, 8), (5, 100, 64), (3, 400, 64)]
)  # the last two go through the layers two rows and one row at a time
def test_the_compiled_head_is_torchs(
    n_rows: int, n_actions: int, width: int, normalise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"n_actions": n_actions, "sale.hidden_dim": width, "head.hidden_dim": width}
    agent, _ = make(**{"sale.normalise": normalise, "head.zero_init": False, **sizes})
    h, zs = rows_and_inputs(agent, n_rows)
    assert zs is not None
    h[0] = 0.0
    ours = agent.head.all_actions(h, zs, agent.fold())
    poisoned = h.clone()
    poisoned[-1, 3] = th.nan
    unclear = agent.head.all_actions(poisoned, zs, agent.fold())[0].isnan()
    assert unclear[-1].all() and not unclear[:-1].any()
    monkeypatch.setattr("modules.compiled.runs", lambda x: False)
    for mine, torchs in zip(ours, agent.head.all_actions(h, zs, agent.fold()), strict=True):
        th.testing.assert_close(mine, torchs, atol=2e-6, rtol=1e-5)


def test_the_head_is_the_formula() -> None:
    agent, _ = make()
    head = agent.head
    h, zs = rows_and_inputs(agent, 6)
    actions = th.tensor([0, 1, 2, 3, 4, 0])
    zsa = agent.sale.g(zs, actions)
    phi = head.phi(h)
    phi = phi / phi.abs().mean(-1, keepdim=True)
    inner = head.q1(th.cat([phi, zs], -1)) + zsa @ head.zsa.weight.t() + head.action.weight[:, actions].t()
    expected = head.q2(th.nn.functional.elu(inner)).squeeze(1) + head.direct(h)[range(6), actions]
    th.testing.assert_close(head.chosen(h, actions, zs, zsa), expected)


def test_without_embeddings_the_head_is_one_linear_layer() -> None:
    agent, _ = make(**{"sale.enabled": False})
    assert {name for name, _ in agent.head.named_parameters()} == {"direct.weight", "direct.bias"}
    h, _ = rows_and_inputs(agent)
    th.testing.assert_close(agent.head.all_actions(h, None, None)[0], agent.head.direct(h))


def test_the_action_taken_carries_the_gradient_of_trunk_and_head_alone() -> None:
    agent, _ = make()
    h, zs = rows_and_inputs(agent)
    h.requires_grad_()
    q_of(agent, h, zs, th.zeros(len(h), dtype=th.long)).sum().backward()
    assert h.grad.any() and all(p.grad is not None for p in agent.head.parameters())
    assert all(p.grad is None and not p.requires_grad for p in agent.sale.parameters())


@pytest.mark.parametrize("chunk", [1, 12, 8192])
@pytest.mark.parametrize("enabled", [True, False])
def test_greedy(monkeypatch: pytest.MonkeyPatch, chunk: int, enabled: bool) -> None:
    monkeypatch.setattr(mmsa.agent, "CHUNK", chunk)
    agent, _ = make(**{"sale.enabled": enabled})
    h, zs = rows_and_inputs(agent)
    g = th.Generator().manual_seed(0)
    avail = th.rand(len(h), A, generator=g) < 0.5
    avail[3] = False
    taken = th.randint(0, A, (len(h),), generator=g)
    q = th.stack([q_of(agent, h, zs, th.full((len(h),), a)) for a in range(A)], 1).detach()
    best = [
        max((a for a in range(A) if ok[a]), key=lambda a: row[a], default=0) for row, ok in zip(q, avail, strict=True)
    ]
    choice = agent.greedy(h, zs, avail, taken)
    assert choice.actions.tolist() == best and best[3] == 0
    assert agent.greedy(h, zs, None).actions.tolist() == q.argmax(1).tolist()
    if not enabled:
        assert choice.zsa is None and choice.taken_zsa is None
        return
    th.testing.assert_close(choice.zsa, agent.sale.g(zs, choice.actions), atol=1e-5, rtol=1e-5)
    th.testing.assert_close(choice.taken_zsa, agent.sale.g(zs, taken), atol=1e-5, rtol=1e-5)
    assert not choice.zsa.requires_grad


def test_masked_argmax_never_takes_what_is_unavailable() -> None:
    q = th.tensor([[5.0, 1.0, 2.0], [-2e6, -3e6, 0.0], [1.0, 2.0, 3.0]])
    avail = th.tensor([[False, True, True], [True, True, False], [False, False, False]])
    assert masked_argmax(q, avail).tolist() == [2, 0, 0]


@pytest.mark.parametrize("kind", ["obs", "hidden"])
@pytest.mark.parametrize("last_action", [True, False])
def test_what_f_reads(kind: str, last_action: bool) -> None:
    """The raw observation, never the last action or the id; or the hidden state."""
    args = mmsa_args(obs_last_action=last_action, **{"sale.input": kind})
    n_inputs = args.obs_shape + args.n_agents + last_action * args.n_actions
    agent = MMSAAgent(n_inputs, args)
    assert agent.sale.f[0].in_features == (args.obs_shape if kind == "obs" else args.hidden_dim)
    x, h = th.randn(2, n_inputs), th.zeros(2, args.hidden_dim)
    q, next_h = agent(x, h)
    zs = agent.zs(x[:, : args.obs_shape], next_h)
    assert (
        q.shape == (2, A) and next_h.shape == (2, args.hidden_dim) and agent.init_hidden().shape == (1, args.hidden_dim)
    )
    th.testing.assert_close(zs, agent.sale.zs(x[:, : args.obs_shape] if kind == "obs" else next_h))
    th.testing.assert_close(q, agent.head.all_actions(next_h, zs, agent.fold())[0])
