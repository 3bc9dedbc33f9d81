"""Level-Based Foraging and other gymnasium environments through gymma."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium.envs.registration import WrapperSpec
from pydantic import ValidationError
from toy_envs import RaggedEnv

import envs
from envs.gymma import PAPER_TASKS, GymmaArgs, GymmaEnv, find_spec, plain_key, require
from envs.multiagentenv import EnvContractError


@pytest.fixture(scope="module")
def ragged() -> Iterator[str]:
    name = "ToyRagged-v0"
    gymnasium.register(id=name, entry_point=RaggedEnv, max_episode_steps=4)
    yield name
    del gymnasium.registry[name]


@pytest.mark.parametrize(("key", "players", "foods"), list(zip(PAPER_TASKS, (3, 4, 2, 3), (5, 3, 2, 3), strict=True)))
def test_paper_tasks(key: str, players: int, foods: int) -> None:
    env = GymmaEnv(key, seed=1)
    info = env.get_env_info()
    assert (info["n_agents"], info["n_actions"], info["episode_limit"]) == (players, 6, 50)
    assert info["obs_shape"] == 3 * (players + foods) and info["state_shape"] == players * info["obs_shape"]
    observations, _ = env.reset()
    assert np.array_equal(np.concatenate(observations), env.get_state())
    assert env.backend.startswith("lbforaging 2")


@pytest.mark.parametrize("key", ["Foraging-10x10-3p-5f-v3", "Foraging-2s-8x8-2p-5f-coop-v3"])
def test_five_foods_are_like_the_package_s_ids_but_for_the_number(key: str) -> None:
    env = GymmaEnv(key, seed=1)._env
    four = gymnasium.make(key.replace("-5f", "-4f")).unwrapped
    assert (env.max_num_food, four.max_num_food) == (5, 4)
    assert (env.sight, env.force_coop, env.field_size) == (four.sight, four.force_coop, four.field_size)
    env.reset()
    assert (env.field > 0).sum() == 5


@pytest.mark.parametrize(("level", "highest"), [(None, 2), (1, 1), (3, 3)])
def test_player_levels(level: int | None, highest: int) -> None:
    env = GymmaEnv("Foraging-8x8-3p-1f-v3", max_player_level=level, seed=1)
    seen = set()
    for _ in range(30):
        env.reset()
        seen |= {int(p.level) for p in env._env.players}
    assert seen == set(range(1, highest + 1))


def test_own_limit_is_termination_ours_is_truncation(make: Any) -> None:
    key = "Foraging-8x8-2p-3f-v3"
    noop, on = np.zeros((1, 2), np.int64), np.ones(1, bool)
    for limit, steps, terminated in ((None, 50, True), (50, 50, False), (7, 7, False)):
        vector = make("gymma", key=key, time_limit=limit)
        assert vector.episode_limit == steps
        vector.reset()
        ends = [vector.step(noop, on) for _ in range(steps)]
        assert not any(ends[:-1]) and ends[-1]
        assert (vector.terminated[0], vector.truncated[0]) == (terminated, not terminated)


def test_the_last_food_at_the_time_limit_is_the_task_s_end() -> None:
    env = GymmaEnv("Foraging-5x5-2p-1f-v3", time_limit=50, max_player_level=1, seed=1)
    env.reset()
    assert not any(any(env.step([0, 0])[2:4]) for _ in range(49))
    env._env.unwrapped.field[:] = 0
    assert env.step([0, 0])[2:4] == (True, False)


@pytest.mark.parametrize("limit", [None, 4])
def test_an_end_at_the_registry_s_limit_is_an_end(
    ragged: str, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    monkeypatch.setattr(RaggedEnv, "step", lambda self, actions: (self._obs(), [0.0, 0.0], [True, True], False, {}))
    env = GymmaEnv(ragged, time_limit=limit)
    env.reset()
    env._t = 3
    assert env.step([0, 0])[2:4] == (True, False)


def test_an_episode_is_over_when_each_agent_is_for_one_reason_or_the_other(
    ragged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = iter([([True, False], [False, False]), ([True, False], [False, True])])
    monkeypatch.setattr(RaggedEnv, "step", lambda self, actions: (self._obs(), [0.0, 0.0], *next(flags), {}))
    env = GymmaEnv(ragged)
    env.reset()
    assert [env.step([0, 0])[2:4] for _ in range(2)] == [(False, False), (False, True)]


def test_attributes_named_as_foraging_s_do_not_make_another_environment_one(
    ragged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"players": 2, "field": np.ones((2, 2)), "_max_episode_steps": 4}.items():
        monkeypatch.setattr(RaggedEnv, name, value, raising=False)
    monkeypatch.setattr(RaggedEnv, "step", lambda self, actions: (self._obs(), [0.0, 0.0], True, False, {}))
    env = GymmaEnv(ragged, time_limit=4, seed=1)
    env.reset(seed=1)
    env._t = 3
    assert env.step([0, 0])[2:4] == (True, False)
    with pytest.raises(NotImplementedError, match="has no pictures"):
        env.render()


@pytest.mark.parametrize("limit", [None, 50])
def test_all_food_eaten_is_termination_whatever_the_limit(make: Any, limit: int | None) -> None:
    vector = make("gymma", key="Foraging-8x8-2p-3f-v3", time_limit=limit)
    vector.reset()
    vector.envs[0]._env.unwrapped.field[:] = 0
    assert vector.step(np.zeros((1, 2), np.int64), np.ones(1, bool))
    assert (vector.terminated[0], vector.truncated[0]) == (True, False)


def test_rewards_are_the_sum_or_mean_of_the_agents() -> None:
    def first_reward(**changes: Any) -> Any:
        env = GymmaEnv("Foraging-5x5-2p-1f-v3", max_player_level=1, seed=1, **changes)
        env.reset()
        raw = env._env
        (row, column), food = np.argwhere(raw.field > 0)[0], raw.field.max()
        assert food >= 1
        raw.field[row, column] = 1  # each can load it alone
        raw._food_spawned = 1.0
        raw.players[0].position, raw.players[1].position = (row - 1, column), (row + 1, column)
        raw._gen_valid_moves()
        return env.step([5, 5])[1]

    assert first_reward() == pytest.approx(1.0)
    assert first_reward(reward_scalarisation="mean") == pytest.approx(0.5)
    assert first_reward(common_reward=False) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("paid", [np.array(3.0), np.float32(3), 3, th.tensor(3.0)])
def test_one_reward_may_be_an_array_without_axes(ragged: str, paid: Any) -> None:
    team, agents = GymmaEnv(ragged, seed=1), GymmaEnv(ragged, seed=1, common_reward=False)
    assert team._reward(paid) == 3.0 and agents._reward(paid) == [3.0, 3.0]
    assert team._reward(th.tensor([1.0, 2.0])) == 3.0 and agents._reward(np.array([1, 2])) == [1.0, 2.0]


@pytest.mark.parametrize("common_reward", [True, False])
@pytest.mark.parametrize("paid", [{"a": 1.0}, [1.0], (1.0, 2.0, 3.0), [np.ones(1), np.ones(1)], np.ones((2, 2))])
def test_rewards_of_another_form_are_refused(ragged: str, common_reward: bool, paid: Any) -> None:
    env = GymmaEnv(ragged, seed=1, common_reward=common_reward)
    words = re.escape(f"the reward is {paid!r}; it must be one value, or a list of one an agent")
    with pytest.raises(EnvContractError, match=words):
        env._reward(paid)


def test_a_window_is_asked_for(ragged: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are arrays; a window, as of gymnasium's newer environments, opens in no other mode."""
    env, modes = GymmaEnv(ragged, seed=1), []
    raw = env._env.unwrapped
    monkeypatch.setattr(type(raw), "render", lambda self: modes.append(self.render_mode) or np.zeros((2, 2, 3)))
    env.reset()
    env.render()
    env.show()
    assert modes == ["rgb_array", "human"]


def test_arguments_that_make_other_spaces_are_named() -> None:
    pytest.importorskip("rware")
    words = r"env_args.make={'msg_bits': 1}: rware-tiny-2ag-v2: a Box .* for each agent, not Box, MultiDiscrete"
    with pytest.raises(EnvContractError, match=words):
        GymmaEnv("rware-tiny-2ag-v2", make={"msg_bits": 1})


@pytest.mark.parametrize(
    ("terminated", "truncated"), [({"a": False}, False), ([False, False], {"a": False}), (None, False), (False, "no")]
)
def test_ends_of_another_form_are_refused(
    ragged: str, monkeypatch: pytest.MonkeyPatch, terminated: Any, truncated: Any
) -> None:
    monkeypatch.setattr(RaggedEnv, "step", lambda self, actions: (self._obs(), 0.0, terminated, truncated, {}))
    env = GymmaEnv(ragged, seed=1)
    env.reset()
    with pytest.raises(
        EnvContractError, match=r"(terminated|truncated) is ({'a': False}|None|'no'); it must be one value"
    ):
        env.step([0, 0])


def test_ragged_spaces_are_padded_and_masked(ragged: str) -> None:
    env = GymmaEnv(ragged, seed=1)
    assert env.get_env_info() == {
        "state_shape": 6,
        "obs_shape": 3,
        "n_actions": 4,
        "n_agents": 2,
        "episode_limit": 4,
    }
    env.reset()
    assert np.array_equal(env.get_obs(), [[1, 1, 1], [-1, -1, 0]])
    assert env.get_avail_actions() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    obs, state, avail = np.full((2, 3), 9, np.float32), np.full(6, 9, np.float32), np.full((2, 4), 9, np.uint8)
    env.fill(obs, state, avail)
    assert np.array_equal(obs, env.get_obs()) and np.array_equal(state, env.get_state())
    assert np.array_equal(avail, env.get_avail_actions())
    _, reward, terminated, truncated, _ = env.step([1, 0])
    assert env._env.unwrapped.taken == [[1, 1]], "the second agent's actions start at 1"
    assert (reward, terminated, truncated) == (1.5, False, False)
    assert [env.step([0, 0])[2:4] for _ in range(3)][-1] == (False, True), "the registry's limit is a truncation"


@pytest.mark.parametrize("key", PAPER_TASKS)
def test_masks_close_what_would_do_nothing(key: str) -> None:
    """Every action of every agent is tried in a copy of the game in which the others stand still."""
    env, rng, closed = GymmaEnv(key, action_masks=True, seed=1), np.random.default_rng(1), 0
    steps = {0: (0, 0), 1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}
    for _ in range(6):
        env.reset()
        over = False
        while not over:
            raw = env._env.unwrapped
            masks, cells = np.array(env.get_avail_actions()), [player.position for player in raw.players]
            for i, action in np.ndindex(masks.shape):
                if action == 5:
                    wanted = bool((np.abs(np.argwhere(raw.field) - cells[i]).sum(1) == 1).any())
                else:
                    y, x = np.add(cells[i], steps[action])
                    wanted = 0 <= y < raw.rows and 0 <= x < raw.cols and not raw.field[y, x]
                assert masks[i, action] == wanted
                if not wanted:
                    tried = copy.deepcopy(raw)
                    tried.step([action if j == i else 0 for j in range(env.n_agents)])
                    assert np.array_equal(tried.field, raw.field)
                    assert [player.position for player in tried.players] == cells
                    closed += 1
            avail = np.full_like(masks, 9)
            env.fill(np.empty((env.n_agents, env.get_obs_size())), np.empty(env.get_state_size()), avail)
            assert np.array_equal(avail, masks) and masks[:, 0].all()
            _, _, terminated, truncated, _ = env.step([rng.choice(np.flatnonzero(mask)) for mask in masks])
            over = terminated or truncated
    assert closed > 300 and env.info["action_masks"]


def test_everything_is_open_by_default() -> None:
    env = GymmaEnv("Foraging-5x5-2p-1f-v3", seed=1)
    env.reset()
    assert np.all(env.get_avail_actions()) and "action_masks" not in env.info


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": None}, "env_args.key=Foraging"),
        ({"key": "Foraging-8x8-2p-3f-v2"}, "Foraging-8x8-2p-3f-v3"),
        ({"key": "Foragin-8x8-2p-3f-v3"}, "Foraging-8x8-2p-3f-v3"),
        ({"key": "CartPole-v1", "max_player_level": 3}, "only Foraging"),
        ({"key": "CartPole-v1", "action_masks": True}, "only Foraging"),
        ({"key": "Foraging-8x8-2p-3f-v3", "time_limit": 0}, "time_limit"),
        ({"key": "Foraging-8x8-2p-3f-v3", "time_limit": "50"}, "time_limit"),
        ({"key": "Foraging-8x8-2p-3f-v3", "pretrained_wrapper": None}, "pretrained_wrapper"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        GymmaArgs(**arguments)


def test_more_than_the_limit_of_its_own_is_refused() -> None:
    key = "Foraging-8x8-2p-3f-v3"
    assert GymmaEnv(key, time_limit=50).episode_limit == 50
    with pytest.raises(ValueError, match=f"env_args.time_limit=51: {key} ends by itself after 50 steps"):
        GymmaEnv(key, time_limit=51)


@pytest.mark.parametrize(("time_limit", "limit"), [(None, 4), (3, 3), (6, 6)])
def test_the_registry_s_limit_gives_way(
    ragged: str, monkeypatch: pytest.MonkeyPatch, time_limit: int | None, limit: int
) -> None:
    spec = gymnasium.registry[ragged]
    wrapper = WrapperSpec("Plain", "toy_envs:Plain", {})
    monkeypatch.setitem(gymnasium.registry, "Wrapped-v0", replace(spec, additional_wrappers=(wrapper,)))
    for key in (ragged, "Wrapped-v0"):
        env = GymmaEnv(key, time_limit=time_limit, seed=1)
        env.reset()
        ends = [env.step([0, 0])[2:4] for _ in range(limit)]
        assert not any(map(any, ends[:-1])) and ends[-1] == (False, True) and env.episode_limit == limit


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ({"field_size": []}, "tuple index out of range"),
        ({"min_player_level": [1]}, "min_player_level must be a scalar or a list"),
    ],
)
def test_what_the_package_cannot_make_is_said(make: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"env_args.make=.*Foraging.* cannot be made with .*: {words}"):
        GymmaEnv("Foraging-8x8-2p-3f-v3", make=make)


def test_single_agent_environments_are_refused() -> None:
    with pytest.raises(RuntimeError, match="tuples"):
        GymmaEnv("CartPole-v1")


def test_a_module_before_the_id() -> None:
    """module:id is how upstream's users name a task."""
    key = "lbforaging:Foraging-8x8-2p-3f-v3"
    assert GymmaArgs(key=key, max_player_level=3).key == key
    env = GymmaEnv(key, max_player_level=3, seed=1)
    assert env.n_agents == 2 and env.name == "Foraging-8x8-2p-3f-v3"
    assert (
        plain_key(key) == plain_key(env.name) == env.name
        and plain_key("rware:rware-tiny-2ag-v2") == "rware-tiny-2ag-v2"
    )
    for other in ("my_foraging:Foraging-8x8-2p-3f-v3", "lbforaging:Other-v0"):
        assert plain_key(other) == other, "another module may register another task"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("no_such_module", "no such module"),
        ("os.no_such_module", "no such module"),
        (".relative", "TypeError"),
        ("toy_broken", "ModuleNotFoundError: No module named 'nothere'"),
    ],
)
def test_a_module_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, words: str
) -> None:
    (tmp_path / "toy_broken.py").write_text("import nothere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValidationError, match=rf"{module}:Foraging\S+: {module} cannot be imported \(.*{words}"):
        GymmaArgs(key=f"{module}:Foraging-8x8-2p-3f-v3")


# --- RWARE ---
needs_rware = pytest.mark.skipif(importlib.util.find_spec("rware") is None, reason="needs rware: pip install rware")
needs_mpe = pytest.mark.skipif(importlib.util.find_spec("mpe2") is None, reason="needs mpe2: pip install mpe2")


@needs_rware
@pytest.mark.parametrize(
    ("key", "limit", "steps"),
    [("rware-tiny-2ag-v2", None, 500), ("rware:rware-small-4ag-easy-v2", 7, 7), ("rware-tiny-2ag-v2", 501, 501)],
)
def test_rware_s_limit_is_a_truncation(key: str, limit: int | None, steps: int) -> None:
    env = GymmaEnv(key, time_limit=limit, seed=1)
    assert env.episode_limit == steps and env.backend.startswith("rware 2") and env.get_total_actions() == 5
    env.reset()
    ends = [env.step([0] * env.n_agents)[2:4] for _ in range(steps)]
    assert ends == [(False, False)] * (steps - 1) + [(False, True)]


@needs_rware
def test_rware_pays_the_robot_that_delivers() -> None:
    def first_reward(**changes: Any) -> Any:
        env = GymmaEnv("rware-tiny-2ag-v2", seed=1, **changes)
        env.reset()
        raw = env._env.unwrapped
        robot, shelf = raw.agents[0], raw.request_queue[0]
        x, y = raw.goals[0]
        others = [(column, row) for column, row in ((0, 0), (1, 0)) if (column, row) != (x, y)]
        robot.x, robot.y, (raw.agents[1].x, raw.agents[1].y) = x, y, others[0]
        shelf.x, shelf.y, robot.carrying_shelf = x, y, shelf
        raw._recalc_grid()
        return env.step([0, 0])[1]

    assert first_reward() == 1.0
    assert first_reward(reward_scalarisation="mean") == 0.5
    assert first_reward(common_reward=False) == [1.0, 0.0]


# --- MPE ---
@needs_mpe
@pytest.mark.parametrize(
    ("key", "make", "sizes", "actions"),
    [
        ("pz-mpe-simple-spread-v3", {}, (3, 18), [5, 5, 5]),
        ("pz-mpe-simple-spread-v3", {"N": 4}, (4, 24), [5, 5, 5, 5]),
        ("pz-mpe-simple-speaker-listener-v4", {}, (2, 11), [3, 5]),
    ],
)
def test_mpe(key: str, make: dict[str, Any], sizes: tuple[int, int], actions: list[int]) -> None:
    env = GymmaEnv(key, make=make, seed=1)
    assert (env.n_agents, env.get_obs_size()) == sizes and env.backend.startswith("mpe2 1")
    assert env.episode_limit == 25 and GymmaEnv(key, time_limit=40).episode_limit == 40
    assert [sum(mask) for mask in env.get_avail_actions()] == actions
    observations, _ = env.reset(seed=4)
    module = importlib.import_module("mpe2." + key.removeprefix("pz-mpe-").replace("-", "_"))
    theirs = module.parallel_env(**make)
    raw, _ = theirs.reset(seed=4)
    for step in range(25):
        for mine, o in zip(observations, raw.values(), strict=True):
            assert np.array_equal(mine[: len(o)], o) and not mine[len(o) :].any()
        chosen = [(step + i) % n for i, n in enumerate(actions)]
        raw, rewards, _, cut, _ = theirs.step(dict(zip(theirs.agents, chosen, strict=True)))
        observations, reward, terminated, truncated, _ = env.step(chosen)
        assert reward == pytest.approx(sum(rewards.values())) and not terminated
        assert truncated == all(cut.values()) == (step == 24)


@needs_mpe
def test_opposing_teams_that_share_a_reward_are_warned_of() -> None:
    tag = "pz-mpe-simple-tag-v3"
    banner = GymmaEnv(tag).banner
    assert f"{tag} has opposing teams" in banner and "adversary_0, adversary_1, adversary_2 and the others" in banner
    assert not GymmaEnv(tag, common_reward=False).banner and not GymmaEnv("pz-mpe-simple-spread-v3").banner


class LeavingAgents:
    """PettingZoo's parallel form: agent b leaves after two steps, a ends after four, as `how` says."""

    possible_agents = ["a", "b"]

    def __init__(self, how: str = "terminated") -> None:
        self.how, self.unwrapped = how, self
        self.seen: list[dict[str, int]] = []

    def observation_space(self, agent: str) -> gymnasium.Space:
        return gymnasium.spaces.Box(-9, 9, (2,))

    def action_space(self, agent: str) -> gymnasium.Space:
        return gymnasium.spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        self.agents, self.t = ["a", "b"], 0
        return {name: np.ones(2, np.float32) for name in self.agents}, {}

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        assert list(actions) == self.agents
        self.t += 1
        there = list(self.agents)
        leaving = {"a": self.t == 4, "b": self.t == 2}
        self.agents = [name for name in there if not leaving[name]]
        cut = {name: leaving[name] and self.how == "truncated" for name in there}
        end = {name: leaving[name] and not cut[name] for name in there}
        return {n: np.full(2, 1.0 + self.t, np.float32) for n in there}, dict.fromkeys(there, 1.0), end, cut, {}


@pytest.mark.parametrize("how", ["terminated", "truncated"])
def test_agents_that_leave_early(how: str) -> None:
    from envs.pettingzoo_adapter import ParallelAsTuple

    env = ParallelAsTuple(LeavingAgents, how=how)
    env.reset(seed=1)
    steps = [env.step([0, 1]) for _ in range(4)]
    assert [reward for _, reward, *_ in steps] == [(1.0, 1.0), (1.0, 1.0), (1.0, 0.0), (1.0, 0.0)]
    assert [o[1].tolist() for o, *_ in steps] == [[2, 2], [3, 3], [0, 0], [0, 0]]
    assert [step[2:4] for step in steps] == [(False, False)] * 3 + [(how == "terminated", how == "truncated")]


def test_arguments_with_which_no_episode_begins_are_refused_before_anything_is_written() -> None:
    config = {"env": "gymma", "env_workers": 0, "render": False}
    args = {"key": "Foraging-8x8-2p-3f-v3", "make": {"players": 99}}
    with pytest.raises(
        ValueError, match=r"env_args.make={'players': 99}: Foraging-8x8-2p-3f-v3 cannot be played with it"
    ):
        envs.require({**config, "env_args": args})
    envs.require({**config, "env_args": {**args, "make": {"players": 3}}})


@needs_mpe
@needs_rware
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": "pz-mpe-simple-spred-v3"}, "pz-mpe-simple-spread-v3"),
        ({"key": "rware-tiny-2ag-v1"}, "rware-tiny-2ag-v2"),
        ({"key": "rware-tiny-1ag-hard-v2"}, "requests nothing, so that no reward can come: take 2 robots or more"),
        ({"key": "vmas-balance"}, "--env-config=vmas"),
        ({"key": "matrixgames:penalty-100-nostate-v0"}, "--env-config=matrix"),
        ({"key": "pz-mpe-simple-spread-v3", "make": {"max_cycles": 9}}, "max_cycles.*time_limit"),
        ({"key": "rware-tiny-2ag-v2", "make": {"max_steps": 9}}, "max_steps.*time_limit"),
        ({"key": "pz-mpe-simple-spread-v3", "make": {"M": 9}}, "env_args.make=.*'M'"),
        (
            {"key": "Foraging-8x8-2p-3f-v3", "make": {"max_player_level": 3}},
            "a key of its own, env_args.max_player_level",
        ),
        (
            {"key": "rware-tiny-2ag-v2", "make": {"n_agents": 0}},
            "env_args.make={'n_agents': 0}: rware-tiny-2ag-v2 has no agents",
        ),
        ({"key": "Foraging-8x8-2p-3f-v3", "make": {"players": 0}}, "env_args.make=.*'players': 0"),
        ({"key": ""}, "'' is no known environment."),
        ({"key": "pz-mpe-foo-v3"}, "Did you mean pz-mpe-(?!NAME)"),
        ({"key": "Foraging-8x8-2p-3f-v33"}, "environment. Did you mean Foraging-8x8-2p-3f-v3"),
    ],
)
def test_wrong_keys_and_arguments_of_the_others(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GymmaEnv(**arguments)


@pytest.mark.parametrize(("package", "key"), [("rware", "rware-tiny-2ag-v2"), ("mpe2", "pz-mpe-simple-spread-v3")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str, key: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValidationError, match=f"pip install {package}"):
        GymmaArgs(key=key)


@needs_mpe
@pytest.mark.parametrize("key", ["pz-mpe-simple-spread", "pz-mpe-all-modules", "pz-mpe--mpe-utils"])
def test_mpe_without_a_version(key: str) -> None:
    with pytest.raises(ValueError, match="is no known environment"):
        find_spec(key)
    with pytest.raises(ValueError, match="Did you mean pz-mpe-simple-tag-v3"):
        find_spec("pz-mpe-simple-tag-v2")


@needs_rware
def test_arguments_that_are_members_of_an_enum_are_named() -> None:
    """RWARE compares with its members: a word or a number would be none of them, and no delivery be paid."""
    from rware.warehouse import RewardType

    for given in ("GLOBAL", "global", 0):
        assert (
            GymmaEnv("rware-tiny-2ag-v2", make={"reward_type": given})._env.unwrapped.reward_type is RewardType.GLOBAL
        )
    with pytest.raises(ValueError, match="reward_type must be one of GLOBAL, INDIVIDUAL, TWO_STAGE, not 'mine'"):
        GymmaEnv("rware-tiny-2ag-v2", make={"reward_type": "mine"})


def test_what_only_a_step_tells_is_said_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    key, given = "Foraging-5x5-2p-1f-v3", {"penalty": 0.5}
    require(key=key, make=given)
    monkeypatch.setattr("lbforaging.foraging.ForagingEnv.step", lambda self, actions: 1 / 0)
    with pytest.raises(ValueError, match="env_args.make={'penalty': 0.5}: Foraging-.* cannot be played .*Zero"):
        require(key=key, make=given)
