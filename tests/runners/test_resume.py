"""A run that was cut off and goes on from a checkpoint equals, to the bit, one that was not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch as th
from support.settings import config

import run
from components.episode_buffer import ReplayBuffer
from utils.checkpoints import Checkpoints
from utils.logging import Logger
from utils.signals import Interrupted, StopSignals

LOG = logging.getLogger("test")
T_MAX = 400


class Killed(BaseException):
    """In the place of SIGKILL."""


class World:
    """Runs through run.run that note what they end as."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.ends: list[dict[str, Any]] = []
        self.logger: Any = None
        train = run.train
        logger_class = Logger

        def note_logger(log: Any) -> Logger:
            self.logger = logger_class(log)
            return self.logger

        def noted(args: Any, runner: Any, buffer: ReplayBuffer, learner: Any, *rest: Any) -> None:
            self.learner, self.buffer, self.runner = learner, buffer, runner
            train(args, runner, buffer, learner, *rest)

        monkeypatch.setattr(run, "train", noted)
        monkeypatch.setattr(run, "Logger", note_logger)

    def start(self, values: dict[str, Any], name: str, stop: StopSignals | None = None, **changes: Any) -> Any:
        """Begins, or goes on, until it is over; what everything is then."""
        checkpoints = Checkpoints(self.folder / name)
        checkpoints.lock()
        try:
            saved, problems = checkpoints.newest()
            assert problems == []
            run.run(None, values | changes, LOG, checkpoints, saved, stop)
        finally:
            checkpoints.unlock()
        return self.end()

    def end(self) -> dict[str, Any]:
        (piece,) = self.buffer.pieces(0, 2**40)
        return {
            "learner": self.learner.state_dict(),
            "buffer": self.buffer.state_dict(),
            "episodes": piece,
            "runner": self.runner.state_dict(),
            "torch": th.get_rng_state(),
            "latest": self.logger.state_dict()["latest"],
        }


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def equal(a: Any, b: Any, where: str = "") -> None:
    """The same to the bit, whatever is in it."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            equal(x, y, f"{where}/{i}")
    elif isinstance(a, th.Tensor):
        assert a.dtype == b.dtype and th.equal(a, b), where
    else:
        assert a == b, where


def settings(**changes: Any) -> dict[str, Any]:
    values = {
        "name": "test",
        "t_max": T_MAX,
        "env": "matrix",
        "env_args": {},
        "batch_size": 4,
        "buffer_size": 30,
        "hidden_dim": 8,
        "env_steps_per_update": 9,
        "test_interval": 70,
        "test_nepisode": 3,
        "log_interval": 100,
        "runner_log_interval": 50,
        "learner_log_interval": 10,
        "epsilon_anneal_time": 300,
        "checkpoint_interval": 60,
        "mixer": "qmix",
        "target_update_interval_or_tau": 5,
    }
    return config(**(values | changes))


PPO = {
    "learner": "ppo_learner",
    "mixer": None,
    "agent_output_type": "pi_logits",
    "action_selector": "multinomial",
    "env_steps_per_update": "batch",
    "buffer_size": 4,
    "standardise_returns": True,
    "target_update_interval_or_tau": 3,
    "test_greedy": False,
}
LBF = {"env": "gymma", "env_args": {"key": "Foraging-5x5-2p-1f-v3", "time_limit": 12}}
SETTINGS = {
    "qmix": settings(standardise_rewards=True, standardise_returns=True),
    "iql, rewards of each agent": settings(mixer=None, common_reward=False, standardise_rewards=True, **LBF),
    "stretches": settings(sequence_length=3, burn_in=1, runner="parallel", batch_size_run=3, t_max=700, **LBF),
    "evaluation that explores": settings(evaluation_epsilon=0.3, target_update_interval_or_tau=0.05),
    "update an episode": settings(env_steps_per_update="episode", epsilon_start=0.5),
    "ppo": settings(**PPO),
    "ppo, two environments": settings(**PPO, runner="parallel", batch_size_run=2),
}


def dies_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, error: BaseException) -> Callable:
    """The given call of a method raises instead; undo() makes it whole."""
    real, calls = getattr(owner, name), [0]

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, broken)
    return lambda: monkeypatch.setattr(owner, name, real)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_goes_on_as_if_nothing_had_been(name: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    values = SETTINGS[name]
    whole = world.start(values, "whole")
    learner = type(world.learner)
    for call in (20, 3):  # in an update, which leaves no checkpoint behind it; twice, once soon after the first resume
        undo = dies_at(monkeypatch, learner, "train", call, Killed())
        with pytest.raises(Killed):
            world.start(values, "killed")
        undo()
    assert Checkpoints(world.folder / "killed").newest()[0] is not None
    equal(whole, world.start(values, "killed"))
