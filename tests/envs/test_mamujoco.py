"""Multi-Agent MuJoCo: factorisations, discretised torques, padded observations, falls and time limits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import envs
from envs.mamujoco import (
    FACTORISATIONS,
    LIMIT,
    LIMITS,
    MANY_SEGMENTS,
    MAX_ACTIONS,
    PAPER_TASKS,
    MamujocoArgs,
    MamujocoEnv,
    actors,
    torques,
)

needs_mujoco = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("mujoco", "gymnasium_robotics")),
    reason="needs gymnasium-robotics and mujoco: pip install -e '.[mujoco]'",
)


# --- torques, without the simulator ---
@pytest.mark.parametrize(("bins", "d"), [(bins, d) for bins in (3, 5, 7) for d in (1, 2, 3)])
def test_actions_and_torques_are_a_bijection(bins: int, d: int) -> None:
    limits = np.array([1.0, 0.4, 2.0])[:d]
    table = torques(limits, bins)
    assert table.shape == (bins**d, d) and len(np.unique(table, axis=0)) == bins**d
    for action, row in enumerate(table):
        digits = np.round((row / limits + 1) / 2 * (bins - 1)).astype(int)  # back from the torques
        assert action == sum(int(digit) * bins ** (d - 1 - j) for j, digit in enumerate(digits))
    for j in range(d):
        levels = np.unique(table[:, j])
        assert levels[0] == -limits[j] and levels[-1] == limits[j], "not the whole range"
        assert levels[bins // 2] == 0.0, "no torque at all is not among them"
        np.testing.assert_allclose(np.diff(levels), 2 * limits[j] / (bins - 1))


@pytest.mark.parametrize(
    ("bins", "joints", "counts"),
    [
        (3, [1, 1], [3, 3]),
        (3, [4], [81]),
        (3, [5], [3] * 5),
        (5, [2, 3], [25, 5, 5, 5]),
        (7, [2], [49]),
        (7, [1, 3], [7, 7, 7, 7]),
    ],
)
def test_virtual_agents_above_81_actions(bins: int, joints: list[int], counts: list[int]) -> None:
    found = actors([np.ones(d) for d in joints], bins)
    assert [len(actor.table) for actor in found] == counts and max(counts) <= MAX_ACTIONS
    driven = [(actor.part, j) for actor in found for j in range(*actor.joints.indices(99))]
    assert driven == [(part, j) for part, d in enumerate(joints) for j in range(d)], "each joint once"


# --- arguments ---
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": "HalfCheeta-6x1"}, "Did you mean HalfCheetah"),
        ({"key": "HalfCheetah"}, "factorisation is missing, as in HalfCheetah-2x3"),
        ({"key": "HalfCheetah-4x2"}, "6 joints.*'4x2'.*2x3, 6x1"),
        ({"key": "Ant-2x4e"}, "8 joints.*4x2, 2x4, 2x4d, 8x1"),
        ({"key": "ManySegmentAnt-3"}, "NxK"),
        ({"key": "ManySegmentSwimmer-1x1"}, "has no joint.*ManySegmentSwimmer-2x1 has"),
        ({"key": "Ant-08x1"}, "8 joints.*'08x1'"),
        ({"key": "Ant-\u0668x1"}, "8 joints"),
        ({"bins": 4}, "3, 5 or 7"),
        ({"obsk": -1}, "greater than or equal to 0"),
        ({"key": "Hopper-mine", "partition": [[0, 1], [1, 2]]}, "each joint of Hopper, 0 to 2, once"),
        ({"key": "Hopper-mine", "partition": [[0, 1, 2], []]}, "each joint of Hopper, 0 to 2, once"),
        ({"key": "Hopper-3x1", "partition": [[0, 1], [2]]}, "Hopper-mine"),
        ({"key": "ManySegmentAnt-2x3", "partition": [[0]]}, "must be null with ManySegmentAnt"),
        ({"agent_conf": "6x1"}, "agent_conf"),
        ({"key": "Reacher-2x1", "time_limit": 51}, "Reacher's episodes are cut off after 50 steps"),
        ({"time_limit": 1001}, "HalfCheetah's episodes are cut off after 1000 steps"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        MamujocoArgs(**arguments)


def test_what_is_missing_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(envs.MissingBackendError, match=r"pip install -e '\.\[mujoco\]'"):
        envs.require({"env": "mamujoco", "env_args": {}, "env_workers": 0, "render": False})


# --- robots ---
SIZES = {"HalfCheetah-6x1": (6, 9, 17), "Hopper-3x1": (3, 9, 11), "Ant-8x1": (8, 32, 105), "Walker2d-6x1": (6, 9, 17)}


@needs_mujoco
@pytest.mark.parametrize("key", PAPER_TASKS)
def test_the_paper_s_tasks_have_an_agent_for_each_joint(key: str) -> None:
    env = MamujocoEnv(key, seed=1)
    n, obs, state = SIZES[key]
    assert env.get_env_info() == {
        "n_agents": n, "n_actions": 3, "obs_shape": obs, "state_shape": state, "episode_limit": 1000,
    }  # fmt: skip
    assert sorted(env.info["joints"]) == [[joint] for joint in range(n)] and not env.info["virtual_agents"]
    applied = sent_torques(env, [2, *[1] * (n - 1)])
    (joint,) = env.info["joints"][0]
    assert applied[joint] == 1.0 and np.count_nonzero(applied) == 1
    env.close()


@needs_mujoco
def test_what_refuses_a_longer_limit_knows_every_robot_s_own() -> None:
    keys = [f"{robot}-{parts[0]}" for robot, parts in FACTORISATIONS.items()] + [
        f"{robot}-2x1" for robot in MANY_SEGMENTS
    ]
    for key in keys:
        assert MamujocoEnv(key).episode_limit == LIMITS.get(key.partition("-")[0], LIMIT)


def sent_torques(env: MamujocoEnv, actions: list[int]) -> np.ndarray:
    """What the robot's motors are told at the first step of an episode."""
    env.reset()
    env.step(actions)
    return env._env.single_agent_env.unwrapped.data.ctrl.copy()


@needs_mujoco
@pytest.mark.parametrize(
    ("key", "bins", "changes"),
    [
        ("HalfCheetah-2x3", 3, {}),
        ("HalfCheetah-2x3", 7, {}),
        ("Ant-2x4", 5, {}),
        ("Humanoid-9|8", 3, {}),
        ("Pusher-3p", 3, {}),
        ("Hopper-mine", 5, {"partition": [[2, 0], [1]]}),
        ("ManySegmentSwimmer-2x2", 3, {}),
    ],
)
def test_every_joint_gets_the_torque_that_its_agent_chose(key: str, bins: int, changes: dict[str, Any]) -> None:
    env = MamujocoEnv(key, bins=bins, seed=1, **changes)
    limit = env._env.single_agent_env.action_space.high
    rng = np.random.default_rng(0)
    for _ in range(3):
        actions = [int(rng.choice(np.flatnonzero(mask))) for mask in env.get_avail_actions()]
        wanted = np.full(len(limit), np.nan)
        for joints, action in zip(env.info["joints"], actions, strict=True):
            for place, joint in enumerate(joints):
                digit = action // bins ** (len(joints) - 1 - place) % bins
                wanted[joint] = (2 * digit / (bins - 1) - 1) * limit[joint]
        np.testing.assert_allclose(sent_torques(env, actions), wanted, atol=1e-7)
    env.close()


@needs_mujoco
def test_flattened_and_own_factorisations_see_the_same() -> None:
    """A flattened agent sees what the package lets a part of one joint see; an own partition, what 2x3 lets it see."""
    own, mine = (
        MamujocoEnv("HalfCheetah-2x3", seed=1),
        MamujocoEnv("HalfCheetah-mine", partition=[[0, 1, 2], [3, 4, 5]], seed=1),
    )
    one, grid = (
        MamujocoEnv("HalfCheetah-6x1", seed=1),
        MamujocoEnv("HalfCheetah-mine", partition=[[j] for j in range(6)], seed=1),
    )
    for first, second in ((own, mine), (one, grid)):
        assert np.array_equal(first.reset()[0], second.reset()[0])
        for _ in range(3):
            actions = [int(np.argmax(m)) for m in first.get_avail_actions()]
            a, b = first.step(actions), second.step(actions)
            assert np.array_equal(a[0], b[0]) and a[1:] == b[1:]


@needs_mujoco
def test_observations_are_padded_and_the_state_is_the_robot_s() -> None:
    env = MamujocoEnv("HalfCheetah-6x1", seed=1)
    obs, _ = env.reset(seed=5)
    raw, _ = env._env.reset(seed=5)
    assert sorted({len(o) for o in raw.values()}) == [8, 9]
    for mine, theirs in zip(obs, raw.values(), strict=True):
        np.testing.assert_array_equal(mine[: len(theirs)], theirs.astype(np.float32))
        assert not mine[len(theirs) :].any()
    np.testing.assert_array_equal(env.get_state(), env._env.state().astype(np.float32))
    o, s, a = np.full((6, 9), 9, np.float32), np.full(17, 9, np.float32), np.full((6, 3), 9, np.uint8)
    env.reset()
    env.fill(o, s, a)
    assert np.array_equal(o, env.get_obs()) and np.array_equal(s, env.get_state()) and (a == 1).all()


@needs_mujoco
def test_virtual_agents_see_what_the_whole_agent_sees() -> None:
    env = MamujocoEnv("HalfCheetah-2x3", bins=5, seed=1)
    obs, _ = env.reset()
    assert env.info["virtual_agents"] and env.n_agents == 6
    assert all(np.array_equal(obs[0], o) for o in obs[:3]) and all(np.array_equal(obs[3], o) for o in obs[3:])
    assert not np.array_equal(obs[0], obs[3])


@needs_mujoco
def test_every_environment_of_a_run_shows_the_joints_in_the_same_order() -> None:
    """Three joints of Pusher have the same label, by which the package sorts them."""
    robots = [MamujocoEnv("Pusher-3p") for _ in range(12)]  # all are kept: the order came from their addresses
    orders = {
        tuple(node.act_ids for seen in robot._env.k_dicts for nodes in seen.values() for node in nodes)
        for robot in robots
    }
    assert orders == {(2, 0, 1, 3, 3, 4, 2, 4, 5, 6, 3)}


@needs_mujoco
def test_smaller_action_sets_are_masked() -> None:
    env = MamujocoEnv("Pusher-3p", seed=1)
    assert [sum(mask) for mask in env.get_avail_actions()] == [27, 3, 27]
    env.reset()
    with pytest.raises(envs.EnvContractError, match="action 3 is not in 0..2"):
        env.step([0, 3, 0])


@needs_mujoco
def test_time_limits_are_truncations_and_falls_terminations() -> None:
    reacher = MamujocoEnv("Reacher-2x1", seed=1)
    assert (reacher.episode_limit, MamujocoEnv("Reacher-2x1", time_limit=49).episode_limit) == (50, 49)
    reacher.reset()
    ends = [reacher.step([1, 1])[2:4] for _ in range(50)]
    assert ends == [(False, False)] * 49 + [(False, True)]
    short = MamujocoEnv("HalfCheetah-6x1", time_limit=4, seed=1)
    for _ in range(2):
        short.reset()
        assert [short.step([1] * 6)[2:4] for _ in range(4)] == [(False, False)] * 3 + [(False, True)]
    hopper = MamujocoEnv("Hopper-3x1")
    hopper.reset(seed=7)
    fall = 1
    while hopper.step([2, 2, 2])[2:4] == (False, False):
        fall += 1
    assert 2 < fall < 200, "the hopper did not fall"
    for limit, end in ((fall, (True, False)), (fall - 1, (False, True))):
        env = MamujocoEnv("Hopper-3x1", time_limit=limit)
        env.reset(seed=7)
        ends = [env.step([2, 2, 2])[2:4] for _ in range(limit)]
        assert ends == [(False, False)] * (limit - 1) + [end], "a fall at the limit is a fall"


@needs_mujoco
def test_rewards_are_the_team_s() -> None:
    team, each, mean = (
        MamujocoEnv("HalfCheetah-6x1", seed=1, **changes)
        for changes in ({}, {"common_reward": False}, {"reward_scalarisation": "mean"})
    )
    for env in (team, each, mean):
        env.reset()
    reward, rewards, same = (env.step([2, 0, 1, 2, 0, 1])[1] for env in (team, each, mean))
    assert rewards == [reward] * 6 and same == reward != 0.0


@needs_mujoco
def test_nothing_is_printed_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    env = MamujocoEnv("HalfCheetah-6x1", seed=1)
    env.reset()
    env.close()
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")
