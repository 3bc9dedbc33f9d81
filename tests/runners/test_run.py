"""Whole small runs through run.run."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch as th
from support.dummy_env import DummyVectorEnv, make_dummy
from support.settings import RecordingLogger, config

import envs
import run
from components.episode_buffer import ReplayBuffer
from learners.ppo_learner import PPOLearner
from learners.q_learner import QLearner
from utils.config import available, compose
from utils.schema import READ_BY, unread


class Loggers(list):
    def __call__(self, console_logger: Any) -> RecordingLogger:
        self.append(RecordingLogger(console_logger))
        return self[-1]


@pytest.fixture
def loggers(monkeypatch: pytest.MonkeyPatch) -> Loggers:
    made = Loggers()
    monkeypatch.setattr(run, "Logger", made)
    monkeypatch.setattr(envs, "make_vector_env", make_dummy)
    return made


def small(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "name": "test",
        "t_max": 300,
        "batch_size": 4,
        "buffer_size": 20,
        "hidden_dim": 8,
        "env_steps_per_update": 10,
        "test_interval": 100,
        "test_nepisode": 3,
        "log_interval": 100,
        "runner_log_interval": 50,
        "learner_log_interval": 10,
        "epsilon_anneal_time": 200,
        "local_results_path": str(tmp_path),
        "mixer": "vdn",
    }
    return config(**(values | changes))


def parallel(n_envs: int) -> dict[str, Any]:
    return {"runner": "parallel", "batch_size_run": n_envs}


def on_policy(**changes: Any) -> dict[str, Any]:
    return {
        "learner": "ppo_learner",
        "mixer": None,
        "agent_output_type": "pi_logits",
        "action_selector": "multinomial",
        "env_steps_per_update": "batch",
        "batch_size": 4,
        "buffer_size": 4,
        "target_update_interval_or_tau": 0.01,
    } | changes


LOG = logging.getLogger("test")


@pytest.mark.parametrize(
    "changes",
    [
        {"mixer": None},
        {"mixer": "vdn", "use_rnn": False, "obs_last_action": True},
        {"mixer": "qmix", "standardise_rewards": True, "standardise_returns": True},
        {"mixer": "qmix", "agent": "rnn_ns", "mac": "non_shared_mac", "target_update_interval_or_tau": 0.01},
        {"mixer": None, "common_reward": False, "standardise_rewards": True, **parallel(3)},
        {"mixer": "qmix", "sequence_length": 2, "burn_in": 1, **parallel(3)},
        {"mixer": "qmix", "env_steps_per_update": "episode", "td_lambda": 0.0, "double_q": False},
    ],
    ids=str,
)
def test_every_setting_trains(tmp_path: Path, loggers: Loggers, changes: dict[str, Any]) -> None:
    run.run(None, small(tmp_path, **changes), LOG)
    (logger,) = loggers
    assert logger.finished
    prefix = "" if changes.get("common_reward", True) else "total_"
    for key in (f"{prefix}return_mean", f"test_{prefix}return_mean", "loss", "grad_norm", "epsilon", "episode"):
        values = [value for _, value in logger.stats[key]]
        assert len(values) >= 2 and all(abs(v) < 1e6 for v in values), key


@pytest.mark.parametrize(
    "changes",
    [
        on_policy(**parallel(2)),
        on_policy(critic_type="ac_critic_ns", agent="rnn_ns", use_rnn=False, standardise_returns=True),
        on_policy(common_reward=False, standardise_rewards=True, obs_last_action=True, obs_individual_obs=True),
    ],
    ids=str,
)
def test_every_setting_of_ppo_trains(tmp_path: Path, loggers: Loggers, changes: dict[str, Any]) -> None:
    run.run(None, small(tmp_path, **changes), LOG)
    (logger,) = loggers
    for key in ("pg_loss", "critic_loss", "entropy", "approx_kl"):
        values = [value for _, value in logger.stats[key]]
        assert len(values) >= 2 and all(abs(v) < 1e6 for v in values), key
    assert "epsilon" not in logger.stats


@pytest.mark.parametrize("n_envs", [1, 2, 4])
def test_ppo_trains_once_on_each_new_batch(
    tmp_path: Path, loggers: Loggers, monkeypatch: pytest.MonkeyPatch, n_envs: int
) -> None:
    played_actions: list[list[int]] = []
    seen: list[bool] = []
    insert = ReplayBuffer.insert_episode_batch

    def note(self: ReplayBuffer, batch: Any) -> None:
        played_actions.extend(batch["actions"].flatten(1).tolist())
        insert(self, batch)

    def train(self: Any, batch: Any, t_env: int, episode_num: int) -> None:
        given = [actions + [0] * 3 * (7 - len(actions) // 3) for actions in batch["actions"].flatten(1).tolist()]
        seen.append(sorted(given) == sorted(played_actions[-4:]))

    monkeypatch.setattr(ReplayBuffer, "insert_episode_batch", note)
    monkeypatch.setattr(PPOLearner, "train", train)
    run.run(None, small(tmp_path, t_max=500, **on_policy(**parallel(n_envs))), LOG)
    played = loggers[0].progressed[-1][1]
    assert len(seen) == played // 4 > 10 and all(seen)
    updates = loggers[0].stats["updates"]
    assert len(updates) == len(loggers[0].stats["test_return_mean"])


def test_updates_are_counted(tmp_path: Path, loggers: Loggers, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    train = QLearner.train
    monkeypatch.setattr(QLearner, "train", lambda self, *given: (calls.append(1), train(self, *given)))
    run.run(None, small(tmp_path, t_max=300), LOG)
    run.run(None, small(tmp_path, t_max=300, **on_policy(epochs=3)), LOG)
    off, on = ([value for _, value in logger.stats["updates"]] for logger in loggers)
    assert off[0] == 0 and off[-1] == len(calls) > 10
    assert on[-1] == 3 * (loggers[1].progressed[-1][1] // 4)


def test_a_run_without_any_update_says_so(tmp_path: Path, loggers: Loggers, caplog: pytest.LogCaptureFixture) -> None:
    run.run(None, small(tmp_path, t_max=40, batch_size=20), LOG)
    assert "no update was made: batch_size=20 episodes are needed to learn from, " in caplog.text
    caplog.clear()
    run.run(None, small(tmp_path, t_max=100), LOG)
    assert "no update" not in caplog.text


def test_a_learner_with_upstreams_contract_alone(
    tmp_path: Path, loggers: Loggers, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    class Bare:
        def __init__(self, *given: Any) -> None: ...

        def train(self, batch: Any, t_env: int, episode_num: int) -> None:
            trained.append(t_env)

        def save_models(self, path: Path) -> None:
            (path / "agent.th").touch()

    monkeypatch.setitem(run.le_REGISTRY, "bare", Bare)
    run.run(None, small(tmp_path, learner="bare", save_model=True), LOG)
    assert len(trained) > 10 and loggers[0].stats["test_return_mean"] and "updates" not in loggers[0].stats
    assert list(tmp_path.glob("models/*/*/agent.th"))


def test_two_runs_with_one_seed_are_identical(tmp_path: Path, loggers: Loggers) -> None:
    changes = {"mixer": "qmix", "standardise_rewards": True, "sequence_length": 3, "burn_in": 1, **parallel(2)}
    for seed in (3, 3, 4):
        run.run(None, small(tmp_path, **changes) | {"seed": seed}, LOG)
    one, two, other = (logger.stats for logger in loggers)
    assert one == two and len(one["loss"]) > 10
    assert one["loss"] != other["loss"]


def test_two_runs_of_ppo_with_one_seed_are_identical(tmp_path: Path, loggers: Loggers) -> None:
    for seed in (3, 3, 4):
        run.run(None, small(tmp_path, **on_policy(**parallel(2))) | {"seed": seed}, LOG)
    one, two, other = (logger.stats for logger in loggers)
    assert one == two and len(one["pg_loss"]) > 10
    assert one["pg_loss"] != other["pg_loss"]


def test_the_seed_decides_networks_batches_and_all_draws(tmp_path: Path, loggers: Loggers) -> None:
    """Each of them: where one were always the same, the seeds of a comparison would not be independent."""
    parts: list[dict[str, Any]] = []
    for seed in (3, 3, 4):
        args = run.make_args(small(tmp_path) | {"seed": seed})
        draws = {"python": random.random(), "numpy": np.random.random(), "torch": th.rand(()).item()}
        buffer, learner = run.build(args, run.make_runner(args, loggers(LOG)), loggers(LOG))
        weights = [p.tolist() for p in learner.mac.parameters()]
        parts.append(draws | {"weights": weights, "batches": buffer.state_dict()["rng"]})
    one, two, other = parts
    assert one == two
    assert [name for name in one if one[name] == other[name]] == []


def test_saved_networks_have_one_folder_whatever_the_task_is_called(tmp_path: Path) -> None:
    config = small(tmp_path) | {"env": "gymma", "env_args": {"key": "mpe/simple_spread"}}
    assert "_mpe_simple_spread_" in run.make_args(config).unique_token


@pytest.mark.parametrize("n_envs", [1, 8])
def test_update_to_data(tmp_path: Path, loggers: Loggers, monkeypatch: pytest.MonkeyPatch, n_envs: int) -> None:
    trained_at: list[int] = []
    monkeypatch.setattr(QLearner, "train", lambda self, batch, t_env, episode_num: trained_at.append(t_env))
    run.run(None, small(tmp_path, t_max=2000, batch_size=8, env_steps_per_update=7, **parallel(n_envs)), LOG)
    (logger,) = loggers
    rollouts = [t for t, _ in logger.progressed]
    ready = rollouts[8 // n_envs - 1]  # the buffer's eighth episode
    assert [sum(t <= now for t in trained_at) for now in rollouts] == [max(0, now - ready) // 7 for now in rollouts]
    assert rollouts[-1] > 2000 >= rollouts[-2]
    assert [episode for _, episode in logger.progressed] == [n_envs * (k + 1) for k in range(len(rollouts))]


def test_intervals(tmp_path: Path, loggers: Loggers) -> None:
    run.run(None, small(tmp_path, t_max=400, save_model=True, save_model_interval=150), LOG)
    (logger,) = loggers
    tested = [t for t, _ in logger.stats["test_return_mean"]]
    assert [t // 100 for t in tested] == [0, 1, 2, 3, 4, 4] and tested[-1] > 400  # the last one at the end of the run
    assert all(t % 100 < 6 for t in tested[:-1])
    saved = sorted(int(path.name) for path in tmp_path.glob("models/*/*/"))
    assert [t // 150 for t in saved] == [1, 2, 2] and saved[-1] > 400


def test_what_is_said_and_recorded_at_the_start(
    tmp_path: Path, loggers: Loggers, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run.run(None, small(tmp_path, t_max=20), LOG)
    row = 8 * 4 + 3 * 6 * 4 + 3 + 3 * 5 + 4 + 1
    assert "one update for every 10 environment steps" in caplog.text
    assert f"up to {20 * 7 * row / 1e6:.1f} MB" in caplog.text and "dummy 1.0" in caplog.text
    records = loggers[0].records
    assert records["backend"] == "dummy 1.0" and records["buffer_bytes"] == 20 * 7 * row
    assert records["update_to_data"] == "one update for every 10 environment steps"


def test_checkpoint_is_tested_or_trained_on(
    tmp_path: Path, loggers: Loggers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run.run(None, small(tmp_path, mixer="qmix", save_model=True, save_model_interval=100), LOG)
    folder = next(tmp_path.glob("models/*"))
    steps = sorted(int(path.name) for path in folder.iterdir() if path.is_dir())
    assert json.loads((folder / "config.json").read_text())["mixer"] == "qmix"
    assert len(steps) >= 3
    weights = th.load(folder / str(steps[0]) / "agent.th", weights_only=True)

    learners: list[QLearner] = []
    load = QLearner.load_models
    monkeypatch.setattr(QLearner, "load_models", lambda self, path: (learners.append(self), load(self, path)))
    common = {"mixer": "qmix", "checkpoint_path": str(folder), "load_step": steps[0] + 1}
    with caplog.at_level(logging.INFO):
        run.run(None, small(tmp_path, evaluate=True, test_nepisode=5, **common), LOG)
    assert "5 test episodes, nothing is learnt" in caplog.text and "update-to-data" not in caplog.text
    run.run(None, small(tmp_path, t_max=steps[0] + 50, **common), LOG)
    evaluated, trained = loggers[1:]
    assert {t for values in evaluated.stats.values() for t, _ in values} == {steps[0]}
    assert "test_return_mean" in evaluated.stats and "loss" not in evaluated.stats
    for name, value in learners[0].mac.agent.state_dict().items():
        assert th.equal(value, weights[name])
    assert trained.progressed[0][0] > steps[0] and "loss" in trained.stats


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_path": "/nowhere/at/all"}, "no folder /nowhere/at/all"),
        ({"mixer": "qmix", "common_reward": False}, "common_reward"),
    ],
)
def test_clear_errors(tmp_path: Path, loggers: Loggers, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run.run(None, small(tmp_path, **changes), LOG)


def test_auto_takes_the_device_there_is(tmp_path: Path, loggers: Loggers) -> None:
    run.run(None, small(tmp_path, t_max=10) | {"use_cuda": "auto"}, LOG)
    assert loggers[0].records["device"] == ("cuda" if th.cuda.is_available() else "cpu")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("buffer_cpu_only", [True, False])
def test_cuda_run(tmp_path: Path, loggers: Loggers, buffer_cpu_only: bool) -> None:
    changes = {"mixer": "qmix", "standardise_rewards": True, "standardise_returns": True, "sequence_length": 3}
    run.run(
        None,
        small(tmp_path, buffer_cpu_only=buffer_cpu_only, save_model=True, **changes, **parallel(3))
        | {"use_cuda": "auto"},
        LOG,
    )
    assert loggers[0].stats["loss"]


def test_environments_are_closed_whatever_happens(
    tmp_path: Path, loggers: Loggers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[DummyVectorEnv] = []

    def make(args: Any) -> DummyVectorEnv:
        made.append(make_dummy(args))
        return made[-1]

    def fail(self: Any, *_: Any) -> None:
        raise RuntimeError("in the learner")

    monkeypatch.setattr(envs, "make_vector_env", make)
    run.run(None, small(tmp_path, t_max=10), LOG)
    monkeypatch.setattr(QLearner, "train", fail)
    with pytest.raises(RuntimeError, match="in the learner"):
        run.run(None, small(tmp_path), LOG)
    assert [env.closed for env in made] == [1, 1] and all(logger.finished for logger in loggers)


@pytest.mark.parametrize("mixer", [None, "vdn", "qmix"])
def test_learns_the_dummy_task(tmp_path: Path, loggers: Loggers, mixer: str | None) -> None:
    speed = {"lr": 0.003, "env_steps_per_update": 5, "target_update_interval_or_tau": 50}
    run.run(None, small(tmp_path, mixer=mixer, t_max=4000, hidden_dim=32, **speed), LOG)
    (logger,) = loggers
    # 3 agents can hit at each of the episode's steps; at random one in four or five does.
    share = logger.stats["test_return_mean"][-1][1] / logger.stats["test_ep_length_mean"][-1][1] / 3
    assert share > 0.6


# --- which keys are read ---
class Reading(SimpleNamespace):
    """Arguments that note which of them are read."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        Reading.read.add(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("algorithm", sorted({*available("algs")} - {"mmsa"}))
def test_keys_that_are_said_to_be_read_are_and_no_others(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_args = run.make_args
    monkeypatch.setattr(run, "make_args", lambda config: Reading(**vars(make_args(config))))
    monkeypatch.setattr(Reading, "read", set())
    words = ["test_nepisode=1", "t_max=80", "seed=1", f"local_results_path={tmp_path}"]
    values = compose(algorithm, "matrix", words)
    run.run(None, values, logging.getLogger("test"))
    keys = {key for own in READ_BY.values() for key in own}
    assert keys & Reading.read == keys - set(unread(values))
