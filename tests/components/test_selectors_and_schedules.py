from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
import torch as th
from support.settings import args

from components.action_selectors import REGISTRY
from components.epsilon_schedules import DecayThenFlatSchedule
from components.transforms import OneHot


def masks(n_episodes: int) -> th.Tensor:
    avail = (th.rand(n_episodes, 3, 5) < 0.5).to(th.uint8)
    avail[..., 2] = 1
    return avail


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("test_mode", [False, True])
def test_only_available_actions_are_taken(name: str, test_mode: bool) -> None:
    th.manual_seed(0)
    selector = REGISTRY[name](args(epsilon_anneal_time=100))
    for t_env in (0, 50, 1000):
        values, avail = th.rand(64, 3, 5, requires_grad=True), masks(64)  # as a controller of others may hand them over
        actions = selector.select_action(values, avail, t_env, test_mode=test_mode)
        assert actions.shape == (64, 3) and actions.dtype == th.int64
        assert avail.gather(-1, actions.unsqueeze(-1)).all()


@pytest.mark.parametrize("name", REGISTRY)
def test_nothing_available_gives_the_no_op(name: str) -> None:
    selector = REGISTRY[name](args())
    actions = selector.select_action(th.rand(2, 3, 5), th.zeros(2, 3, 5, dtype=th.uint8), 0)
    assert not actions.any()


def test_greedy_without_exploration_draws_nothing() -> None:
    selector = REGISTRY["epsilon_greedy"](args(evaluation_epsilon=0.0))
    values, avail = -5 - th.rand(40, 3, 5), masks(40)
    state = th.get_rng_state()
    actions = selector.select_action(values, avail, 0, test_mode=True)
    assert th.equal(state, th.get_rng_state())
    assert th.equal(actions, values.masked_fill(avail == 0, -math.inf).argmax(-1))
    assert selector.epsilon == 1.0  # the training's rate, untouched by tests


def test_exploration_is_uniform_over_the_available_actions_at_the_given_rate() -> None:
    th.manual_seed(0)
    selector = REGISTRY["epsilon_greedy"](args(epsilon_start=0.4, epsilon_finish=0.4))
    n = 40_000
    values = th.tensor([0.0, 9.0, 1.0, 2.0, 50.0]).expand(n, 1, 5)
    avail = th.tensor([1, 1, 1, 0, 0], dtype=th.uint8).expand(n, 1, 5)
    counts = selector.select_action(values, avail, 0).flatten().bincount(minlength=5) / n
    assert counts.tolist() == pytest.approx([0.4 / 3, 0.6 + 0.4 / 3, 0.4 / 3, 0, 0], abs=0.01)


def test_agents_explore_independently() -> None:
    th.manual_seed(0)
    selector = REGISTRY["epsilon_greedy"](args(epsilon_start=0.5, epsilon_finish=0.5))
    values = th.tensor([1.0] + [0.0] * 99).expand(10_000, 2, 100)
    other = selector.select_action(values, th.ones(10_000, 2, 100), 0) != 0
    assert (other[:, 0] & other[:, 1]).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_multinomial_follows_the_probabilities() -> None:
    th.manual_seed(0)
    n = 40_000
    selector = REGISTRY["multinomial"](args())
    p = th.tensor([0.1, 0.2, 0.3, 0.4, 0.0]).expand(n, 1, 5)
    avail = th.tensor([1, 1, 0, 1, 1], dtype=th.uint8).expand(n, 1, 5)
    counts = selector.select_action(p, avail, 0).flatten().bincount(minlength=5) / n
    assert counts.tolist() == pytest.approx([1 / 7, 2 / 7, 0, 4 / 7, 0], abs=0.01)
    assert selector.select_action(p, avail, 0, test_mode=True).eq(3).all()
    soft = REGISTRY["soft_policies"](args()).select_action(p, avail, 0, test_mode=True)
    assert len(soft.unique()) == 3


@pytest.mark.parametrize("name", ["multinomial", "soft_policies"])
def test_unlikely_numbers_draw_no_unavailable_action(name: str) -> None:
    """A draw of exactly 0, one in some 2^23, and open actions whose probabilities are 0 in float32."""
    selector = REGISTRY[name](args())
    avail = np.array([[[0, 1, 1]]], np.uint8)
    with mock.patch.object(type(selector), "random") as random:
        for p in ([0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]):
            for draws in ([0, 1, 2], [0, 0, 1], [1, 0, 1], [0, 0, 0]):
                random.standard_exponential.return_value = np.array([[draws]], np.float32)
                with np.errstate(all="raise"):
                    assert selector.choose(np.array([[p]], np.float32), avail, 0).item() in (1, 2)
    p = np.array([[[1.0, 0.0, 0.0]]], np.float32)
    assert REGISTRY["multinomial"](args()).choose(p, avail, 0, test_mode=True).item() == 1


def test_schedule() -> None:
    schedule = DecayThenFlatSchedule(1.0, 0.05, 1000)
    assert [schedule.eval(t) for t in (0, 500, 1000, 5000)] == pytest.approx([1.0, 0.525, 0.05, 0.05])
    assert DecayThenFlatSchedule(1.0, 0.1, 0).eval(0) == 0.1


def test_one_hot() -> None:
    one_hot = OneHot(4)
    for dtype in (th.int64, th.uint8):
        rows = one_hot.transform(th.tensor([[[2], [0]]], dtype=dtype))
        assert rows.tolist() == [[[0, 0, 1, 0], [1, 0, 0, 0]]] and rows.dtype == th.float32
    assert one_hot.infer_output_info((1,), th.int64) == ((4,), th.float32)
