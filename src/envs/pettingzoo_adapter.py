"""PettingZoo's parallel environments in the form that gymma takes: tuples with one entry an agent. Used for MPE."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np

OPPONENTS = ("adversary", "leadadversary", "eve")  # how MPE calls the agents of one of two opposing teams


class ParallelAsTuple(gymnasium.Env):
    """A parallel environment of PettingZoo as a gymnasium environment with Tuple spaces.

    make: its constructor, called with the other arguments. The agents are `possible_agents`, in this order. One that is
    no longer there sees zeros, is paid nothing, and its action is ignored. The episode is over when no agent is left:
    truncated where any of the last ones was cut off, else terminated.
    """

    render_mode: str | None = "human"

    def __init__(self, make: Callable[..., Any], **arguments: Any) -> None:
        self._env = make(**arguments)
        self._names = list(self._env.possible_agents)
        self.opponents = [name for name in self._names if name.startswith(OPPONENTS)]
        self.package = type(self._env.unwrapped).__module__.split(".")[0]  # whose version a run records
        self.observation_space = gymnasium.spaces.Tuple([self._env.observation_space(name) for name in self._names])
        self.action_space = gymnasium.spaces.Tuple([self._env.action_space(name) for name in self._names])
        self._nothing = {name: np.zeros(self._env.observation_space(name).shape, np.float32) for name in self._names}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        observations, _ = self._env.reset(seed=seed, options=options)
        return self._in_order(observations, self._nothing), {}

    def step(self, actions: Sequence[int]) -> tuple[Any, Any, bool, bool, dict]:
        there = set(self._env.agents)
        chosen = {name: action for name, action in zip(self._names, actions, strict=True) if name in there}
        observations, rewards, _, truncations, _ = self._env.step(chosen)
        over = not self._env.agents
        truncated = over and any(truncations.values())
        rewards = self._in_order(rewards, dict.fromkeys(self._names, 0.0))
        return self._in_order(observations, self._nothing), rewards, over and not truncated, truncated, {}

    def _in_order(self, values: dict[str, Any], missing: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(values.get(name, missing[name]) for name in self._names)

    def render(self) -> Any:
        self._env.unwrapped.render_mode = self.render_mode
        return self._env.render()

    def close(self) -> None:
        self._env.close()


def mpe_entry_point(key: str) -> Callable[..., gymnasium.Env] | None:
    """What makes the MPE task of a key as upstream writes it (pz-mpe-simple-spread-v3); None where there is none.

    MPE's own time limit is put out of reach: gymma keeps the time.
    """
    if key not in mpe_keys():
        return None
    module = importlib.import_module("mpe2." + key.removeprefix("pz-mpe-").replace("-", "_"))
    return partial(ParallelAsTuple, module.parallel_env, max_cycles=2**31)


def mpe_keys() -> list[str]:
    """The keys of all of MPE's tasks; none where mpe2 is not installed."""
    spec = importlib.util.find_spec("mpe2")
    modules = pkgutil.iter_modules(spec.submodule_search_locations) if spec is not None else ()
    return [f"pz-mpe-{module.name.replace('_', '-')}" for module in modules if re.search(r"_v\d+$", module.name)]
