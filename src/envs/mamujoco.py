"""Multi-Agent MuJoCo (gymnasium-robotics, mamujoco_v1) with discretised torques: a robot's joints shared out to agents.

`key` names robot and factorisation, HalfCheetah-6x1: the package's own ones, and any NxK whose N * K is the number of
joints (Ant-8x1, Walker2d-6x1: the joints in the order of the package's first factorisation, K after K); `partition`
gives any other one.

Each joint has `bins` torques, evenly spaced over its whole range, zero among them (3: bang-off-bang, as in DecQN, arXiv
2210.12566). An agent with d joints has bins**d actions where these are at most 81; where they are more, each of its
joints becomes an agent of its own (a virtual agent) that sees what the whole agent sees.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from .multiagentenv import EnvContractError, MissingBackendError, MultiAgentEnv, nearest, silence

MAX_ACTIONS = 81  # of one agent
PAPER_TASKS = ("HalfCheetah-6x1", "Hopper-3x1", "Ant-8x1", "Walker2d-6x1")
JOINTS = {
    "HalfCheetah": 6, "Hopper": 3, "Ant": 8, "Walker2d": 6, "Swimmer": 2, "Reacher": 2, "Pusher": 7, "Humanoid": 17,
    "HumanoidStandup": 17,
}  # fmt: skip
FACTORISATIONS = {  # the package's own; the first one gives the order of the joints
    "HalfCheetah": ("2x3", "6x1"),
    "Hopper": ("3x1",),
    "Ant": ("4x2", "2x4", "2x4d"),
    "Walker2d": ("2x3",),
    "Swimmer": ("2x1",),
    "Reacher": ("2x1",),
    "Pusher": ("3p",),
    "Humanoid": ("9|8",),
    "HumanoidStandup": ("9|8",),
}
LIMITS = {"Reacher": 50, "Pusher": 100}  # steps after which a robot's own episode is cut off
LIMIT = 1000  # the others'
MANY_SEGMENTS = ("ManySegmentSwimmer", "ManySegmentAnt")  # NxK: N agents of K segments
LISTING = (
    *((task, "a task of the MMSA paper: an agent for each joint") for task in PAPER_TASKS),
    *(
        (f"{robot}-{parts}", "joints of an agent together; virtual agents where bins**joints > 81")
        for robot, all_parts in FACTORISATIONS.items()
        for parts in all_parts
        if f"{robot}-{parts}" not in PAPER_TASKS
    ),
    ("ManySegmentSwimmer-NxK", "N agents of K segments each (likewise ManySegmentAnt)"),
    ("ROBOT-NxK", "pattern: any N * K that is the number of joints (with partition: any name)"),
)
CURE = "pip install -e '.[mujoco]'"
PICTURE = (320, 240)  # pixels: an episode is up to 1000 pictures, drawn by the CPU
OPENGL_CURE = "apt-get install libegl1 libgl1-mesa-dri (or libosmesa6, with MUJOCO_GL=osmesa)"


def _grid(parts: str) -> tuple[int, int] | None:
    """(N, K) of "NxK", None for another text."""
    match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", parts)
    return (int(match[1]), int(match[2])) if match else None


class MamujocoArgs(BaseModel):
    """env_args of mamujoco."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    key: str = "HalfCheetah-6x1"
    bins: Literal[3, 5, 7] = 3
    obsk: int = Field(1, ge=0)
    partition: list[list[int]] | None = None
    time_limit: int | None = Field(None, ge=1)

    @field_validator("key")
    @classmethod
    def _robot(cls, key: str) -> str:
        robot, _, parts = key.partition("-")
        robots = [*JOINTS, *MANY_SEGMENTS]
        if robot not in robots:
            raise ValueError(
                f"{robot} is no robot of Multi-Agent MuJoCo.{nearest(robot, robots)} (ROBOT-FACTORISATION)"
            )
        if not parts:
            example = FACTORISATIONS[robot][0] if robot in FACTORISATIONS else "4x2"
            raise ValueError(f"the factorisation is missing, as in {robot}-{example}")
        return key

    @field_validator("partition")
    @classmethod
    def _each_joint_once(cls, partition: list[list[int]] | None, info: ValidationInfo) -> list[list[int]] | None:
        robot = info.data.get("key", "").partition("-")[0]
        if partition is None or not robot:
            return partition
        if robot not in JOINTS:
            raise ValueError(f"must be null with {robot}, whose factorisation NxK also says how many segments it has")
        given, wanted = sorted(itertools.chain(*partition)), list(range(JOINTS[robot]))
        if given != wanted or not all(partition):
            raise ValueError(f"must name each joint of {robot}, 0 to {wanted[-1]}, once, as in [[0, 1], [2, ...], ...]")
        return partition

    @field_validator("time_limit")
    @classmethod
    def _within_its_own(cls, time_limit: int | None, info: ValidationInfo) -> int | None:
        robot = info.data.get("key", "").partition("-")[0]
        own = LIMITS.get(robot, LIMIT)
        if robot and time_limit and time_limit > own:
            raise ValueError(f"{robot}'s episodes are cut off after {own} steps by itself; give at most that")
        return time_limit

    @model_validator(mode="after")
    def _factorisation(self) -> MamujocoArgs:
        robot, _, parts = self.key.partition("-")
        own, grid = FACTORISATIONS.get(robot, ()), _grid(parts)
        if self.partition is not None:
            if parts in own or grid:
                raise ValueError(f"key: {self.key} says another factorisation than partition: name it {robot}-mine")
            return self
        if robot in MANY_SEGMENTS and not grid:
            raise ValueError(f"key: {self.key}: {robot} needs NxK, N agents of K segments, as in {robot}-4x2")
        if robot == "ManySegmentSwimmer" and grid == (1, 1):
            raise ValueError(f"key: {self.key} has no joint, since one segment has none; {robot}-2x1 has")
        if robot in JOINTS and parts not in own and (grid is None or grid[0] * grid[1] != JOINTS[robot]):
            ways = ", ".join(dict.fromkeys([*own, f"{JOINTS[robot]}x1"]))
            raise ValueError(
                f"key: {robot} has {JOINTS[robot]} joints, which {parts!r} does not share out; "
                f"known: {ways}, any NxK with N * K = {JOINTS[robot]}, or give partition"
            )
        return self


def require() -> None:
    """MissingBackendError where gymnasium-robotics or MuJoCo is not installed; imports both."""
    _import_package()


def _import_package() -> tuple[Any, Any]:
    """gymnasium-robotics' multi-agent module and its graph of joints, without what they print at import."""
    try:
        with silence():
            import mujoco
            from gymnasium_robotics.envs.multiagent_mujoco import mujoco_multi, obsk
    except ImportError as error:
        raise MissingBackendError(
            f"Multi-Agent MuJoCo needs the packages gymnasium-robotics and mujoco ({error}): {CURE}"
        ) from error
    mujoco.set_mju_user_warning(_warn)  # else MuJoCo writes MUJOCO_LOG.TXT into the working directory
    return mujoco_multi, obsk


def _warn(message: str) -> None:
    """MuJoCo's warnings as Python's; not those about the package's own model files, which no reader can mend."""
    if "deprecated" not in message:
        warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)


def torques(limits: Sequence[float] | np.ndarray, bins: int) -> np.ndarray:
    """The torques that each action stands for, (bins**d, d) for the d joints with these limits.

    Action a is a number of d digits to the base `bins`, the first joint's digit first; digit 0 is -limit, the middle
    one exactly 0, the last one +limit.
    """
    half = bins // 2
    levels = np.arange(-half, half + 1) / half
    digits = np.array(list(itertools.product(range(bins), repeat=len(limits))), np.int64).reshape(-1, len(limits))
    return levels[digits] * np.asarray(limits)


class _Actor(NamedTuple):
    """One agent of ours: some joints of one agent of the package's."""

    part: int  # the package's agent
    joints: slice  # within its torques
    table: np.ndarray  # (actions, joints): what each action does


def actors(parts: Sequence[np.ndarray], bins: int) -> list[_Actor]:
    """The agents, for parts that are given by their joints' limits, each (d,): virtual ones beyond MAX_ACTIONS."""
    found = []
    for part, limits in enumerate(parts):
        d = len(limits)
        if bins**d <= MAX_ACTIONS:
            found.append(_Actor(part, slice(0, d), torques(limits, bins)))
        else:
            found += [_Actor(part, slice(j, j + 1), torques(limits[j : j + 1], bins)) for j in range(d)]
    return found


class MamujocoEnv(MultiAgentEnv):
    """A robot of MuJoCo whose joints are shared out to agents, with the observations of gymnasium-robotics.

    key: robot and factorisation. bins: torques of each joint. obsk: an agent also sees the joints up to so many away.
    partition: the joints (numbers of the robot's actuators) of each agent. time_limit: steps until truncation, None
    for the robot's own (LIMIT, of some LIMITS), which is also the most.

    Observations are padded with zeros to the longest, smaller action sets are masked. The state is the robot's whole
    observation, as it is: positions in m and rad, velocities in m/s and rad/s, with no bound. The reward (for moving
    forward, less the cost of torques) is the team's: with common_reward it is the reward as it is, else each agent
    receives it. A fall is `terminated`, where the robot can fall; a time limit is `truncated`.
    """

    def __init__(
        self,
        key: str = "HalfCheetah-6x1",
        bins: int = 3,
        obsk: int = 1,
        partition: list[list[int]] | None = None,
        time_limit: int | None = None,
        seed: int | None = None,
        common_reward: bool = True,
        reward_scalarisation: str = "sum",
    ) -> None:
        args = MamujocoArgs(key=key, bins=bins, obsk=obsk, partition=partition, time_limit=time_limit)  # type: ignore[arg-type]
        self._env = _make(args)
        # The package sorts what an agent sees by the joints' labels. Three joints of Pusher have the same one: their
        # order would be that of a set, another one in each environment of a run.
        for by_distance in self._env.k_dicts:
            for nodes in by_distance.values():
                nodes.sort(key=lambda node: (node.label, node.act_ids))
        robot = self._env.single_agent_env
        low, high = robot.action_space.low, robot.action_space.high
        if not np.array_equal(low, -high):
            raise EnvContractError(f"{key}: torques from {low} to {high} have no middle at 0")
        self.episode_limit = args.time_limit or robot.spec.max_episode_steps

        joints = [[node.act_ids for node in part] for part in self._env.agent_action_partitions]
        self._actors = actors([high[part] for part in joints], args.bins)
        self._names = list(self._env.possible_agents)
        self._torques = {name: np.zeros(len(part)) for name, part in zip(self._names, joints, strict=True)}
        counts = [len(actor.table) for actor in self._actors]
        self.n_agents, self._n_actions = len(self._actors), max(counts)
        self._avail = [[int(a < count) for a in range(self._n_actions)] for count in counts]
        sizes = [self._env.observation_space(name).shape[0] for name in self._names]
        self._obs_size, self._state_size = max(sizes), robot.observation_space.shape[0]
        self._obs = np.zeros((self.n_agents, self._obs_size), np.float32)
        self._state = np.zeros(self._state_size, np.float32)

        self._next_seed, self._common = seed, common_reward
        self._t = 0
        self.name = key
        self.render_fps = round(1 / robot.unwrapped.dt)
        self.backend = f"MuJoCo {version('mujoco')} (gymnasium-robotics {version('gymnasium-robotics')})"
        self.info = {
            "key": key,
            "episode_limit": self.episode_limit,
            "joints": [
                [joints[a.part][j] for j in range(*a.joints.indices(len(joints[a.part])))] for a in self._actors
            ],
            "virtual_agents": len(self._actors) > len(joints),
        }

    def seed(self, seed: int | None = None) -> int | None:
        self._next_seed = seed
        return seed

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list[np.ndarray], dict]:
        seed = self._next_seed if seed is None else seed
        self._next_seed = None
        observations, _ = self._env.reset(seed=seed, options=options)
        self._t = 0
        self._see(observations)
        return self.get_obs(), {}

    def step(self, actions: Sequence[int]) -> tuple[list[np.ndarray], Any, bool, bool, dict]:
        for actor, action in zip(self._actors, actions, strict=True):
            if not 0 <= action < len(actor.table):
                raise EnvContractError(f"{self.name}: action {action} is not in 0..{len(actor.table) - 1}")
            self._torques[self._names[actor.part]][actor.joints] = actor.table[action]
        observations, rewards, ends, cuts, infos = self._env.step(self._torques)
        first = self._names[0]  # reward, end and info are the robot's, the same for all
        self._t += 1
        self._see(observations)
        terminated = bool(ends[first])
        truncated = not terminated and (self._t >= self.episode_limit or bool(cuts[first]))
        reward = float(rewards[first])
        info = {key: float(infos[first][key]) for key in ("x_position",) if key in infos[first]}
        return self.get_obs(), reward if self._common else [reward] * self.n_agents, terminated, truncated, info

    def _see(self, observations: dict[str, np.ndarray]) -> None:
        self._obs = np.zeros((self.n_agents, self._obs_size), np.float32)  # a new one: the old one was handed out
        for i, actor in enumerate(self._actors):
            seen = observations[self._names[actor.part]]
            self._obs[i, : len(seen)] = seen
        self._state = self._env.state().astype(np.float32)

    def get_obs(self) -> list[np.ndarray]:
        return list(self._obs)

    def get_state(self) -> np.ndarray:
        return self._state

    def fill(self, obs: np.ndarray, state: np.ndarray, avail: np.ndarray) -> None:
        obs[:], state[:] = self._obs, self._state
        if self._t == 0:  # the masks never change
            avail[:] = self._avail

    def get_obs_size(self) -> int:
        return self._obs_size

    def get_state_size(self) -> int:
        return self._state_size

    def get_total_actions(self) -> int:
        return self._n_actions

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        return list(self._avail[agent_id])

    def render(self) -> np.ndarray:
        """MissingBackendError where OpenGL cannot draw without a display."""
        if sys.platform == "linux":
            os.environ.setdefault("MUJOCO_GL", "egl")  # draws without a display
        picture, problem = None, ""
        with silence():  # what failed is also deleted in here, with complaints of its own
            try:
                renderer = self._env.single_agent_env.unwrapped.mujoco_renderer
                renderer.width, renderer.height = PICTURE  # counts at the first picture
                picture = renderer.render("rgb_array")
            except Exception as error:  # of an OpenGL library: there is no common class
                problem = f"{type(error).__name__}: {error}"
        if picture is None:
            raise MissingBackendError(
                f"MuJoCo cannot draw with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} ({problem}): {OPENGL_CURE}"
            )
        return picture

    def close(self) -> None:
        self._env.close()


def _make(args: MamujocoArgs) -> Any:
    """The package's environment, an agent for each part."""
    mujoco_multi, obsk = _import_package()
    robot, _, parts = args.key.partition("-")
    if robot in MANY_SEGMENTS:
        with _one_at_a_time(Path(mujoco_multi.__file__).parent):  # it writes a model file there, and removes it
            return mujoco_multi.parallel_env(robot, parts, agent_obsk=args.obsk)
    if args.partition is None and parts in FACTORISATIONS[robot]:
        return mujoco_multi.parallel_env(robot, parts, agent_obsk=args.obsk)
    groups, edges, root = obsk.get_parts_and_edges(robot, FACTORISATIONS[robot][0])
    nodes = list(itertools.chain(*groups))
    if args.partition is not None:
        by_actuator = {node.act_ids: node for node in nodes}
        partition = [tuple(by_actuator[joint] for joint in group) for group in args.partition]
    else:
        n, k = (int(number) for number in parts.split("x"))
        partition = [tuple(nodes[i * k : (i + 1) * k]) for i in range(n)]
    factorisation = {"partition": partition, "edges": edges, "globals": root}
    return mujoco_multi.parallel_env(robot, parts, agent_obsk=args.obsk, agent_factorization=factorisation)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Only one process is in here for this folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
