"""Valid rows of padded batches, Q(lambda) in every case of a mask, and the standardiser of rewards."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch as th

from components.running_stats import RunningStats
from learners import returns as host
from mmsa.returns import RewardStandardiser, Rows, q_lambda

T = 5  # steps, so up to 4 transitions
# Every episode that fits: how many transitions, and whether it was terminated, truncated or neither is yet to come.
CASES = [(n, end) for n in range(0, T) for end in (True, False) if n or not end]


def batch() -> tuple[th.Tensor, ...]:
    """reward, terminated, mask, next_value (B, T-1), float64, one episode for each case; garbage in the padding."""
    g = th.Generator().manual_seed(0)
    reward, value = (th.randn(len(CASES), T - 1, generator=g, dtype=th.float64) for _ in range(2))
    mask = th.zeros(len(CASES), T - 1, dtype=th.float64)
    terminated = th.randint(0, 2, mask.shape, generator=g).double()
    for b, (n, end) in enumerate(CASES):
        mask[b, :n] = 1
        terminated[b, :n] = 0
        if n:
            terminated[b, n - 1] = end
    return reward, terminated, mask, value


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("mask_dtype", [th.float64, th.bool])
def test_q_lambda_equals_a_float64_loop(lam: float, mask_dtype: th.dtype) -> None:
    reward, terminated, mask, value = batch()
    got = q_lambda(reward, terminated, mask.to(mask_dtype), value, 0.9, lam)
    for b, (n, end) in enumerate(CASES):
        expected = 0.0
        for t in reversed(range(n)):
            ahead = float(value[b, t])
            if t + 1 < n:
                ahead = (1 - lam) * ahead + lam * expected
            expected = float(reward[b, t]) + (0.0 if end and t == n - 1 else 0.9 * ahead)
            assert got[b, t].item() == pytest.approx(expected, rel=1e-12), (b, t)


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_the_hosts_own_returns_agree(lam: float) -> None:
    reward, terminated, mask, value = (x.float() for x in batch())
    mine = q_lambda(reward, terminated, mask, value, 0.9, lam)
    theirs = host.q_lambda(*(x.unsqueeze(-1) for x in (reward, terminated, value, mask)), 0.9, lam).squeeze(-1)
    th.testing.assert_close(mine * mask, theirs * mask, atol=1e-6, rtol=0)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_one_step_target_and_sum_of_rewards(lam: float) -> None:
    reward, ones = th.tensor([[1.0, 2.0, 4.0]]), th.ones(1, 3)
    terminated, value = th.tensor([[0.0, 0.0, 1.0]]), th.tensor([[10.0, 20.0, 40.0]])
    expected = [11.0, 22.0, 4.0] if lam == 0 else [7.0, 6.0, 4.0]
    assert q_lambda(reward, terminated, ones, value, 1.0, lam).tolist() == [expected]


def test_why_the_two_step_game_is_played_with_lambda_zero() -> None:
    """Under uniform play the coordinated branch is worth 0.4 * 8 + 0.6 * 2.5 = 4.7 at lambda 0.6: less than the 7."""
    payoffs = th.tensor([0.0, 1.0, 1.0, 8.0], dtype=th.float64)  # of the four joint actions, all equally likely
    reward = th.stack([th.zeros(4, dtype=th.float64), payoffs], 1)
    terminated = th.tensor([[0.0, 1.0]]).double().expand(4, 2)
    value = th.tensor([[8.0, 100.0]]).double().expand(4, 2)  # the best value of the second state; nothing after the end
    for lam, worth in ((0.0, 8.0), (0.6, 4.7)):
        first = q_lambda(reward, terminated, th.ones(4, 2).double(), value, 1.0, lam)[:, 0]
        assert first.mean().item() == pytest.approx(worth, rel=1e-12)


# --- rows ---
LENGTHS = [3, 5, 2, 1, 4]  # filled steps


def rows_of(lengths: list[int], burn_in: list[int] | None = None) -> Rows:
    steps = th.arange(T)
    filled = (steps < th.tensor(lengths)[:, None]).long()
    return Rows(filled, None if burn_in is None else (steps < th.tensor(burn_in)[:, None]).to(th.uint8))


def test_rows_are_the_filled_steps_in_order() -> None:
    rows = rows_of(LENGTHS)
    place = th.arange(len(LENGTHS) * T).view(len(LENGTHS), T)
    packed = rows.pack(place).tolist()
    assert packed == [T * b + t for b, n in enumerate(LENGTHS) for t in range(n)] and len(rows) == sum(LENGTHS)
    assert [packed[r] for r in rows.src] == [T * b + t for b, n in enumerate(LENGTHS) for t in range(n - 1)]
    assert [packed[r + 1] for r in rows.src] == [packed[r] + 1 for r in rows.src]
    assert rows.first.tolist() == [t == 0 for n in LENGTHS for t in range(n)]
    assert rows.mask.tolist() == [[t + 1 < n for t in range(T - 1)] for n in LENGTHS]


def test_the_mask_is_the_hosts() -> None:
    filled = (th.arange(T) < th.tensor(LENGTHS)[:, None]).long()
    assert th.equal(Rows(filled).mask.float(), host.transition_mask(filled.unsqueeze(-1)).squeeze(-1))


def test_transitions_go_out_and_come_back() -> None:
    rows = rows_of(LENGTHS)
    x = th.arange(1.0, len(rows.src) + 1)
    out = rows.unpack_transitions(x)
    assert out.shape == (len(LENGTHS), T - 1) and out[~rows.mask].eq(0).all() and th.equal(out[rows.mask], x)
    assert th.equal(rows.pack_transitions(out), x)


def test_burn_in_rows_enter_no_loss() -> None:
    burn_in = [1, 2, 0, 0, 1]
    rows = rows_of(LENGTHS, burn_in)
    packed = [(b, t) for b, n in enumerate(LENGTHS) for t in range(n)]
    assert [packed[r] for r in rows.trained] == [(b, t) for b, t in packed if t >= burn_in[b]]
    counted = [(b, t) for b, t in packed if burn_in[b] <= t < LENGTHS[b] - 1]
    assert [packed[r] for r in rows.trained_src] == counted
    assert [packed[r] for r in rows.src[rows.src_trained]] == counted
    assert len(rows_of(LENGTHS).trained) == sum(LENGTHS)


# --- standardiser ---
def test_standardiser_equals_the_statistics_of_all_rewards_so_far() -> None:
    g = th.Generator().manual_seed(0)
    pieces = [5 + 3 * th.randn(n, generator=g) for n in (1, 7, 20)]
    standardise, theirs = RewardStandardiser(), RunningStats((1,))
    for k in range(len(pieces)):
        seen = th.cat(pieces[: k + 1]).double().numpy()
        theirs.update(pieces[k].unsqueeze(1))
        got = standardise(pieces[k])
        expected = (pieces[k].numpy() - seen.mean()) / (seen.std() or 1.0)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)
        th.testing.assert_close(got, theirs.normalise(pieces[k].unsqueeze(1)).squeeze(1), rtol=1e-5, atol=1e-6)


def test_standardiser_state_goes_through_a_checkpoint() -> None:
    first, second = RewardStandardiser(), RewardStandardiser()
    first(th.arange(10.0))
    second.load_state_dict(first.state_dict())
    assert th.equal(first(th.arange(3.0)), second(th.arange(3.0)))


@pytest.mark.parametrize("wrong", [th.nan, th.inf, -th.inf])
def test_what_is_no_number_leaves_the_statistics_alone(wrong: float) -> None:
    """Else every reward after it would be none, too; the update that it is in is left out by the guard."""
    standardise, other = RewardStandardiser(), RewardStandardiser()
    assert not standardise(th.full((2,), wrong)).isfinite().any()
    rewards = th.arange(10.0)
    assert th.equal(standardise(rewards), other(rewards))
    got = standardise(th.tensor([1.0, wrong, 3.0]))
    assert got.isfinite().tolist() == [True, False, True]
    assert th.equal(got[[0, 2]], other(th.tensor([1.0, 3.0])))


def test_equal_rewards_are_standardised_to_zero() -> None:
    standardise = RewardStandardiser()
    for _ in range(3):
        assert standardise(th.full((4,), 0.1)).abs().max() < 1e-6


def test_every_length_of_every_episode() -> None:
    """Rows over all combinations of three episodes' lengths, the empty one among them."""
    for lengths in itertools.product(range(T + 1), repeat=3):
        rows = rows_of(list(lengths))
        assert len(rows) == sum(lengths) and len(rows.src) == sum(max(n - 1, 0) for n in lengths)
        assert th.equal((~rows.first).nonzero().squeeze(1), rows.src + 1)
