from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from support.dummy_env import DummyVectorEnv, make_dummy
from support.settings import RecordingLogger, config, scheme_of

import envs
from components.episode_buffer import complete_scheme
from controllers.basic_controller import BasicMAC
from runners import REGISTRY
from runners.episode_runner import EpisodeStats

LIMIT = 6


@pytest.fixture(autouse=True)
def dummy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs, "make_vector_env", make_dummy)


def build(n_envs: int, mac: Any = None, **changes: Any) -> tuple[Any, RecordingLogger, DummyVectorEnv]:
    kind = "episode" if n_envs == 1 else "parallel"
    a = SimpleNamespace(**config(runner=kind, batch_size_run=n_envs, **changes), device="cpu")
    logger = RecordingLogger()
    runner = REGISTRY[kind](args=a, logger=logger)
    vars(a).update(runner.get_env_info())
    scheme, groups, preprocess = scheme_of(a)
    th.manual_seed(0)
    runner.setup(scheme, groups, preprocess, mac or BasicMAC(complete_scheme(scheme, preprocess), groups, a))
    return runner, logger, runner.env


@pytest.mark.parametrize("n_envs", [1, 4])
def test_the_batch_holds_what_the_environments_showed(n_envs: int) -> None:
    runner, _, env = build(n_envs, obs_last_action=True)
    for j in range(7):
        batch = runner.run()
        assert (batch.batch_size, batch.max_seq_length) == (n_envs, LIMIT + 1)
        for i in range(n_envs):
            n = env.length(i, j)
            assert batch["filled"][i, :, 0].tolist() == [1] * (n + 1) + [0] * (LIMIT - n)
            for t in range(n + 1):
                obs = env.observation(i, j, t)
                np.testing.assert_array_equal(batch["obs"][i, t], obs)
                np.testing.assert_array_equal(batch["state"][i, t], obs.ravel()[:8])
                assert batch["avail_actions"][i, t, :, (i + t + 1) % 5].eq(0).all()
                assert batch["avail_actions"][i, t].sum() == 3 * 4
            for t in range(n):
                hits = batch["actions"][i, t].eq((i + t) % 5).sum()
                assert batch["reward"][i, t, 0] == hits
            terminated = batch["terminated"][i, :, 0].tolist()
            assert terminated == [int(t == n - 1 and env.ends(i, j)) for t in range(LIMIT + 1)]
            for key in batch.scheme:
                if key != "actions_onehot":
                    assert not batch[key][i, n + 1 :].any(), "padding is not empty"
            assert not batch["actions"][i, n].any() and not batch["reward"][i, n].any()
    assert runner.t_env == env.stepped == sum(env.length(i, j) for i in range(n_envs) for j in range(7))


def test_scaled_inputs_have_a_mean_size_of_one_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each agent's observation, and the state, by its own mean size; the environment's arrays stay as they are."""
    plain = DummyVectorEnv.observation

    def observation(self: Any, i: int, j: int, t: int) -> np.ndarray:
        return plain(self, i, j, t) * np.float32([0, 0.5, 9])[:, None] * (1 + 3 * (t % 2))

    monkeypatch.setattr(DummyVectorEnv, "observation", observation)
    runner, _, env = build(4, scale_inputs=True)
    sizes = []
    for j in range(7):
        batch = runner.run()
        for i in range(4):
            for t in range(env.length(i, j) + 1):
                obs = env.observation(i, j, t)
                for row, seen in [*zip(obs, batch["obs"][i, t], strict=True), (obs.ravel()[:8], batch["state"][i, t])]:
                    sizes.append(sum(abs(float(x)) for x in row) / len(row))
                    np.testing.assert_allclose(seen, row / max(sizes[-1], 1), rtol=1e-6)
                    assert sizes[-1] > 1 or np.array_equal(seen, row)
        np.testing.assert_array_equal(env.obs[0], env.observation(0, j, env.length(0, j)))
    assert min(sizes) == 0 and max(sizes) > 5 and 10 < sum(size > 1 for size in sizes) < len(sizes) - 10


def test_only_running_environments_are_asked_for_actions() -> None:
    class Mac:
        action_selector = None

        def __init__(self) -> None:
            self.asked: list[Any] = []

        def init_hidden(self, batch_size: int) -> None:
            assert batch_size == 4

        def select_actions(
            self, batch: Any, t_ep: int, t_env: int, bs: th.Tensor | None = None, test_mode: bool = False
        ) -> th.Tensor:
            """bs is left out where all are meant, as controllers that know no bs want it."""
            ids = list(range(4)) if bs is None else bs.tolist()
            assert bs is None or bs.dtype == th.int64
            assert batch["filled"][ids, t_ep].all()
            self.asked.append(ids)
            blocked = [(i + t_ep + 1) % 5 for i in ids]
            return th.tensor([[(b + 1) % 5] * 3 for b in blocked])

    mac = Mac()
    runner, _, env = build(4, mac)
    runner.run()
    lengths = [env.length(i, 0) for i in range(4)]
    assert mac.asked == [[i for i in range(4) if lengths[i] > t] for t in range(max(lengths))]


class BreaksDown(DummyVectorEnv):
    """The simulator of the given (environment, episode) breaks down at its last step."""

    def __init__(self, *args: Any, broken: Any = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.broken = set(broken)
        self.resets = 0

    def reset(self) -> None:
        super().reset()
        self.resets += 1

    def step(self, actions: np.ndarray, active: np.ndarray) -> list[tuple[int, dict[str, Any]]]:
        ended = dict(super().step(actions, active))
        for i in list(ended):
            if (i, self.number) in self.broken:
                self.terminated[i], self.truncated[i] = False, True
                ended[i] = {envs.EPISODE_LOST: True}
        return list(ended.items())


@pytest.mark.parametrize(
    ("n_envs", "broken", "test_mode"),
    [
        (4, {(1, 1)}, False),
        (4, {(1, 1), (2, 1), (2, 2)}, False),
        (4, {(3, 1), (0, 1)}, True),
        (1, {(0, 1), (0, 2)}, False),
    ],
)
def test_an_episode_whose_simulator_broke_down_is_played_anew(
    n_envs: int, broken: set[tuple[int, int]], test_mode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envs, "make_vector_env", lambda args: BreaksDown(n_envs, broken=broken))
    runner, logger, env = build(n_envs, test_nepisode=n_envs, runner_log_interval=1)
    runner.run()
    before, counted = runner.t_env, len(logger.stats["return_mean"])
    batch = runner.run(test_mode=test_mode)
    assert env.resets == 2 + max(j for _, j in broken)
    played = [next(j for j in range(1, 9) if (i, j) not in broken) for i in range(n_envs)]
    played = [j if any(b == i for b, _ in broken) else 1 for i, j in enumerate(played)]
    lengths = [env.length(i, j) for i, j in enumerate(played)]
    for i, (j, n) in enumerate(zip(played, lengths, strict=True)):
        assert batch["filled"][i, :, 0].tolist() == [1] * (n + 1) + [0] * (LIMIT - n)
        for t in range(n + 1):
            np.testing.assert_array_equal(batch["obs"][i, t], env.observation(i, j, t))
        assert not batch["obs"][i, n + 1 :].any() and not batch["reward"][i, n:].any()
        assert batch["terminated"][i].sum() == env.ends(i, j)
    assert runner.t_env - before == (0 if test_mode else sum(lengths)), "steps of lost episodes were counted"
    prefix = "test_" if test_mode else ""
    assert test_mode or len(logger.stats["return_mean"]) == counted + 1
    scores = [10 * i + j for i, j in enumerate(played)]
    assert logger.stats[f"{prefix}score_mean"][-1][1] == pytest.approx(np.mean(scores))
    assert logger.stats[f"{prefix}ep_length_mean"][-1][1] == pytest.approx(np.mean(lengths))
    returns = batch["reward"].sum((1, 2)).double().numpy()
    assert logger.stats[f"{prefix}return_mean"][-1][1] == pytest.approx(returns.mean())
    assert f"{prefix}{envs.EPISODE_LOST}_mean" not in logger.stats


def test_train_statistics() -> None:
    runner, logger, env = build(4, runner_log_interval=30)
    batch = runner.run()
    returns = batch["reward"].sum((1, 2)).double().numpy()
    lengths = [env.length(i, 0) for i in range(4)]
    first = {key: values[0] for key, values in logger.stats.items()}
    t = sum(lengths)
    assert first == {  # the first rollout is logged at once
        "return_mean": (t, pytest.approx(returns.mean())),
        "return_std": (t, pytest.approx(returns.std())),
        "ep_length_mean": (t, np.mean(lengths)),
        "battle_won_mean": (t, 0.5),
        "score_mean": (t, 15.0),
        "epsilon": (t, 1.0),
    }
    collected, logged_at = [], [t]
    while len(logged_at) < 3:
        batch = runner.run()
        collected += batch["reward"].sum((1, 2)).tolist()
        if len(logger.stats["return_mean"]) > len(logged_at):
            logged_at.append(runner.t_env)
            assert logger.stats["return_mean"][-1] == (runner.t_env, pytest.approx(np.mean(collected)))
            collected = []
    assert np.diff(logged_at).min() >= 30
    assert logger.stats["epsilon"][-1][1] < 1


@pytest.mark.parametrize(("n_envs", "n_tests"), [(1, 3), (4, 10), (4, 8), (4, 1), (4, 4)])
def test_exactly_so_many_test_episodes_count(n_envs: int, n_tests: int) -> None:
    runner, logger, env = build(n_envs, test_nepisode=n_tests, evaluation_epsilon=0.0)
    runner.run()
    t_env = runner.t_env
    for round_ in range(2):
        before = env.stepped
        scores, lengths = [], []
        while len(logger.stats.get("test_return_mean", [])) == round_:
            j = env.episode
            wanted = min(n_envs, n_tests - len(scores))  # the first environments, not the first that finish
            scores += [10 * i + j for i in range(wanted)]
            lengths += [env.length(i, j) for i in range(wanted)]
            runner.run(test_mode=True)
        assert len(scores) == n_tests
        assert logger.stats["test_score_mean"][-1] == (t_env, pytest.approx(np.mean(scores)))
        assert logger.stats["test_ep_length_mean"][-1] == (t_env, pytest.approx(np.mean(lengths)))
        assert env.stepped - before == sum(lengths), "steps beyond the episodes that count"
    assert runner.t_env == t_env and "test_epsilon" not in logger.stats


@pytest.mark.parametrize("test_mode", [False, True])
def test_training_explores_and_tests_take_the_best_actions(test_mode: bool) -> None:
    runner, _, _ = build(4, test_nepisode=4, epsilon_start=1.0, evaluation_epsilon=0.0)
    batch = runner.run(test_mode=test_mode)
    best = runner.mac.unroll(batch).masked_fill(batch["avail_actions"] == 0, -th.inf).argmax(-1)
    played = batch["filled"][:, 1:, 0] == 1
    assert bool((batch["actions"][:, :-1, :, 0] == best[:, :-1])[played].all()) is test_mode


def test_individual_rewards() -> None:
    runner, logger, _ = build(2, common_reward=False)
    batch = runner.run()
    assert batch["reward"].shape == (2, LIMIT + 1, 3)
    returns = batch["reward"].sum(1).double().numpy()
    for i in range(3):
        assert logger.stats[f"agent_{i}_return_mean"][0][1] == pytest.approx(returns[:, i].mean())
        assert logger.stats[f"agent_{i}_return_std"][0][1] == pytest.approx(returns[:, i].std())
    assert logger.stats["total_return_mean"][0][1] == pytest.approx(returns.sum(1).mean())
    assert logger.stats["total_return_std"][0][1] == pytest.approx(returns.sum(1).std())
    assert "return_mean" not in logger.stats


def test_rendering_in_tests_only() -> None:
    runner, _, env = build(1, render=True, test_nepisode=1)
    runner.run()
    assert env.rendered == 0
    before = env.stepped
    runner.run(test_mode=True)
    assert env.rendered == env.stepped - before


@pytest.mark.parametrize(("key", "value"), [("obs", np.nan), ("state", np.inf), ("reward", -np.inf)])
def test_what_is_no_number_is_learnt_by_nobody(key: str, value: float) -> None:
    runner, _, env = build(2)
    runner.run()
    step, t = env.step, [0]

    def broken(actions: np.ndarray, active: np.ndarray) -> Any:
        ended = step(actions, active)
        t[0] += 1
        if t[0] == 2:
            getattr(env, key)[1] = value
        return ended

    env.step = broken
    where = 1 if key == "reward" else 2  # the reward of a step is stored with the step before what it led to
    with pytest.raises(envs.EnvContractError, match=f"environment 1, step {where}: {key} holds .*(nan|inf)"):
        runner.run()
    assert runner.t_env == sum(env.length(i, 0) for i in range(2)), "steps that are thrown away were counted"


def test_an_agent_without_an_action_is_named() -> None:
    runner, _, env = build(2)
    step, t = env.step, [0]

    def broken(actions: np.ndarray, active: np.ndarray) -> Any:
        env.avail_actions[:] = 1  # the dummy refuses what is not available; what the runner took stays in its batch
        ended = step(actions, active)
        t[0] += 1
        if t[0] == 2:
            env.avail_actions[1, 2] = 0
        return ended

    env.step = broken
    with pytest.raises(envs.EnvContractError, match="environment 1, step 2: no action is available to agent 2"):
        runner.run()


def test_nobody_needs_an_action_after_the_end() -> None:
    runner, _, env = build(2)
    step = env.step

    def nothing_left(actions: np.ndarray, active: np.ndarray) -> Any:
        ended = step(actions, active)
        env.avail_actions[env.terminated & active] = 0
        return ended

    env.step = nothing_left
    batch = runner.run()
    ends = batch["terminated"].flatten(1).any(1)
    assert ends.any() and batch["filled"].sum() > 4


def test_an_episode_without_an_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DummyVectorEnv, "length", lambda self, i, j: 3 if i == 0 else LIMIT + 1)
    runner, *_ = build(2)
    with pytest.raises(envs.EnvContractError, match=f"environment 1, step {LIMIT}: .*truncated there"):
        runner.run()


def test_an_info_does_not_pass_for_a_metric_of_ours() -> None:
    of_learners = {"q_taken": 9, "target": 9, "advantage": 9}
    info = {"return": 9, "ep_length": 9, "agent_0_return": 9, "test_won": 9, "returns": 9} | of_learners
    stats, logger = EpisodeStats(), RecordingLogger()
    stats.add(np.array(1.0), 4, info)
    stats.log(logger, "", 7)
    own = {"return_mean": 1.0, "return_std": 0.0, "ep_length_mean": 4.0, "returns_mean": 9.0}
    others = {f"info_{key}_mean": 9.0 for key in info if key != "returns"}
    assert logger.stats == {key: [(7, value)] for key, value in (own | others).items()}


def test_an_info_of_any_keys() -> None:
    """Numbers of agents; and "episode_lost", which an environment says of a team that was beaten."""
    stats, logger = EpisodeStats(), RecordingLogger()
    stats.add(np.array(1.0), 4, {0: 0.5, 1: 0.25, "episode_lost": True, envs.EPISODE_LOST: False})
    stats.log(logger, "", 7)
    assert [logger.stats[f"{key}_mean"] for key in (0, 1, "episode_lost")] == [[(7, 0.5)], [(7, 0.25)], [(7, 1.0)]]
    assert envs.EPISODE_LOST not in ("episode_lost", "battle_lost", "lost")


def test_closing() -> None:
    runner, _, env = build(1)
    runner.close_env()
    assert env.closed == 1


def test_statistics_that_are_not_logged_yet_are_part_of_the_state() -> None:
    runner, _, _ = build(2, runner_log_interval=10**6)
    for _ in range(3):
        runner.run()  # the first rollout is logged at once, the others are kept
    other, _, _ = build(2, runner_log_interval=10**6)
    other.load_state_dict(runner.state_dict())
    kept = runner.train_stats.values
    assert len(kept["ep_length"]) == 4 and other.train_stats.values == kept
    assert [float(r) for r in other.train_stats.returns] == [float(r) for r in runner.train_stats.returns]
