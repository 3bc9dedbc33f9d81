"""Environments stepped one after another as one, and what is said where one breaks the contract."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from toy_envs import ACTIONS, ON, ToyEnv, Unclosable, toys

from envs import EnvContractError
from envs.vector import SerialVectorEnv, episode_seed
from envs.workers import WorkerVectorEnv


def test_ended_episodes_and_their_info() -> None:
    vector = SerialVectorEnv([partial(ToyEnv, length=2 + i) for i in range(3)])
    vector.reset()
    active = np.ones(3, bool)
    assert vector.step(ACTIONS[:3], active) == []
    assert vector.step(ACTIONS[:3], active) == [(0, {"score": 2.0})]  # numbers only
    assert vector.terminated.tolist() == [True, False, False] and not vector.truncated.any()
    active[0] = False
    assert vector.step(ACTIONS[:3], active) == [(1, {"score": 3.0})]
    assert vector.obs[:, 0, 0].tolist() == [2.0, 3.0, 3.0]  # the last observation of the ended one stays
    vector.reset()
    assert not vector.terminated.any() and not vector.obs.any() and not vector.reward.any()
    toys_within = vector.envs
    vector.close()
    vector.close()
    assert [toy.closed for toy in toys_within] == [1, 1, 1]


def test_time_limit_is_truncation_and_a_real_end_wins() -> None:
    vector = SerialVectorEnv([partial(ToyEnv, length=9, limit=3), partial(ToyEnv, length=3, limit=3)])
    vector.reset()
    for _ in range(3):
        vector.step(ACTIONS[:2], ON[:2])
    assert vector.terminated.tolist() == [False, True] and vector.truncated.tolist() == [True, False]


@pytest.mark.parametrize(
    ("fault", "words"),
    [("nan", "step 3.*not a number"), ("mask", r"agent\(s\) \[1\]"), ("shape", r"\(5,\), expected 2 of \(4,\)")],
)
def test_broken_contract(fault: str, words: str) -> None:
    vector = SerialVectorEnv(toys(fault))
    with pytest.raises(EnvContractError, match=f"environment 2 .ToyEnv.*{words}"):
        vector.reset()
        for _ in range(3):
            vector.step(ACTIONS, ON)


@pytest.mark.parametrize(
    ("method", "made", "words"),
    [
        ("reset", 3 * [np.zeros(4)], r"reset\(\) gave 3 values, not the observations and an info dict"),
        ("reset", None, r"reset\(\) gave 1 value, not"),
        (
            "reset",
            ([np.zeros(4), np.zeros(3)], {}),
            r"gave 2 observations of shape \(4,\), \(3,\), expected 2 of \(4,\); ",
        ),
        ("reset", ([np.zeros(4)], {}), r"gave 1 observations of shape \(4,\), expected 2 of \(4,\)"),
        ("reset", (None, {}), r"gave 0 observations of shape \(\)"),
        (
            "step",
            (1.0, False, {}),
            r"step 1: step\(\) gave 3 values, not the observations, the reward, terminated, trunc",
        ),
    ],
)
def test_what_upstreams_or_older_environments_return(method: str, made: Any, words: str) -> None:
    env = ToyEnv()
    setattr(env, method, lambda *_, **__: made)
    vector = SerialVectorEnv([lambda: env])
    with pytest.raises(EnvContractError, match=f"environment 0 .ToyEnv., .*{words}"):
        vector.reset()
        vector.step(ACTIONS[:1], ON[:1])


@pytest.mark.parametrize("make", [SerialVectorEnv, partial(WorkerVectorEnv, n_workers=1)])
def test_what_is_no_environment_of_ours(make: Any) -> None:
    with pytest.raises(EnvContractError, match="pathlib.*Path is no envs.multiagentenv.MultiAgentEnv: derive it"):
        make([Path])


def test_what_was_built_before_one_that_fails_is_closed() -> None:
    built = [ToyEnv(), ToyEnv()]
    rest = iter(built)
    with pytest.raises(StopIteration):
        SerialVectorEnv([lambda: next(rest)] * 3)
    assert [env.closed for env in built] == [1, 1]


def test_an_environment_without_a_limit() -> None:
    env = ToyEnv()
    del env.episode_limit
    with pytest.raises(EnvContractError, match="ToyEnv has no episode_limit: its constructor must set it"):
        SerialVectorEnv([lambda: env])
    assert env.closed == 1


def test_a_shape_that_would_be_stretched_to_fit_is_refused() -> None:
    env = ToyEnv()
    vector = SerialVectorEnv([lambda: env])
    vector.reset()
    env.get_obs = lambda: [np.full(1, 2.0, np.float32)] * 2  # type: ignore[method-assign]
    with pytest.raises(EnvContractError, match=r"ToyEnv: observations of shape \(2, 1\).*\(2, 4\)"):
        vector.step(ACTIONS[:1], ON[:1])


@pytest.mark.parametrize(
    ("common_reward", "reward", "wanted"), [(True, [1.0, 1.0], "one number"), (False, 1.0, "a list of 2 numbers")]
)
def test_a_reward_of_the_other_kind(common_reward: bool, reward: Any, wanted: str) -> None:
    env = ToyEnv()
    env.step = lambda actions: (env.get_obs(), reward, False, False, {})  # type: ignore[method-assign]
    vector = SerialVectorEnv([lambda: env], common_reward)
    vector.reset()
    with pytest.raises(EnvContractError, match=f"ToyEnv.*step 1: .*common_reward={common_reward} it must be {wanted}"):
        vector.step(ACTIONS[:1], ON[:1])


@pytest.mark.parametrize(
    ("terminated", "truncated", "info", "wanted"),
    [
        ([False, False], False, {}, r"terminated is \[False, False\]; it must be one bool"),
        (False, {"a": False}, {}, "truncated is {'a': False}; it must be one bool"),
        (None, False, {}, "terminated is None"),
        (np.array([False]), False, {}, "terminated is array"),
        (True, False, None, "the info is None; it must be a dict"),
    ],
)
def test_ends_and_infos_of_another_form(terminated: Any, truncated: Any, info: Any, wanted: str) -> None:
    """A list is true, whatever is in it: every step would be an end."""
    env = ToyEnv()
    env.step = lambda actions: (env.get_obs(), 0.0, terminated, truncated, info)  # type: ignore[method-assign]
    vector = SerialVectorEnv([lambda: env])
    vector.reset()
    with pytest.raises(EnvContractError, match=f"ToyEnv.*step 1: {wanted}"):
        vector.step(ACTIONS[:1], ON[:1])


def test_ends_and_numbers_of_other_libraries() -> None:
    env = ToyEnv()
    flags = iter([np.bool_(False), np.array(False), 0, th.tensor(True)])
    info = {"a": np.array(2.0), "b": th.tensor(3), "c": np.float32(4), "d": np.array("x"), "e": [1], "f": True}
    env.step = lambda actions: (env.get_obs(), 0.0, next(flags), False, info)  # type: ignore[method-assign]
    vector = SerialVectorEnv([lambda: env])
    vector.reset()
    ended = [vector.step(ACTIONS[:1], ON[:1]) for _ in range(4)]
    assert ended == [[], [], [], [(0, {"a": 2.0, "b": 3.0, "c": 4.0, "f": 1.0})]] and vector.terminated[0]


@pytest.mark.parametrize(("n_workers", "closed"), [(0, 4), (1, 5)])  # with workers one more, made for its sizes
def test_an_environment_that_cannot_be_closed_spoils_no_run(
    n_workers: int, closed: int, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    make = [partial(Unclosable, str(tmp_path / "closed"))] * 4
    vector = WorkerVectorEnv(make, n_workers) if n_workers else SerialVectorEnv(make)
    vector.close()
    assert (tmp_path / "closed").read_text() == "x" * closed
    assert any("Unclosable cannot be closed (OSError" in str(warning.message) for warning in recwarn)


def test_seeds_of_episodes_are_all_different() -> None:
    seeds = {episode_seed(seed, episode) for seed in (0, 1, 2, 2**32 - 1) for episode in range(500)}
    assert len(seeds) == 2000 and min(seeds) >= 0 and 2**31 < max(seeds) < 2**32
    halves = np.array(sorted(seeds)) < 2**31
    assert 900 < halves.sum() < 1100


def test_nan_in_individual_rewards(make: Any) -> None:
    vector = make("matrix", common_reward=False)
    vector.envs[0]._tables[0][:] = np.nan
    vector.reset()
    with pytest.raises(EnvContractError, match="environment 0 .two_step., step 1"):
        vector.step(ACTIONS[:1], ON[:1])


def test_error_in_process_names_the_environment() -> None:
    vector = SerialVectorEnv(toys("raise"))
    vector.reset()
    with pytest.raises(KeyError) as error:
        for _ in range(3):
            vector.step(ACTIONS, ON)
    assert "environment 2 (ToyEnv), step 3" in error.value.__notes__[0]
