"""MMSA and QMIX train on every environment for a few hundred steps; who may learn from individual rewards."""

from __future__ import annotations

import importlib.util
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.settings import RecordingLogger

import envs
import run
from utils import config

ROOT = Path(__file__).resolve().parents[2]
LOG = logging.getLogger("test")
# Config -> what makes a few hundred steps of it short episodes, and the packages that it needs.
TASKS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "gymma": (["env_args.key=Foraging-5x5-2p-1f-v3", "env_args.time_limit=20"], ()),
    "rware": (["env_args.time_limit=20"], ("rware",)),
    "mpe": ([], ("mpe2",)),
    "vmas": (["env_args.time_limit=20", "env_args.make={n_agents: 2}"], ("vmas", "gym")),
    "mamujoco": (["env_args.key=Hopper-3x1", "env_args.time_limit=20"], ("mujoco", "gymnasium_robotics")),
    "matrix": (["env_args.key=climbing"], ()),
    str(ROOT / "examples/my_env.yaml"): ([], ()),
    "smax": (["env_args.map_name=3m", "env_args.time_limit=20"], ()),
    "sc2v2": (["env_args.time_limit=20"], ()),
}
SLOW = ("smax", "sc2v2")  # JAX compiles for longer than the rest takes
SMALL = [
    "seed=1", "use_cuda=false", "t_max=300", "batch_size=4", "buffer_size=50", "hidden_dim=16",
    "env_steps_per_update=25", "test_interval=200", "test_nepisode=2", "runner_log_interval=100",
    "learner_log_interval=1",
]  # fmt: skip


def small(on_policy: bool) -> list[str]:
    """SMALL; of algorithms that learn from what they have just played, with their own sizes of batch and buffer."""
    return [word for word in SMALL if not (on_policy and word.startswith(("batch", "buffer", "env_steps")))]


def task(name: str) -> Any:
    missing = [package for package in TASKS[name][1] if importlib.util.find_spec(package) is None]
    marks = [pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")]
    return pytest.param(name, marks=[*marks, *([pytest.mark.slow] if name in SLOW else [])], id=Path(name).stem)


@pytest.fixture
def loggers(monkeypatch: pytest.MonkeyPatch) -> list[RecordingLogger]:
    made: list[RecordingLogger] = []
    monkeypatch.setattr(run, "Logger", lambda log: made.append(RecordingLogger(log)) or made[-1])  # type: ignore[func-returns-value]
    return made


def test_every_environment_is_here() -> None:
    assert {entry.config for entry in envs.describe()} == {name for name in TASKS if not name.endswith(".yaml")}


@pytest.mark.parametrize("algorithm", ["mmsa", "qmix"])
@pytest.mark.parametrize("name", [task(name) for name in TASKS])
def test_trains(name: str, algorithm: str, loggers: list[RecordingLogger], tmp_path: Path) -> None:
    several = ["runner=parallel", "batch_size_run=2"]
    composed = config.compose(algorithm, name, [*SMALL, *several, f"local_results_path={tmp_path}", *TASKS[name][0]])
    envs.require(composed)
    run.run(None, composed, LOG)
    stats = loggers[0].stats
    assert stats["updates"][-1][1] >= 5 and len(stats["loss"]) >= 5
    for key, values in stats.items():
        assert all(math.isfinite(value) for _, value in values), f"{key} is not finite"
    returns = [value for _, value in stats["test_return_mean"]]
    assert len(returns) >= 2 and loggers[0].progressed[-1][0] > 300
    assert loggers[0].records["backend"] and loggers[0].finished


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("algorithm", ["mmsa", "mappo"])
def test_trains_on_a_gpu(algorithm: str, loggers: list[RecordingLogger], tmp_path: Path) -> None:
    words = small(on_policy=algorithm == "mappo")
    composed = config.compose(algorithm, "matrix", [*words, "use_cuda=true", f"local_results_path={tmp_path}"])
    run.run(None, composed, LOG)
    assert loggers[0].records["device"] == "cuda" and loggers[0].finished
    loss = loggers[0].stats["loss" if algorithm == "mmsa" else "pg_loss"]
    assert len(loss) >= 5 and all(math.isfinite(value) for _, value in loss)


@pytest.mark.parametrize("algorithm", ["iql", "ippo"])
def test_individual_rewards_for_those_that_learn_from_them(
    algorithm: str, loggers: list[RecordingLogger], tmp_path: Path
) -> None:
    words = small(on_policy=algorithm == "ippo")
    where = [f"local_results_path={tmp_path}", *TASKS["gymma"][0]]
    run.run(None, config.compose(algorithm, "gymma", [*words, *where, "common_reward=false"]), LOG)
    stats = loggers[0].stats
    assert {"agent_0_return_mean", "agent_1_return_mean", "total_return_mean"} <= set(stats)
    assert "return_mean" not in stats


@pytest.mark.parametrize("algorithm", ["qmix", "vdn", "mmsa"])
def test_individual_rewards_are_refused_by_mixers(algorithm: str) -> None:
    with pytest.raises(config.ConfigError, match="common_reward = False.*must be true with mixer="):
        config.compose(algorithm, "gymma", [*TASKS["gymma"][0], "common_reward=false"])


@pytest.mark.parametrize("name", [task(name) for name in TASKS if name not in (*SLOW, "matrix") and "/" not in name])
def test_sum_and_mean_of_the_rewards(name: str) -> None:
    """A sum is N times the mean; a reward that is the team's from the start is neither."""

    def paid(how: str) -> float:
        composed = config.compose("qmix", name, [*SMALL, f"reward_scalarisation={how}", *TASKS[name][0]])
        with envs.make_vector_env(SimpleNamespace(**composed)) as vector:
            vector.reset()
            total, rng = 0.0, np.random.default_rng(0)
            for _ in range(15):
                wish = rng.random(vector.avail_actions.shape) * vector.avail_actions
                vector.step(wish.argmax(-1), np.ones(1, bool))
                total += float(vector.reward[0])
            return total * (vector.n_agents if how == "mean" and name != "mamujoco" else 1)

    assert paid("sum") == pytest.approx(paid("mean"), rel=1e-4)
    assert name in ("gymma", "rware") or paid("sum") != 0.0
