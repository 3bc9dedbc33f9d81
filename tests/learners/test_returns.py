from __future__ import annotations

import numpy as np
import pytest
import torch as th

from learners.returns import n_step, q_lambda, transition_mask


def loop(r: np.ndarray, term: np.ndarray, v: np.ndarray, filled: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """plugins/mmsa/README.md's recursion, one number at a time. v[t] is V_t; filled and v have one more step than r."""
    n = len(r)
    m = [filled[t] * filled[t + 1] for t in range(n)] + [0.0]
    g = np.zeros(n + 1)
    for t in reversed(range(n)):
        follow = m[t + 1]
        g[t] = r[t] + gamma * (1 - term[t]) * ((1 - lam * follow) * v[t + 1] + lam * follow * g[t + 1])
    return g[:n]


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.6, 1.0])
def test_q_lambda_equals_a_float64_loop(lam: float) -> None:
    rng = np.random.default_rng(3)
    episodes, steps, columns = 12, 9, 2
    r = rng.normal(size=(episodes, steps - 1, columns))
    v = rng.normal(size=(episodes, steps, columns))
    lengths = rng.integers(1, steps, episodes)  # transitions: one-step episodes and full ones are among them
    lengths[:2] = 1, steps - 1
    filled = (np.arange(steps)[None] <= lengths[:, None]).astype(float)
    term = np.zeros((episodes, steps - 1))
    for b in range(0, episodes, 2):  # every other one is truncated
        term[b, lengths[b] - 1] = 1
    mask = transition_mask(th.tensor(filled)[..., None]).double()
    got = q_lambda(th.tensor(r), th.tensor(term)[..., None].double(), th.tensor(v[:, 1:]), mask, gamma=0.97, lam=lam)
    for b in range(episodes):
        for c in range(columns):
            want = loop(r[b, :, c], term[b], v[b, :, c], filled[b], 0.97, lam)
            np.testing.assert_allclose(got[b, : lengths[b], c], want[: lengths[b]], rtol=1e-10)


def test_known_values() -> None:
    # Two transitions, rewards 1 and 2, the second ends the episode: G_1 = 2, G_0 = 1 + 0.5 [(1 - lam) 10 + lam 2].
    r = th.tensor([[[1.0], [2.0]]])
    term = th.tensor([[[0.0], [1.0]]])
    v = th.tensor([[[10.0], [99.0]]])
    mask = th.ones(1, 2, 1)
    assert q_lambda(r, term, v, mask, 0.5, 0.0).flatten().tolist() == [6.0, 2.0]
    assert q_lambda(r, term, v, mask, 0.5, 1.0).flatten().tolist() == [2.0, 2.0]
    assert q_lambda(r, term, v, mask, 0.5, 0.5).flatten().tolist() == [4.0, 2.0]


def test_lambda_one_is_the_monte_carlo_return_of_a_terminated_episode() -> None:
    r = th.randn(1, 5, 1)
    term = th.zeros(1, 5, 1)
    term[0, 4] = 1
    got = q_lambda(r, term, 50 * th.randn(1, 5, 1), th.ones(1, 5, 1), 0.9, 1.0)
    want = sum(0.9**k * r[0, k, 0] for k in range(5))
    assert got[0, 0, 0].item() == pytest.approx(want.item(), rel=1e-5)


def test_truncation_bootstraps_and_termination_does_not() -> None:
    r, v, mask = th.zeros(2, 3, 1), th.full((2, 3, 1), 10.0), th.ones(2, 3, 1)
    term = th.zeros(2, 3, 1)
    term[0, 2] = 1
    got = q_lambda(r, term, v, mask, 0.9, 1.0)
    assert got[0].flatten().tolist() == [0, 0, 0]
    assert got[1].flatten().tolist() == pytest.approx([10 * 0.9**3, 10 * 0.9**2, 10 * 0.9])


@pytest.mark.parametrize(
    ("filled", "expected"),
    [
        ([1, 1, 1, 1, 1], [1, 1, 1, 1]),  # full length
        ([1, 1, 1, 0, 0], [1, 1, 0, 0]),  # two transitions, terminated or truncated alike
        ([1, 1, 0, 0, 0], [1, 0, 0, 0]),  # one step
        ([1, 0, 0, 0, 0], [0, 0, 0, 0]),  # nothing but an observation
        ([0, 0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_transition_mask(filled: list[int], expected: list[int]) -> None:
    mask = transition_mask(th.tensor(filled).view(1, -1, 1))
    assert mask.shape == (1, 4, 1) and mask.flatten().tolist() == expected


def test_padding_does_not_reach_the_returns() -> None:
    filled = th.tensor([[1, 1, 1, 0, 0, 0]]).unsqueeze(-1)
    mask = transition_mask(filled)
    r, v, term = th.randn(1, 5, 1), th.randn(1, 5, 1), th.zeros(1, 5, 1)
    before = q_lambda(r, term, v, mask, 0.9, 0.7)[:, :2]
    r[:, 2:], v[:, 2:], term[:, 2:] = 1e6, -1e6, 1
    assert th.equal(before, q_lambda(r, term, v, mask, 0.9, 0.7)[:, :2])


def n_step_loop(r: np.ndarray, term: np.ndarray, v: np.ndarray, length: int, gamma: float, n: int) -> np.ndarray:
    """Rewards up to n steps ahead, then the value there; nothing past a termination or beyond the last transition."""
    returns = np.zeros(length)
    for t in range(length):
        for k in range(n):
            returns[t] += gamma**k * r[t + k]
            if term[t + k]:
                break
            if k == n - 1 or t + k == length - 1:
                returns[t] += gamma ** (k + 1) * v[t + k + 1]
                break
    return returns


@pytest.mark.parametrize("n", [1, 2, 5, 50])
def test_n_step_equals_a_float64_loop(n: int) -> None:
    rng = np.random.default_rng(4)
    episodes, steps, columns = 12, 9, 2
    r = rng.normal(size=(episodes, steps - 1, columns))
    v = rng.normal(size=(episodes, steps, columns))
    lengths = rng.integers(1, steps, episodes)
    lengths[:3] = 1, steps - 1, steps - 1
    filled = (np.arange(steps)[None] <= lengths[:, None]).astype(float)
    term = np.zeros((episodes, steps - 1))
    for b in range(0, episodes, 2):  # every other one is cut off
        term[b, lengths[b] - 1] = 1
    mask = transition_mask(th.tensor(filled)[..., None]).double()
    got = n_step(th.tensor(r), th.tensor(term)[..., None], th.tensor(v), mask, gamma=0.97, n=n)
    for b in range(episodes):
        for c in range(columns):
            want = n_step_loop(r[b, :, c], term[b], v[b, :, c], lengths[b], 0.97, n)
            np.testing.assert_allclose(got[b, : lengths[b], c], want, rtol=1e-10)


def test_more_steps_than_an_episode_has_cost_nothing() -> None:
    r, v, mask = th.randn(2, 8, 1), th.randn(2, 9, 1), th.ones(2, 8, 1)
    assert th.equal(n_step(r, 0 * r, v, mask, 0.9, 10**12), n_step(r, 0 * r, v, mask, 0.9, 8))


def test_n_step_returns_do_not_reach_into_the_padding() -> None:
    # An episode without rewards that ends at its third transition; the values of the padding are large.
    values = th.full((1, 9, 1), 100.0)
    term, filled = th.zeros(1, 8, 1), th.zeros(1, 9, 1)
    term[0, 2], filled[0, :4] = 1, 1
    got = n_step(th.zeros(1, 8, 1), term, values, transition_mask(filled), gamma=0.99, n=5)
    assert got[0, :3].abs().max() == 0
    cut_off = n_step(th.zeros(1, 8, 1), 0 * term, values, transition_mask(filled), gamma=0.5, n=5)
    assert cut_off[0, :3].flatten().tolist() == [12.5, 25.0, 50.0]


def test_n_step_returns_of_a_long_horizon_are_monte_carlo_returns() -> None:
    r, term = th.randn(1, 5, 1), th.zeros(1, 5, 1)
    term[0, 4] = 1
    got = n_step(r, term, 50 * th.randn(1, 6, 1), th.ones(1, 5, 1), 0.9, 5)
    assert got[0, 0, 0].item() == pytest.approx(sum(0.9**k * r[0, k, 0].item() for k in range(5)), rel=1e-5)
