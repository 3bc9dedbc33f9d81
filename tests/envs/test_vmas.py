"""VMAS: random streams of its environments, ends, time limits, rewards, actions."""

from __future__ import annotations

import importlib.util
import random
import sys
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import envs
from envs.vmas import VmasArgs, VmasEnv, VmasVectorEnv, require, scenarios

MISSING = any(importlib.util.find_spec(package) is None for package in ("vmas", "gym"))
needs_vmas = pytest.mark.skipif(MISSING, reason="needs vmas and gym: pip install -e '.[vmas]'")
ON = np.ones(4, bool)


def vector(key: str = "balance", seeds: tuple[int, ...] = (1, 2, 3, 4), **changes: Any) -> VmasVectorEnv:
    rewards = {name: changes.pop(name) for name in ("common_reward", "mean") if name in changes}
    return VmasVectorEnv(VmasArgs(key=key, **changes), seeds, **rewards)


@needs_vmas
def test_two_in_one_process_do_not_share_a_random_stream() -> None:
    alone, first, second = vector(), vector(), vector(seeds=(5, 6, 7, 8))
    alone.reset()
    first.reset()
    starts = [alone.state.copy()]
    assert np.array_equal(first.state, starts[0])
    alone.reset()
    for _ in range(3):
        second.reset()  # in between: must not change what `first` draws next
        random.random()
        np.random.random()
    first.reset()
    assert np.array_equal(first.state, alone.state) and not np.array_equal(first.state, starts[0])


@needs_vmas
def test_the_program_s_own_random_numbers_are_left_alone() -> None:
    import torch

    def draws(within: Any) -> list[float]:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        within()
        return [float(torch.rand(1)), float(np.random.random()), random.random()]

    def play() -> None:
        env = vector("dropout")
        env.reset()
        env.step(np.ones((4, env.n_agents), np.int64), ON)

    assert draws(play) == draws(lambda: None)


@needs_vmas
def test_the_learners_gpu_is_not_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    env = vector("dropout")
    env.reset()
    env.step(np.ones((4, env.n_agents), np.int64), ON)
    assert seeded == []


def ends(limit: int) -> list[tuple[int, bool, bool]]:
    """Step, terminated and truncated at the end of an episode of pushing the beam, for each of four environments."""
    env = vector("balance", time_limit=limit)
    env.reset()
    active, found = ON.copy(), {}
    for t in range(1, limit + 1):
        for i, info in env.step(np.full((4, 3), 4), active):
            active[i], found[i] = False, (t, bool(env.terminated[i]), bool(env.truncated[i]))
            assert info == {}
    assert not active.any(), "an episode went on beyond its limit"
    return [found[i] for i in range(4)]


@needs_vmas
def test_limits_are_truncations_and_falls_terminations() -> None:
    falls = [end[0] for end in ends(100) if end[1:] == (True, False)]
    assert falls, "no package fell"
    fall = min(falls)
    for limit in (fall, fall - 1):
        for t, terminated, truncated in ends(limit):
            assert t == limit and terminated != truncated
            assert truncated or limit == fall
    assert (fall, True, False) in ends(fall), "a fall at the limit is a fall"


@needs_vmas
def test_rewards_are_summed_averaged_or_each_agent_s_own() -> None:
    team, mean, each = vector("dispersion"), vector("dispersion", mean=True), vector("dispersion", common_reward=False)
    paid = np.zeros((4, 4), np.float32)
    rng = np.random.default_rng(0)
    for env in (team, mean, each):
        env.reset()
    for _ in range(40):
        actions = rng.integers(0, 9, (4, 4))
        for env in (team, mean, each):
            env.step(actions, ON)
        paid = each.reward
        np.testing.assert_allclose(team.reward, paid.sum(1), rtol=1e-5)
        np.testing.assert_allclose(mean.reward, paid.mean(1), rtol=1e-5)
    assert each.reward.shape == (4, 4)


@needs_vmas
def test_smaller_action_sets_and_shorter_observations_are_padded() -> None:
    env = VmasEnv("mpe/simple_speaker_listener", seed=1)
    env.reset()
    assert [sum(mask) for mask in env.get_avail_actions()] == [27, 9]
    speaker = env.get_obs()[0]
    assert np.count_nonzero(speaker[3:]) == 0 and np.count_nonzero(speaker) > 0
    with pytest.raises(envs.EnvContractError, match=r"\[27, 9\]"):
        env.step([0, 9])


@needs_vmas
def test_action_0_is_no_force() -> None:
    env = vector("transport")
    env.reset()
    before = env.obs[:, :, :2].copy()  # positions
    env.step(np.zeros((4, 4), np.int64), ON)
    assert np.array_equal(env.obs[:, :, :2], before)
    env.step(np.full((4, 4), 8), ON)
    assert (env.obs[:, :, :2] > before).all(), "the last action is full force ahead in both directions"


@needs_vmas
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": "ballance"}, "Did you mean balance"),
        ({"make": {"n_agent": 4}}, "env_args.make=.*n_agent"),
        ({"make": {"n_agents": 1}}, "env_args.make=.*AssertionError"),
        ({"make": {"seed": 4}}, "seed cannot be set here"),
        ({"time_limit": 0}, "time_limit"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VmasEnv(**arguments)


@needs_vmas
def test_what_only_a_step_tells_is_said_before_a_run() -> None:
    require(key="balance", make={"n_agents": 4})
    with pytest.raises(ValueError, match="env_args.make={'package_mass': 'heavy'}: balance cannot be played with it"):
        require(key="balance", make={"package_mass": "heavy"})


@needs_vmas
def test_own_arguments_reach_the_scenario() -> None:
    assert VmasEnv("balance", make={"n_agents": 4}).n_agents == 4
    assert {"balance", "mpe/simple_spread", "transport"} <= set(scenarios())


def test_what_is_missing_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vmas", None)
    monkeypatch.setattr("envs.vmas.scenarios", list)
    config = {"env": "vmas", "env_args": {"key": "balance"}, "env_workers": 0, "render": False}
    with pytest.raises(envs.MissingBackendError, match=r"pip install -e '\.\[vmas\]'"):
        envs.require(config)


@needs_vmas
def test_workers_are_refused() -> None:
    config = {"env": "vmas", "env_args": {"key": "balance"}, "env_workers": 2, "render": False}
    with pytest.raises(ValueError, match="env_workers=2: vmas steps all environments in one call"):
        envs.require(config)


def test_a_wrong_scenario_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.vmas.scenarios", lambda: ["balance"])
    with pytest.raises(ValidationError, match="Did you mean balance"):
        VmasArgs(key="balanze")
