"""VMAS: a physics simulator in PyTorch (package vmas), all environments of a run stepped together.

Where this differs from the package:
- All its environments share one random stream. Here each environment has its own, so that what it starts from depends
  on its seed only, and neither on their number nor on other runs in the process.
  Three scenarios do not keep to it: episodes of wind_flocking and road_traffic depend on those before them, those of
  road_traffic and mpe/simple_crypto on the number of environments.
- Nothing resets itself, and a time limit (100 steps unless set) is `truncated`; `terminated` is the scenario's own end.
Actions are the package's discrete ones (no force, back, ahead in each direction, times what can be said), the state is
the observations joined, the CPU is used whatever the learner has.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from .multiagentenv import EnvContractError, MissingBackendError, nearest, silence
from .vector import Ended, SingleEnv, VectorEnv, episode_seed

DEFAULT_LIMIT = 100
LISTING = (
    ("balance", "carry a package up on a beam without letting it fall (default)"),
    ("transport", "push a heavy package to its goal together"),
    ("reverse_transport", "push it from within"),
    ("wheel", "turn a heavy line at a given speed"),
    ("navigation", "reach one's own goal without collisions"),
    ("dispersion", "share out goals"),
    ("discovery", "cover points together"),
    ("sampling", "sample a field"),
    ("flocking", "fly around a target without collisions"),
    ("passage", "pass through a gap one after another"),
    ("give_way", "let each other pass in a corridor"),
    ("ball_passage", "push a ball through a gap"),
    ("mpe/simple_spread", "MPE's tasks in VMAS: mpe/NAME"),
    ("NAME", "any other scenario of the package with discrete actions"),
)
CURE = "pip install -e '.[vmas]'"


class VmasArgs(BaseModel):
    """env_args of vmas."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    key: str = "balance"
    time_limit: int | None = Field(None, ge=1)
    make: dict[str, Any] = {}

    @field_validator("key")
    @classmethod
    def _known(cls, key: str) -> str:
        known = scenarios()
        if known and key not in known:
            raise ValueError(f"{key} is no scenario of VMAS.{nearest(key, known)}")
        return key

    @field_validator("make")
    @classmethod
    def _not_ours(cls, make: dict[str, Any]) -> dict[str, Any]:
        ours = ("num_envs", "device", "seed", "max_steps", "continuous_actions", "dict_spaces", "wrapper", "scenario")
        if taken := sorted(set(make) & {*ours, "terminated_truncated", "multidiscrete_actions", "grad_enabled"}):
            raise ValueError(f"{', '.join(taken)} cannot be set here: only the scenario's own arguments can")
        return make


def scenarios() -> list[str]:
    """Names of the installed package's scenarios, "balance" or "mpe/simple_spread"; none where it is missing."""
    spec = importlib.util.find_spec("vmas")
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent / "scenarios"
    found = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.py"))
    return sorted(name for name in found if not name.endswith("__init__"))


def _import_vmas() -> Any:
    """The package, without what it and the old gym print at import; MissingBackendError where it is not installed."""
    try:
        with silence():
            import vmas
    except ImportError as error:
        raise MissingBackendError(f"VMAS needs the packages vmas and gym ({error}): {CURE}") from error
    return vmas


def require(**env_args: Any) -> None:
    """Raises where this environment cannot run here: MissingBackendError, EnvContractError or ValueError."""
    env = VmasVectorEnv(VmasArgs(**env_args), [0])
    try:
        if env_args.get("make"):
            env.reset()
            env.step(np.zeros((1, env.n_agents), np.int64), np.ones(1, bool))
    except EnvContractError:
        raise
    except Exception as error:  # of the scenario
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"env_args.make={env_args['make']}: {env.key} cannot be played with it: {why}") from error
    finally:
        env.close()


class VmasVectorEnv(VectorEnv):
    """E environments of one scenario, stepped by one call. mean: the team is paid the agents' mean, not their sum."""

    def __init__(self, args: VmasArgs, seeds: Sequence[int], common_reward: bool = True, mean: bool = False) -> None:
        vmas = _import_vmas()
        e, self.key = len(seeds), args.key
        path = str(Path(vmas.__file__).parent / "scenarios" / f"{args.key}.py")  # a bare name may be there twice
        with _stream(_seeded(seeds[0])), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Force limits not specified")
            warnings.filterwarnings("error", message="Scenario kwargs")  # those that the scenario does not know
            try:
                self._env = vmas.make_env(
                    path, num_envs=e, continuous_actions=False, terminated_truncated=True, **args.make
                )
            except Exception as error:  # of the scenario: its own words may name the argument
                why = str(error) or type(error).__name__
                raise ValueError(f"env_args.make={args.make}: {args.key} cannot be made with it: {why}") from error
            boxes = list(self._env.observation_space)
            counts = [int(getattr(space, "n", 0)) for space in self._env.action_space]
            if not all(type(box).__name__ == "Box" for box in boxes) or not all(counts):
                raise EnvContractError(f"{args.key}: a Box observation and Discrete actions are needed for each agent")
        self._sizes = [int(np.prod(box.shape)) for box in boxes]
        n, o = len(counts), max(self._sizes)
        limit = args.time_limit or DEFAULT_LIMIT
        dims = {"n_agents": n, "n_actions": max(counts), "obs_shape": o, "state_shape": n * o, "episode_limit": limit}
        super().__init__(dims, e, common_reward)
        self.backend = f"vmas {version('vmas')}"
        self.info = {"backend": self.backend, "key": args.key, "episode_limit": limit}
        if args.make:
            self.info["make"] = dict(args.make)
        self._counts = np.array(counts)
        self._mean, self._t = mean, -1
        self._seeds = list(seeds)
        self._first = [0] * e  # number of the first episode of each environment's stream
        self._noise: list[Any] = []  # of steps: drawn for all environments at once

    def seed(self, env: int, seed: int) -> None:
        """Starts the random stream of one environment anew, from its next episode on."""
        self._seeds[env], self._first[env] = seed, self.episode

    def reset(self) -> None:
        for i, (seed, first) in enumerate(zip(self._seeds, self._first, strict=True)):
            with _stream(_seeded(episode_seed(seed, self.episode - first))):
                self._env.reset_at(i, return_observations=False)
        self._noise = _seeded(episode_seed(self._seeds[0], self.episode - self._first[0]))
        with _stream(self._noise):
            (observations,) = self._env.get_from_scenario(
                get_observations=True, get_rewards=False, get_infos=False, get_dones=False
            )
        self._t = 0
        self.episode += 1
        self._show(observations, slice(None))
        self.avail_actions[:] = np.arange(self.n_actions) < self._counts[:, None]
        self.reward[:], self.terminated[:], self.truncated[:] = 0.0, False, False

    def step(self, actions: np.ndarray, active: np.ndarray) -> Ended:
        if self._t < 0:
            raise EnvContractError("VMAS: step() before reset()")
        chosen = np.where(active[:, None], actions, 0)
        if ((chosen < 0) | (chosen >= self._counts)).any():
            raise EnvContractError(f"VMAS: an action is not among the {self._counts.tolist()} of its agent")
        with _stream(self._noise):
            observations, rewards, terminated, _, _ = self._env.step(
                [chosen[:, i : i + 1] for i in range(self.n_agents)]
            )
        self._t += 1
        # (E, N), of rewards that are (E,) or, in wheel, (E, 1)
        paid = np.stack([reward.numpy().reshape(self.n_envs) for reward in rewards], axis=1)
        if self.common_reward:
            paid = paid.mean(axis=1) if self._mean else paid.sum(axis=1)
        if np.isnan(paid[active]).any():
            bad = np.flatnonzero(active & np.isnan(paid).reshape(self.n_envs, -1).any(axis=1)).tolist()
            raise EnvContractError(f"VMAS: the reward of environment(s) {bad} is not a number")
        rows = slice(None) if active.all() else active
        self._show(observations, rows)
        over = terminated.numpy().reshape(self.n_envs)
        self.reward[rows], self.terminated[rows] = paid[rows], over[rows]
        self.truncated[rows] = ~over[rows] & (self._t >= self.episode_limit)
        return [(int(i), {}) for i in np.flatnonzero(active & (self.terminated | self.truncated))]

    def _show(self, observations: Sequence[Any], rows: Any) -> None:
        for i, (seen, size) in enumerate(zip(observations, self._sizes, strict=True)):
            self.obs[rows, i, :size] = seen.numpy().reshape(self.n_envs, size)[rows]
        self.state[rows] = self.obs[rows].reshape(-1, self.state_size)


def _seeded(seed: int) -> list[Any]:
    """A random stream as the package keeps it, at its beginning. Its own seed() seeds the learner's GPU as well."""
    generator = sys.modules["torch"].Generator().manual_seed(seed)  # the simulator's
    return [generator.get_state(), np.random.RandomState(seed).get_state(), random.Random(seed).getstate()]


@contextlib.contextmanager
def _stream(own: list[Any]) -> Iterator[None]:
    """Within, the package draws from this random stream and goes on with it.

    The package keeps the states of its random generators in one list, which all its environments share.
    """
    shared = sys.modules["vmas"].simulator.environment.Environment.vmas_random_state
    shared[:] = own
    yield
    own[:] = shared


class VmasEnv(SingleEnv):
    """One environment of a scenario. time_limit: steps until truncation, None for 100. make: its own arguments."""

    def __init__(
        self,
        key: str = "balance",
        time_limit: int | None = None,
        make: dict[str, Any] | None = None,
        seed: int | None = None,
        common_reward: bool = True,
        reward_scalarisation: str = "sum",
    ) -> None:
        args = VmasArgs(key=key, time_limit=time_limit, make=make or {})
        seed = int.from_bytes(os.urandom(4)) if seed is None else seed
        super().__init__(VmasVectorEnv(args, [seed], common_reward, reward_scalarisation == "mean"), key)


def make_batched(
    env_args: dict[str, Any], seeds: list[int], common_reward: bool, reward_scalarisation: str
) -> VmasVectorEnv:
    """All environments of a run at once."""
    return VmasVectorEnv(VmasArgs(**env_args), seeds, common_reward, reward_scalarisation == "mean")
