"""Your own environment in one file: copy this and my_env.yaml to wherever you like, change them, and run

    python src/main.py --config=mmsa --env-config=path/to/my_env.yaml with t_max=50000

Here it is a corridor on which the agents must meet. They see no one beyond their neighbour cells, cannot walk through
the walls (action masks), and are paid once all stand in one cell. The state, which only the mixer and critics see, in
training, has everyone's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

import envs

MOVES = np.array([0, -1, 1])  # of the actions: stay, left, right


class MyArgs(BaseModel):
    """env_args: their types, ranges and defaults. A wrong one is refused before a run begins, with the range named."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    n_agents: int = Field(2, ge=2)
    length: int = Field(6, ge=2)
    time_limit: int = Field(20, ge=1)


class MyEnv(envs.MultiAgentEnv):
    """n_agents agents on a corridor of `length` cells, for at most time_limit steps.

    The keywords are those of MyArgs, and three that the host gives to every environment: `seed`, and the run's
    common_reward (one reward for the team, else one an agent) and reward_scalarisation (sum or mean; here the reward is
    the team's from the start).
    """

    backend = "my_env 1.0"  # recorded with every run: count it up when you change what an agent meets

    def __init__(
        self,
        n_agents: int = 2,
        length: int = 6,
        time_limit: int = 20,
        seed: int | None = None,
        common_reward: bool = True,
        reward_scalarisation: str = "sum",
    ) -> None:
        self.n_agents, self.length, self.episode_limit = n_agents, length, time_limit
        self.info = {"n_agents": n_agents, "length": length}  # into the run's record
        self._common = common_reward
        self._rng = np.random.default_rng(seed)
        self._place, self._t = np.zeros(n_agents, int), 0

    # -- an episode --
    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list[np.ndarray], dict]:
        """Draws the places anew; not all the same. A seed starts the random stream anew."""
        if seed is not None:
            self.seed(seed)
        self._t = 0
        while True:
            self._place = self._rng.integers(self.length, size=self.n_agents)
            if not self._met():
                return self.get_obs(), {}

    def step(self, actions: Sequence[int]) -> tuple[list[np.ndarray], Any, bool, bool, dict]:
        """terminated: they met, the task is done. truncated: time is up, values still bootstrap. Never both."""
        self._place = self._place + MOVES[list(actions)]
        self._t += 1
        terminated = self._met()
        truncated = not terminated and self._t >= self.episode_limit
        reward = 1.0 if terminated else 0.0
        info = {"met": terminated}  # numbers of the last step are logged: met_mean, test_met_mean
        return self.get_obs(), reward if self._common else [reward] * self.n_agents, terminated, truncated, info

    def _met(self) -> bool:
        return bool((self._place == self._place[0]).all())

    # -- what agents, mixer and critics see --
    def get_obs(self) -> list[np.ndarray]:
        """One's own cell, and whether someone stands in the cell before, in it, and behind it: (length + 3,) each.

        All agents' have this size: those of agents that see less are filled up with zeros.
        """
        rows = []
        for i, place in enumerate(self._place):
            others = np.delete(self._place, i)
            near = [float((others == place + step).any()) for step in (-1, 0, 1)]
            rows.append(np.concatenate([np.eye(self.length)[place], near]).astype(np.float32))
        return rows

    def get_obs_size(self) -> int:
        return self.length + 3

    def get_state(self) -> np.ndarray:
        """Everyone's cell and the time left, (n_agents * length + 1,). Without this, the observations joined."""
        cells = np.eye(self.length)[self._place].reshape(-1)
        return np.append(cells, 1.0 - self._t / self.episode_limit).astype(np.float32)

    def get_state_size(self) -> int:
        return self.n_agents * self.length + 1

    # -- actions --
    def get_total_actions(self) -> int:
        return len(MOVES)

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        """Walls: one of the actions must always be available. Without this, all are."""
        place = self._place[agent_id]
        return [1, int(place > 0), int(place < self.length - 1)]

    def seed(self, seed: int | None = None) -> int | None:
        self._rng = np.random.default_rng(seed)
        return seed


def register() -> None:
    """Called by the host, which found this file as `env_module` in the YAML."""
    envs.register("my_env", MyEnv, MyArgs)
