"""Many environments as one: in this process, in worker processes, or (envs.smax, envs.vmas) natively batched.

E environments, N agents, A actions, observations of size O, a state of size S. All arrays are numpy and belong to the
vector environment: they hold until its next call, and the rows of environments that are not active stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .multiagentenv import EnvContractError, MultiAgentEnv

EnvFactory = Callable[[], MultiAgentEnv]
Ended = list[tuple[int, dict[str, float]]]

_INFO_KEYS = ("state_shape", "obs_shape", "n_actions", "n_agents", "episode_limit")
_64_BITS = 2**64 - 1


def episode_seed(seed: int, episode: int) -> int:
    """The seed (32 bits) of an environment's k-th episode, from the environment's own: splitmix64 of the two."""
    x = ((seed << 32) + episode + 1) * 0x9E3779B97F4A7C15 & _64_BITS
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _64_BITS
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _64_BITS
    return (x ^ (x >> 31)) >> 32


def env_seeds(seed: int | None, n_envs: int) -> list[int]:
    """One seed for each environment. Environment i gets the same one whatever the number of environments."""
    return [int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(n_envs)]


def layout_of(dims: dict[str, int], n_envs: int, common_reward: bool) -> dict[str, tuple[tuple[int, ...], type]]:
    e, n, a = n_envs, dims["n_agents"], dims["n_actions"]
    return {
        "actions": ((e, n), np.int64),
        "obs": ((e, n, dims["obs_shape"]), np.float32),
        "state": ((e, dims["state_shape"]), np.float32),
        "reward": ((e,) if common_reward else (e, n), np.float32),
        "avail_actions": ((e, n, a), np.uint8),
        "active": ((e,), np.bool_),
        "terminated": ((e,), np.bool_),
        "truncated": ((e,), np.bool_),
    }


def arrays_in(buffer: Any, layout: dict[str, tuple[tuple[int, ...], type]]) -> dict[str, np.ndarray]:
    """Views of the layout's arrays in one buffer, the widest types first so that each one is aligned."""
    arrays: dict[str, np.ndarray] = {}
    offset = 0
    for name, (shape, dtype) in layout.items():
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(buffer, dtype, count, offset).reshape(shape)
        offset += count * np.dtype(dtype).itemsize
    return arrays


def n_bytes(layout: dict[str, tuple[tuple[int, ...], type]]) -> int:
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in layout.values())


class VectorEnv:
    """E environments as one.

    Attributes: n_envs, n_agents, n_actions, obs_size, state_size, episode_limit, common_reward; backend (what
    simulates, as named in the run's record), banner (a warning to print, or ""), info (more for the run's record),
    render_fps (pictures a second of a film), episode (how many episodes were begun: the next one's number).
    What an episode draws depends on the environment's seed and the episode's number alone: to set `episode` is to
    stand where another vector environment stood, and all that there is to restore.
    Arrays: obs (E,N,O) f32 · state (E,S) f32 · avail_actions (E,N,A) u8 · reward (E,) f32, or (E,N) without common
    reward · terminated, truncated (E,) bool.
    """

    backend: str = ""
    banner: str = ""
    render_fps: int = 5

    def __init__(self, dims: dict[str, int], n_envs: int, common_reward: bool, buffer: Any = None) -> None:
        self.n_envs, self.common_reward = n_envs, common_reward
        self.n_agents, self.n_actions = dims["n_agents"], dims["n_actions"]
        self.obs_size, self.state_size = dims["obs_shape"], dims["state_shape"]
        self.episode_limit = dims["episode_limit"]
        self.info: dict[str, Any] = {}
        self.episode = 0
        self._closed = False
        layout = layout_of(dims, n_envs, common_reward)
        self._arrays = arrays_in(bytearray(n_bytes(layout)) if buffer is None else buffer, layout)
        self.obs, self.state = self._arrays["obs"], self._arrays["state"]
        self.avail_actions, self.reward = self._arrays["avail_actions"], self._arrays["reward"]
        self.terminated, self.truncated = self._arrays["terminated"], self._arrays["truncated"]

    def _take_identity(self, env: MultiAgentEnv) -> None:
        self.backend, self.banner, self.render_fps = env.backend, env.banner, env.render_fps
        self.info = {"backend": env.backend, **getattr(env, "info", {})}

    def get_env_info(self) -> dict[str, int]:
        """Sizes under the contract's names: state_shape, obs_shape, n_actions, n_agents, episode_limit."""
        sizes = (self.state_size, self.obs_size, self.n_actions, self.n_agents, self.episode_limit)
        return dict(zip(_INFO_KEYS, sizes, strict=True))

    def reset(self) -> None:
        """Starts episode number `episode` in every environment, fills obs, state and avail_actions, and counts it."""
        raise NotImplementedError

    def step(self, actions: np.ndarray, active: np.ndarray) -> Ended:
        """Steps the active environments.

        actions: (E,N) int64, rows of inactive environments are ignored · active: (E,) bool.
        Returns (environment, the numbers of its final info) for each episode that ended at this step; obs, state and
        avail_actions then hold the last observation of that episode, from which to bootstrap. An info with a true
        EPISODE_LOST is of an episode that must not be used: its simulator broke down, and starts anew at reset().
        """
        raise NotImplementedError

    def render(self) -> Any:
        """A picture of the first environment, (H, W, 3) uint8; NotImplementedError where there are none."""
        raise NotImplementedError(f"{self.backend or type(self).__name__} has no pictures")

    def show(self) -> None:
        """Shows the first environment in a window."""
        self.render()

    def save_replay(self) -> None:
        """Saves a replay where the simulator has such a thing."""

    def close(self) -> None:
        """Ends everything; twice is fine."""
        self._closed = True

    def __enter__(self) -> VectorEnv:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class EnvGroup:
    """Environments stepped one after another, each with its rows of the arrays; used in process and in each worker.

    seeds: one for each environment, from which its episodes' seeds are made; None goes on in the environment's own
    random stream.
    """

    def __init__(
        self,
        envs: list[MultiAgentEnv],
        arrays: dict[str, np.ndarray],
        first: int,
        common: bool,
        seeds: Sequence[int] | None,
    ) -> None:
        self.envs, self.first, self.common, self.seeds = envs, first, common, seeds
        last = first + len(envs)
        self.reward, self.terminated, self.truncated = (
            arrays[k][first:last] for k in ("reward", "terminated", "truncated")
        )
        self.rows = [tuple(arrays[k][i] for k in ("obs", "state", "avail_actions")) for i in range(first, last)]
        self.t = [0] * len(envs)
        self.checked = self.paid = False
        self.at = 0  # environment at work, for error messages

    def where(self) -> str:
        """Names the environment at work and its step."""
        env = self.envs[self.at]
        name = getattr(env, "name", type(env).__name__)
        return f"environment {self.first + self.at} ({name}), step {self.t[self.at]}"

    def reset(self, episode: int) -> None:
        for i, (env, (obs, state, avail)) in enumerate(zip(self.envs, self.rows, strict=True)):
            self.at, self.t[i] = i, 0
            begun = env.reset() if self.seeds is None else env.new_episode(episode_seed(self.seeds[i], episode))
            try:
                observations, _ = begun
            except (TypeError, ValueError):
                raise self._of_another_form("reset", "the observations and an info dict", begun) from None
            if not self.checked:
                self._check_shapes(env, observations)
            env.fill(obs, state, avail)
            self._check_mask(avail)
        self.checked = True
        self.reward[:], self.terminated[:], self.truncated[:] = 0.0, False, False

    def step(self, actions: np.ndarray, active: np.ndarray) -> Ended:
        """actions (envs here, N), active (envs here,)."""
        ended: Ended = []
        rows, t, reward_rows = self.rows, self.t, self.reward
        for i, (on, chosen) in enumerate(zip(active.tolist(), actions.tolist(), strict=True)):
            if not on:
                continue
            env, (obs, state, avail) = self.envs[i], rows[i]
            self.at = i
            t[i] += 1
            made = env.step(chosen)
            try:
                _, reward, terminated, truncated, info = made
            except (TypeError, ValueError):
                wanted = "the observations, the reward, terminated, truncated and an info dict"
                raise self._of_another_form("step", wanted, made) from None
            env.fill(obs, state, avail)
            if not self.paid:
                self._check_reward(reward)
            reward_rows[i] = reward
            if self.common:
                nan = reward != reward
            else:
                nan = any(r != r for r in reward)
            if nan:
                raise EnvContractError(f"{self.where()}: the reward is not a number ({reward})")
            if terminated.__class__ is not bool or truncated.__class__ is not bool:
                terminated, truncated = self._flag("terminated", terminated), self._flag("truncated", truncated)
            self.terminated[i] = terminated
            self.truncated[i] = truncated and not terminated
            if terminated or truncated:
                ended.append((self.first + i, self._numbers(info)))
        return ended

    def _check_shapes(self, env: MultiAgentEnv, observations: Any) -> None:
        dims = env.get_env_info()
        n, wide = dims["n_agents"], dims["obs_shape"]
        seen = [np.shape(one) for one in observations] if np.iterable(observations) else []
        if seen != [(wide,)] * n:
            shapes = ", ".join(map(str, dict.fromkeys(seen)))
            raise EnvContractError(
                f"{self.where()}: reset() gave {len(seen)} observations of shape {shapes or '()'}, expected {n} of "
                f"{(wide,)}; those of agents that see less are filled up with zeros"
            )
        if (got := np.shape(env.get_state())) != (dims["state_shape"],):
            raise EnvContractError(f"{self.where()}: state of shape {got}, expected ({dims['state_shape']},)")
        want = (dims["n_agents"], dims["n_actions"])
        if (got := np.shape(env.get_avail_actions())) != want:
            raise EnvContractError(f"{self.where()}: masks of shape {got}, expected {want}")

    def _of_another_form(self, method: str, wanted: str, got: Any) -> EnvContractError:
        n = len(got) if isinstance(got, tuple | list) else 1
        return EnvContractError(f"{self.where()}: {method}() gave {n} value{'s' * (n != 1)}, not {wanted}")

    def _check_reward(self, reward: Any) -> None:
        if np.shape(reward) != (want := self.reward.shape[1:]):
            wanted = "one number, for the team" if self.common else f"a list of {want[0]} numbers, one an agent"
            raise EnvContractError(
                f"{self.where()}: the reward is {reward!r}; with common_reward={self.common} it must be {wanted}"
            )
        self.paid = True

    def _check_mask(self, avail: np.ndarray) -> None:
        if not avail.any(axis=-1).all():
            agents = np.flatnonzero(~avail.any(axis=-1)).tolist()
            raise EnvContractError(f"{self.where()}: no action is available to agent(s) {agents}")

    def _flag(self, name: str, value: Any) -> bool:
        if _is_number(value):
            return bool(value)
        raise EnvContractError(f"{self.where()}: {name} is {value!r}; it must be one bool, for the episode")

    def _numbers(self, info: Any) -> dict[str, float]:
        if isinstance(info, Mapping):
            return {key: float(value) for key, value in info.items() if _is_number(value)}
        raise EnvContractError(f"{self.where()}: the info is {info!r}; it must be a dict")


def _is_number(value: Any) -> bool:
    """A bool, too, and an array without a dimension, of whatever library."""
    if isinstance(value, int | float | np.bool_ | np.number):
        return True
    if not hasattr(value, "dtype") or np.shape(value) != ():
        return False
    try:
        float(value)  # and not numpy's: a tensor may be on a GPU
    except (TypeError, ValueError):
        return False
    return getattr(value.dtype, "kind", "f") in "biuf"


def close(env: MultiAgentEnv) -> None:
    """Closes it; an error in that, of a simulator that is already gone, spoils no run."""
    try:
        env.close()
    except Exception as error:
        name = getattr(env, "name", type(env).__name__)
        warnings.warn(f"{name} cannot be closed ({type(error).__name__}: {error})", RuntimeWarning, stacklevel=2)


def made(make: EnvFactory) -> MultiAgentEnv:
    """What it makes; EnvContractError where that is no environment of ours."""
    env = make()
    if not isinstance(env, MultiAgentEnv):
        raise EnvContractError(
            f"{type(env).__module__}.{type(env).__name__} is no envs.multiagentenv.MultiAgentEnv: derive it from that"
        )
    return env


def check_dims(dims: dict[str, Any], name: str) -> dict[str, int]:
    for key in _INFO_KEYS:
        value = dims.get(key)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise EnvContractError(f"{name}.get_env_info()[{key!r}] is {value!r}, expected a whole number from 1")
    return {k: int(dims[k]) for k in _INFO_KEYS}


class SerialVectorEnv(VectorEnv):
    """Environments stepped one after another in this process."""

    def __init__(
        self, factories: Sequence[EnvFactory], common_reward: bool = True, seeds: Sequence[int] | None = None
    ) -> None:
        envs: list[MultiAgentEnv] = []
        try:
            for make in factories:
                envs.append(made(make))
            dims = check_dims(envs[0].get_env_info(), type(envs[0]).__name__)
        except BaseException:
            for env in envs:
                close(env)
            raise
        super().__init__(dims, len(envs), common_reward)
        self._take_identity(envs[0])
        self._group = EnvGroup(envs, self._arrays, 0, common_reward, seeds)

    @property
    def envs(self) -> list[MultiAgentEnv]:
        return self._group.envs

    def reset(self) -> None:
        try:
            self._group.reset(self.episode)
        except Exception as error:
            self._annotate(error)
            raise
        self.episode += 1

    def step(self, actions: np.ndarray, active: np.ndarray) -> Ended:
        try:
            return self._group.step(actions, active)
        except Exception as error:
            self._annotate(error)
            raise

    def _annotate(self, error: Exception) -> None:
        if not isinstance(error, EnvContractError):
            error.add_note(f"in {self._group.where()}")

    def render(self) -> Any:
        return self.envs[0].render()

    def show(self) -> None:
        self.envs[0].show()

    def save_replay(self) -> None:
        for env in self.envs:
            env.save_replay()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for env in self.envs:
                close(env)


class SingleEnv(MultiAgentEnv):
    """The only environment of a natively batched VectorEnv, behind the contract of a single one.

    vector: one with E = 1 and a method seed(environment, seed), which starts a random stream anew at the next reset.
    """

    def __init__(self, vector: Any, name: str) -> None:
        self._vector, self.name = vector, name
        self._active = np.ones(1, bool)
        self.n_agents, self.episode_limit = vector.n_agents, vector.episode_limit
        self.backend, self.banner, self.info = vector.backend, vector.banner, vector.info
        self.render_fps = vector.render_fps

    def seed(self, seed: int | None = None) -> int | None:
        if seed is not None:
            self._vector.seed(0, seed)
        return seed

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list[np.ndarray], dict]:
        self.seed(seed)
        self._vector.reset()
        return self.get_obs(), {}

    def step(self, actions: Sequence[int]) -> tuple[list[np.ndarray], Any, bool, bool, dict]:
        ended = self._vector.step(np.asarray(actions, np.int64).reshape(1, -1), self._active)
        reward = self._vector.reward[0]
        terminated, truncated = bool(self._vector.terminated[0]), bool(self._vector.truncated[0])
        info = ended[0][1] if ended else {}
        return self.get_obs(), reward.tolist(), terminated, truncated, info

    def get_obs(self) -> list[np.ndarray]:
        return list(self._vector.obs[0].copy())

    def get_state(self) -> np.ndarray:
        return self._vector.state[0].copy()

    def get_obs_size(self) -> int:
        return self._vector.obs_size

    def get_state_size(self) -> int:
        return self._vector.state_size

    def get_total_actions(self) -> int:
        return self._vector.n_actions

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        return self._vector.avail_actions[0, agent_id].tolist()

    def render(self) -> Any:
        return self._vector.render()

    def close(self) -> None:
        self._vector.close()
