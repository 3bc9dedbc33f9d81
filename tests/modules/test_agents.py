from __future__ import annotations

from typing import Any

import pytest
import torch as th
from support.settings import args
from torch import nn

from modules.agents import REGISTRY
from modules.agents.gru import unroll_gru
from modules.agents.playing import softmax

B, T, N, H, A, INPUT = 4, 7, 3, 16, 5, 6


def agent(name: str, seed: int = 0, **changes: Any) -> Any:
    th.manual_seed(seed)
    return REGISTRY[name](INPUT, args(hidden_dim=H, **changes))


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("use_rnn", [True, False])
def test_unroll_equals_step_by_step(name: str, use_rnn: bool) -> None:
    net, inputs = agent(name, use_rnn=use_rnn), th.randn(B, T, N, INPUT)
    q, h = net.unroll(inputs)
    assert q.shape == (B, T, N, A) and h.shape == (B, T, N, H)
    state = net.init_hidden().expand(B, N, -1)
    for t in range(T):
        q_t, state = net(inputs[:, t].flatten(0, 1), state)
        assert q_t.shape == (B * N, A) and state.shape == (B * N, H)
        th.testing.assert_close(q_t.view(B, N, A), q[:, t], rtol=1e-5, atol=1e-6)
        th.testing.assert_close(state.view(B, N, H), h[:, t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("use_rnn", [True, False])
def test_the_player_is_the_network_in_numpy(name: str, use_rnn: bool) -> None:
    net, x, h = agent(name, use_rnn=use_rnn), 3 * th.randn(B * N, INPUT), th.randn(B * N, H)
    player = net.player()
    for _ in range(2):
        before = x.clone(), h.clone()
        for ours, torchs in zip(player(x.numpy(), h.numpy()), net(x, h), strict=True):
            th.testing.assert_close(th.from_numpy(ours), torchs.detach(), rtol=1e-5, atol=1e-6)
        assert th.equal(x, before[0]) and th.equal(h, before[1])
        with th.no_grad():
            for p in net.parameters():
                p.add_(0.1)  # what is learned, it sees


def test_softmax_of_large_numbers() -> None:
    x = th.tensor([[1000.0, 1001.0, -1e10], [0.0, 0.0, 0.0]])
    th.testing.assert_close(th.from_numpy(softmax(x.numpy())), x.softmax(-1))


def test_the_networks_are_the_stated_ones() -> None:
    x = th.randn(9, INPUT)
    net = agent("rnn", use_rnn=False)
    one, two, three = (m for m in net.modules() if isinstance(m, nn.Linear))
    th.testing.assert_close(net(x, net.init_hidden())[0], three(two(one(x).relu()).relu()))
    net = agent("rnn")
    cell = nn.GRUCell(H, H)
    member, h = net.members[0], th.randn(9, H)
    cell.load_state_dict({key.removesuffix("_l0"): value for key, value in member.rnn.state_dict().items()})
    q, new = net(x, h)
    th.testing.assert_close(new, cell(member.fc1(x).relu(), h))
    th.testing.assert_close(q, member.fc2(new))


def test_shared_and_own_parameters_are_one_function_for_equal_weights() -> None:
    shared, own = agent("rnn"), agent("rnn_ns", seed=1)
    assert len(own.members) == N and len(shared.members) == 1
    for member in own.members:
        member.load_state_dict(shared.members[0].state_dict())
    inputs = th.randn(B, T, N, INPUT)
    for one, other in zip(shared.unroll(inputs), own.unroll(inputs), strict=True):
        th.testing.assert_close(one, other)
    x, h = th.randn(B * N, INPUT), th.randn(B * N, H)
    for one, other in zip(shared(x, h), own(x, h), strict=True):
        th.testing.assert_close(one, other)


@pytest.mark.parametrize("name", REGISTRY)
def test_an_agent_depends_on_its_own_inputs_only(name: str) -> None:
    net, inputs = agent(name), th.randn(B, T, N, INPUT)
    before = net.unroll(inputs)[0]
    inputs[:, :, 1] += 1
    after = net.unroll(inputs)[0]
    assert th.equal(before[:, :, [0, 2]], after[:, :, [0, 2]]) and not th.equal(before[:, :, 1], after[:, :, 1])


def test_own_parameters_get_their_own_gradients() -> None:
    net = agent("rnn_ns")
    net.unroll(th.randn(B, T, N, INPUT))[0][:, :, 1].sum().backward()
    moved = [any(p.grad is not None and p.grad.any() for p in member.parameters()) for member in net.members]
    assert moved == [False, True, False]


# --- the GRU with its gradient written out ---
def gradients(outputs: th.Tensor, weights: th.Tensor, inputs: list[th.Tensor]) -> tuple[th.Tensor, ...]:
    return th.autograd.grad((outputs * weights).sum(), inputs)


@pytest.mark.parametrize(("steps", "rows", "width_in"), [(1, 1, 3), (2, 5, 16), (13, 4, 7)])
def test_gru_equals_torchs(steps: int, rows: int, width_in: int) -> None:
    th.manual_seed(0)
    gru = nn.GRU(width_in, 16).double()
    x = th.randn(steps, rows, width_in, dtype=th.double, requires_grad=True)
    ours, theirs = unroll_gru(gru, x), gru(x)[0]
    th.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights, wanted = th.randn_like(ours), [x, *gru.parameters()]
    for one, other in zip(gradients(ours, weights, wanted), gradients(theirs, weights, wanted), strict=True):
        th.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_gru_equals_torchs_at_full_size() -> None:
    """Sizes at which the products take another path than small ones do."""
    th.manual_seed(0)
    gru, x = nn.GRU(64, 64), th.randn(51, 64, 64, requires_grad=True)
    ours, theirs, wanted = unroll_gru(gru, x), gru(x)[0], [x, *gru.parameters()]
    th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weights = th.randn_like(ours)
    for one, other in zip(gradients(ours, weights, wanted), gradients(theirs, weights, wanted), strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


def test_gru_gradients_by_finite_differences() -> None:
    th.manual_seed(0)
    gru = nn.GRU(3, 4).double()
    x = th.randn(5, 2, 3, dtype=th.double, requires_grad=True)
    assert th.autograd.gradcheck(lambda x, *_: unroll_gru(gru, x), (x, *gru.parameters()))


@pytest.mark.parametrize(("steps", "rows"), [(1, 3), (4, 3), (5, 9000)])  # the last one in blocks
def test_the_last_hidden_state_alone(steps: int, rows: int) -> None:
    gru, x = nn.GRU(5, 16).double(), th.randn(steps, rows, 5, dtype=th.double, requires_grad=True)
    ours, theirs, wanted = unroll_gru(gru, x, last=True), gru(x)[0][-1], [x, *gru.parameters()]
    th.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    weights = th.randn_like(ours)
    th.testing.assert_close(
        th.autograd.grad((ours * weights).sum(), wanted), th.autograd.grad((theirs * weights).sum(), wanted)
    )


def test_gru_in_part_and_without_gradient() -> None:
    gru, x = nn.GRU(4, 8), th.randn(6, 3, 4)
    with th.no_grad():
        assert not unroll_gru(gru, x).requires_grad
    part = unroll_gru(gru, x)[::2].transpose(0, 1)  # an expanded, strided gradient arrives
    other = gru(x)[0][::2].transpose(0, 1)
    for one, two in zip(
        th.autograd.grad(part.sum(), list(gru.parameters())),
        th.autograd.grad(other.sum(), list(gru.parameters())),
        strict=True,
    ):
        th.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_gru_twice_through_one_graph_of_parameters() -> None:
    gru, x, y = nn.GRU(4, 8), th.randn(6, 3, 4), th.randn(6, 3, 4)
    (unroll_gru(gru, x).sum() + unroll_gru(gru, y).sum()).backward()
    both = [p.grad.clone() for p in gru.parameters()]
    gru.zero_grad()
    gru(th.cat([x, y], 1))[0].sum().backward()
    for one, p in zip(both, gru.parameters(), strict=True):
        th.testing.assert_close(one, p.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("gpu")
def test_gru_on_cuda() -> None:
    gru, x = nn.GRU(4, 8), th.randn(6, 3, 4)
    here = unroll_gru(gru, x).detach()
    th.testing.assert_close(unroll_gru(gru.cuda(), x.cuda()).cpu(), here, rtol=1e-4, atol=1e-4)
