"""A deterministic vector env: episode j of environment i has a known length, end, observations and rewards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


class DummyVectorEnv:
    """E environments of N agents; one agent is rewarded for each action that equals (environment + step) % A.

    `length(i, j)` and `ends(i, j)` (True: terminated, False: truncated) describe episode j of environment i.
    """

    backend = "dummy 1.0"
    banner = ""

    def __init__(
        self, n_envs: int = 1, n_agents: int = 3, n_actions: int = 5, limit: int = 6, common_reward: bool = True
    ) -> None:
        self.n_envs, self.n_agents, self.n_actions, self.episode_limit = n_envs, n_agents, n_actions, limit
        self.obs_size, self.state_size = 6, 8
        self.common_reward = common_reward
        self.info: dict[str, Any] = {"backend": self.backend}
        self.obs = np.zeros((n_envs, n_agents, self.obs_size), np.float32)
        self.state = np.zeros((n_envs, self.state_size), np.float32)
        self.avail_actions = np.zeros((n_envs, n_agents, n_actions), np.uint8)
        self.reward = np.zeros(n_envs if common_reward else (n_envs, n_agents), np.float32)
        self.terminated, self.truncated = np.zeros(n_envs, bool), np.zeros(n_envs, bool)
        self.episode = 0  # number of the next one
        self.number = -1  # of the present one
        self.t = np.zeros(n_envs, int)
        self.stepped = 0  # environment steps, of active environments
        self.rendered = self.closed = 0

    def get_env_info(self) -> dict[str, int]:
        return {
            "state_shape": self.state_size,
            "obs_shape": self.obs_size,
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }

    def length(self, i: int, j: int) -> int:
        return 1 + (3 * i + 2 * j) % self.episode_limit

    def ends(self, i: int, j: int) -> bool:
        return (i + j) % 2 == 0

    def observation(self, i: int, j: int, t: int) -> np.ndarray:
        """(N, O): recognisable numbers."""
        agents = np.arange(self.n_agents)[:, None]
        features = np.arange(self.obs_size)[None]
        return np.cos(1.0 + i + 0.1 * j + 0.37 * t * (1 + features) + agents).astype(np.float32)

    def reset(self) -> None:
        self.number = self.episode
        self.episode += 1
        self.t[:] = 0
        for i in range(self.n_envs):
            self._show(i)

    def step(self, actions: np.ndarray, active: np.ndarray) -> list[tuple[int, dict[str, Any]]]:
        assert actions.shape == (self.n_envs, self.n_agents) and actions.dtype == np.int64
        ended = []
        for i in np.flatnonzero(active):
            j, length = self.number, self.length(int(i), self.number)
            assert self.t[i] < length, "an episode that is over was stepped"
            assert self.avail_actions[i][np.arange(self.n_agents), actions[i]].all(), "an unavailable action"
            hits = actions[i] == (i + self.t[i]) % self.n_actions
            self.reward[i] = hits.sum() if self.common_reward else hits
            self.t[i] += 1
            self.stepped += 1
            done = self.t[i] == length
            self.terminated[i], self.truncated[i] = done and self.ends(i, j), done and not self.ends(i, j)
            self._show(i)
            if done:
                ended.append((int(i), {"battle_won": self.ends(i, j), "score": 10 * i + j, "note": "no number"}))
        return ended

    def _show(self, i: int) -> None:
        t = int(self.t[i])
        self.obs[i] = self.observation(i, self.number, t)
        self.state[i] = self.obs[i].ravel()[: self.state_size]
        self.avail_actions[i] = 1
        self.avail_actions[i, :, (i + t + 1) % self.n_actions] = 0

    def show(self) -> None:
        self.rendered += 1

    def save_replay(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


def make_dummy(args: SimpleNamespace) -> DummyVectorEnv:
    """In the place of envs.make_vector_env."""
    return DummyVectorEnv(args.batch_size_run, common_reward=args.common_reward, **args.env_args)
