"""Helpers of the environment tests. Worker processes import toy_envs too, hence this folder on sys.path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from envs import VectorEnv, make_vector_env  # noqa: E402


@pytest.fixture
def make() -> Any:
    """make("gymma", n_envs, key=...) -> VectorEnv, closed after the test; workers= and seed= are no env_args."""
    built: list[VectorEnv] = []

    def build(
        env: str, n_envs: int = 1, workers: int = 0, seed: int | None = 1, common_reward: bool = True, **env_args: Any
    ) -> VectorEnv:
        args = SimpleNamespace(
            env=env,
            env_args=env_args,
            batch_size_run=n_envs,
            env_workers=workers,
            env_timeout=None,
            seed=seed,
            common_reward=common_reward,
            reward_scalarisation="sum",
        )
        built.append(make_vector_env(args))
        return built[-1]

    yield build
    for vector in built:
        vector.close()


@pytest.fixture
def random_actions() -> Callable[[VectorEnv, np.random.Generator], np.ndarray]:
    """Draws an available action for every agent, (E,N) int64."""

    def draw(vector: VectorEnv, rng: np.random.Generator) -> np.ndarray:
        return (rng.random(vector.avail_actions.shape) * vector.avail_actions).argmax(axis=-1)

    return draw


@pytest.fixture
def play(random_actions: Any) -> Callable[..., list[tuple[np.ndarray, ...]]]:
    """Plays whole episodes at random and returns a copy of all arrays after each call."""

    def run(vector: VectorEnv, episodes: int = 1, seed: int = 0) -> list[tuple[np.ndarray, ...]]:
        rng, trace = np.random.default_rng(seed), []

        def note() -> None:
            arrays = (vector.obs, vector.state, vector.avail_actions, vector.reward)
            trace.append(tuple(a.copy() for a in (*arrays, vector.terminated, vector.truncated)))

        for _ in range(episodes):
            vector.reset()
            note()
            active = np.ones(vector.n_envs, bool)
            while active.any():
                for i, _ in vector.step(random_actions(vector, rng), active):
                    active[i] = False
                note()
        return trace

    return run
