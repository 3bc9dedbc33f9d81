"""Small games of two agents with known answers: the two-step game, climbing, and penalty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .multiagentenv import MultiAgentEnv

GAMES = {
    "two_step": "QMIX paper: the first agent's first action picks the second table; best return 8, VDN reaches 7",
    "climbing": "three actions each; best payoff 11 beside penalties of -30",
    "penalty": "three actions each; two best payoffs of 10, a miss pays env_args.k (0, -25, -50, -75 or -100)",
}


class MatrixArgs(BaseModel):
    """env_args of matrix."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    key: Literal["two_step", "climbing", "penalty"] = "two_step"
    k: float = Field(-100.0, le=0.0)


class MatrixGame(MultiAgentEnv):
    """A matrix game; both agents see which table is played (one-hot), which is the state too.

    key: two_step (two steps), climbing or penalty (one step; k <= 0 is the penalty). Every end is `terminated`. The
    payoff is the team's: with common_reward it is the reward as it is, else each agent receives it.
    """

    def __init__(
        self,
        key: str = "two_step",
        k: float = -100.0,
        seed: int | None = None,
        common_reward: bool = True,
        reward_scalarisation: str = "sum",
    ) -> None:
        args = MatrixArgs(key=key, k=k)  # type: ignore[arg-type]  # pydantic checks the name
        tables = {
            "two_step": [np.zeros((2, 2)), np.full((2, 2), 7.0), np.array([[0.0, 1.0], [1.0, 8.0]])],
            "climbing": [np.array([[11.0, -30.0, 0.0], [-30.0, 7.0, 6.0], [0.0, 0.0, 5.0]])],
            "penalty": [np.array([[args.k, 0.0, 10.0], [0.0, 2.0, 0.0], [10.0, 0.0, args.k]])],
        }
        self._tables = tables[args.key]
        self._common = common_reward
        self._table = 0
        self.name = args.key
        self.n_agents, self.episode_limit = 2, 2 if args.key == "two_step" else 1
        self.backend = f"matrix game {args.key}"
        self.info = {"key": args.key}

    def seed(self, seed: int | None = None) -> int | None:
        return seed  # nothing here is random

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list[np.ndarray], dict]:
        self._table = 0
        return self.get_obs(), {}

    def step(self, actions: Sequence[int]) -> tuple[list[np.ndarray], Any, bool, bool, dict]:
        first, second = (int(a) for a in actions)
        payoff = float(self._tables[self._table][first, second])
        terminated = len(self._tables) == 1 or self._table > 0
        if not terminated:
            self._table = 1 + first
        return self.get_obs(), payoff if self._common else [payoff, payoff], terminated, False, {}

    def get_obs(self) -> list[np.ndarray]:
        table = self.get_state()
        return [table, table.copy()]

    def get_state(self) -> np.ndarray:
        state = np.zeros(len(self._tables), np.float32)
        state[self._table] = 1.0
        return state

    def get_obs_size(self) -> int:
        return len(self._tables)

    def get_state_size(self) -> int:
        return len(self._tables)

    def get_total_actions(self) -> int:
        return self._tables[0].shape[0]
