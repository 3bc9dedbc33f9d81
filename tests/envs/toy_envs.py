"""Small environments that misbehave on demand; at module level so that worker processes can import them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from envs.multiagentenv import MultiAgentEnv

ON = np.ones(4, bool)
ACTIONS = np.zeros((4, 2), np.int64)


class ToyEnv(MultiAgentEnv):
    """Two agents, three actions, the step as observation; ends after `length` steps.

    fault: at the third step "raise", lose its own "pipe", "exit" the process, "hang" or pay "nan"; give a wrong "shape"
    or no "mask" at reset; "stillborn" exits at construction.
    """

    n_agents = 2

    def __init__(self, fault: str = "", length: int = 5, limit: int = 10) -> None:
        self.fault, self.length, self.episode_limit = fault, length, limit
        self.t, self.closed = 0, 0
        if fault == "stillborn":
            os._exit(7)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list[np.ndarray], dict]:
        self.t = 0
        return self.get_obs(), {}

    def step(self, actions: Sequence[int]) -> tuple[list[np.ndarray], Any, bool, bool, dict]:
        self.t += 1
        reward = 1.0
        if self.t == 3:
            if self.fault == "raise":
                raise KeyError("toy fault")
            if self.fault == "pipe":
                raise EOFError("toy fault")
            if self.fault == "exit":
                os._exit(7)
            if self.fault == "hang":
                time.sleep(600)
            if self.fault == "nan":
                reward = float("nan")
        return (
            self.get_obs(),
            reward,
            self.t >= self.length,
            self.t >= self.episode_limit,
            {"score": self.t, "name": "x"},
        )

    def get_obs(self) -> list[np.ndarray]:
        size = 5 if self.fault == "shape" else 4
        return [np.full(size, self.t, np.float32)] * 2

    def get_obs_size(self) -> int:
        return 4

    def get_total_actions(self) -> int:
        return 3

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        return [0, 0, 0] if self.fault == "mask" and agent_id == 1 else [1, 1, 1]

    def close(self) -> None:
        self.closed += 1


class Unclosable(ToyEnv):
    """Notes in a file that it was closed, and raises."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def close(self) -> None:
        with open(self.path, "a") as file:
            file.write("x")
        raise OSError("socket already closed")


def toys(fault: str) -> list[Any]:
    """Four factories; the third environment has the fault."""
    return [partial(ToyEnv, fault if i == 2 else "") for i in range(4)]


class Plain(gymnasium.Wrapper):
    """A wrapper that changes nothing."""


class RaggedEnv(gymnasium.Env):
    """A gymnasium environment of two agents with unequal observations and action sets, and no end of its own."""

    observation_space = gymnasium.spaces.Tuple(
        [gymnasium.spaces.Box(-9, 9, (3,)), gymnasium.spaces.Box(-9, 9, (1, 2), dtype=np.float64)]
    )
    action_space = gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(4, start=1)])
    n_agents = 2

    def __init__(self) -> None:
        self.taken: list[list[int]] = []

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[tuple, dict]:
        super().reset(seed=seed)
        self.taken = []
        return self._obs(), {}

    def step(self, actions: list[int]) -> tuple[tuple, list[float], list[bool], bool, dict]:
        self.taken.append(list(actions))
        return self._obs(), [1.0, 0.5], [False, False], False, {}

    def _obs(self) -> tuple:
        return np.full(3, 1 + len(self.taken), np.float32), np.full((1, 2), -1 - len(self.taken), np.float64)
