"""Gymnasium environments of several agents: Level-Based Foraging, RWARE, MPE and others of the same form.

The environment's spaces are tuples with one entry an agent (Discrete actions), it takes a list of actions and gives a
list of observations and of rewards. Shorter observations are padded with zeros, smaller action sets are masked.
MPE (package mpe2) has PettingZoo's parallel form, which `pettingzoo_adapter` brings into this one.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from . import drawing
from .multiagentenv import EnvContractError, MissingBackendError, MultiAgentEnv, nearest

EXAMPLE = "Foraging-2s-8x8-2p-2f-coop-v3"
PAPER_TASKS = (  # the LBF tasks of the MMSA paper, under their -v3 names
    "Foraging-10x10-3p-5f-v3",
    "Foraging-10x10-4p-3f-v3",
    "Foraging-2s-8x8-2p-2f-coop-v3",
    "Foraging-2s-10x10-3p-3f-v3",
)
RWARE_LISTING = (
    ("rware-tiny-2ag-v2", "2 robots in the smallest warehouse (default)"),
    (
        "rware-SIZE-Nag[-easy|-hard]-v2",
        "pattern: SIZE tiny, small, medium or large, N 1-19 robots; requests double or half (2 robots or more)",
    ),
)
MPE_LISTING = (
    ("pz-mpe-simple-spread-v3", "three agents share out three landmarks (default)"),
    ("pz-mpe-simple-speaker-listener-v4", "one sees the goal and speaks, the other one moves"),
    ("pz-mpe-simple-reference-v3", "both speak and move, each knows the other's goal"),
    ("pz-mpe-simple-formation-v1", "agents form a circle around a landmark"),
    ("pz-mpe-simple-line-v1", "agents form a line between two landmarks"),
    ("pz-mpe-NAME-vN", "pattern: any other task of mpe2; most of those have opposing teams"),
)
_MPE = "pz-mpe-"
# Begin of a key -> package that registers it.
PACKAGES = {"Foraging": "lbforaging", "rware": "rware", _MPE: "mpe2"}
_ELSEWHERE = {"vmas-": "vmas", "matrixgames:": "matrix"}  # upstream's keys of what is no gymma environment here
_LIMITS = {"rware": "max_steps", _MPE: "max_cycles"}  # time limits that are an argument: time_limit takes their place
_FIVE_FOODS = re.compile(r"(Foraging(?:-2s)?-\d+x\d+-\d+p)-5f((?:-coop)?-v3)")


class GymmaArgs(BaseModel):
    """env_args of gymma."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    key: str
    time_limit: int | None = Field(None, ge=1)
    max_player_level: int | None = Field(None, ge=1)
    action_masks: bool = False
    make: dict[str, Any] = {}

    @field_validator("key", mode="before")
    @classmethod
    def _given(cls, key: Any) -> Any:
        if key in (None, ""):
            raise ValueError(f"an environment must be named, for example env_args.key={EXAMPLE}")
        return key

    @field_validator("key")
    @classmethod
    def _known(cls, key: str) -> str:
        try:
            spec = find_spec(key)
        except MissingBackendError as error:
            raise ValueError(str(error)) from error
        if spec.kwargs.get("request_queue_size") == 0:  # half a request for each robot, and one robot
            raise ValueError(f"{key} requests nothing, so that no reward can come: take 2 robots or more, or no -hard")
        return key

    @field_validator("max_player_level", "action_masks")
    @classmethod
    def _of_foraging(cls, value: int | None, info: ValidationInfo) -> int | None:
        key = info.data.get("key", "Foraging")
        if value and not key.rpartition(":")[2].startswith("Foraging"):
            raise ValueError(f"only Foraging-... environments have {info.field_name}, {key} has none")
        return value

    @field_validator("make")
    @classmethod
    def _has_no_other_key(cls, make: dict[str, Any]) -> dict[str, Any]:
        if limits := sorted(set(make) & {*_LIMITS.values(), "max_episode_steps"}):
            raise ValueError(f"{', '.join(limits)} cannot be set here: env_args.time_limit is the limit's key")
        if "max_player_level" in make:
            raise ValueError("max_player_level cannot be set here: it has a key of its own, env_args.max_player_level")
        return make


def find_spec(key: str) -> Any:
    """The gymnasium spec of `key`; registers the Foraging ids with 5 foods, which the package leaves out.

    Raises ValueError with the nearest names for an unknown key, MissingBackendError where its package is missing.
    """
    import gymnasium

    for begin, config in _ELSEWHERE.items():
        if key.startswith(begin):
            raise ValueError(f"{key} is not in gymma: use --env-config={config}, --list names its keys")
    module, _, key = key.rpartition(":")  # module:id, as upstream's users write it
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever its code raises
            absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
            why = "no such module; its folder goes on PYTHONPATH" if absent else f"{type(error).__name__}: {error}"
            raise MissingBackendError(f"{module}:{key}: {module} cannot be imported ({why})") from error
    if package := _package_of(key):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise MissingBackendError(f"{key} needs the package {package}: pip install {package}") from error
    if key.startswith(_MPE) and key not in gymnasium.registry:
        from .pettingzoo_adapter import mpe_entry_point

        if (make := mpe_entry_point(key)) is not None:
            gymnasium.register(id=key, entry_point=make, max_episode_steps=25)
    if (match := _FIVE_FOODS.fullmatch(key)) and key not in gymnasium.registry:
        four = gymnasium.registry.get(f"{match[1]}-4f{match[2]}")
        if four is not None:
            gymnasium.register(id=key, entry_point=four.entry_point, kwargs={**four.kwargs, "max_num_food": 5})
    try:
        return gymnasium.spec(key)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        with contextlib.suppress(ModuleNotFoundError):  # a misspelt key may be meant for it
            importlib.import_module("lbforaging")
        from .pettingzoo_adapter import mpe_keys

        names = [*PAPER_TASKS, *mpe_keys()]
        names += [name for name in gymnasium.registry if name not in names]
        raise ValueError(f"{key!r} is no known environment.{nearest(key, names)}") from error


def require(**env_args: Any) -> None:
    """Raises where there is no such environment here, or none with these arguments: of some only an episode tells."""
    env = GymmaEnv(**env_args)
    try:
        if env_args.get("make"):
            env.reset(seed=0)
            env.step([mask.index(1) for mask in env.get_avail_actions()])
    except Exception as error:  # of the package
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"env_args.make={env_args['make']}: {env.name} cannot be played with it: {why}") from error
    finally:
        env.close()


def plain_key(key: str) -> str:
    """The key without its module where find_spec imports that one anyway, so that a task has one name in reports."""
    module, _, plain = key.rpartition(":")
    return plain if module == _package_of(plain) else key


def _package_of(key: str) -> str | None:
    """The package that registers ids with such a beginning."""
    return next((package for begin, package in PACKAGES.items() if key.lower().startswith(begin.lower())), None)


def _for_all(flag: Any) -> bool:
    """One flag of the episode, where an environment may give one for each agent."""
    return flag if isinstance(flag, bool) else bool(np.all(flag))


def _is_foraging(raw: Any) -> bool:
    """Whether it is a Level-Based Foraging environment, or one made of it."""
    return any(kind.__module__.partition(".")[0] == "lbforaging" for kind in type(raw).__mro__)


def _limit_argument(key: str) -> str:
    """The argument that is the time limit of such environments, "" where there is none."""
    return next((name for begin, name in _LIMITS.items() if key.startswith(begin)), "")


def _given(make: Mapping[str, Any]) -> str:
    """What an error begins with that the arguments may be to blame for."""
    return f"env_args.make={make}: " if make else ""


def _made(spec: Any, key: str, make: dict[str, Any], max_player_level: int | None) -> Any:
    """The environment without gymnasium's wrappers of call order and time limit, which cost a third of a step:
    GymmaEnv does both jobs itself. ValueError where the package refuses the arguments.
    """
    import gymnasium

    changes = _with_members(spec, make)
    if max_player_level is not None:
        changes["max_player_level"] = max_player_level
    argument = _limit_argument(key)
    if argument in spec.kwargs:
        changes = {**changes, argument: None}
    try:
        env = gymnasium.make(key, disable_env_checker=True, max_episode_steps=-1, **changes)  # -1: no TimeLimit
    except Exception as error:  # of the package: its own words may name the argument
        why = str(error) or type(error).__name__
        raise ValueError(f"{_given(make)}{key} cannot be made with {changes}: {why}") from error
    while isinstance(env, gymnasium.wrappers.OrderEnforcing):
        env = env.env
    return env


def _with_members(spec: Any, make: dict[str, Any]) -> dict[str, Any]:
    """Where an argument is an Enum's member, as RWARE's reward_type, the one of the given name or value; ValueError
    where there is none. The packages compare with members, and take no name for one."""
    changes = dict(make)
    for name, value in make.items():
        if isinstance(default := spec.kwargs.get(name), Enum):
            members = {
                text: member for member in type(default) for text in (member.name.lower(), str(member.value).lower())
            }
            if (text := str(value).lower()) not in members:
                names = ", ".join(member.name for member in type(default))
                raise ValueError(f"env_args.make={make}: {name} must be one of {names}, not {value!r}")
            changes[name] = members[text]
    return changes


def _limit_of(spec: Any, key: str, raw: Any, time_limit: int | None) -> int:
    """Steps of an episode at most. ValueError where there is no limit, or one beyond the environment's own end."""
    argument = _limit_argument(key)
    own = spec.kwargs.get(argument) or getattr(raw, "_max_episode_steps", None)
    if time_limit and own and not argument and time_limit > own:
        raise ValueError(f"env_args.time_limit={time_limit}: {key} ends by itself after {own} steps; give at most that")
    limit = time_limit or spec.max_episode_steps or own  # the registry's is not built in: see _made
    if not limit:
        raise ValueError(f"{key} has no time limit of its own: set env_args.time_limit")
    return int(limit)


def _spaces_of(env: Any, key: str, make: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Each agent's Box and Discrete; EnvContractError for spaces of another form."""
    from gymnasium.spaces import Box, Discrete, Tuple

    seen, taken = env.observation_space, env.action_space
    if not (isinstance(seen, Tuple) and isinstance(taken, Tuple)):
        raise EnvContractError(f"{key}: observation and action space must be tuples with one entry for each agent")
    boxes = [space for space in seen if isinstance(space, Box)]
    choices = [space for space in taken if isinstance(space, Discrete)]
    if len(boxes) != len(seen) or len(choices) != len(taken) or len(boxes) != len(choices):
        kinds = ", ".join(sorted({type(space).__name__ for space in (*seen, *taken)}))
        raise EnvContractError(
            f"{_given(make)}{key}: a Box observation and Discrete actions are needed for each agent, not {kinds}"
        )
    return boxes, choices


class GymmaEnv(MultiAgentEnv):
    """A gymnasium environment behind the contract.

    key: gymnasium id. time_limit: steps after which the episode is truncated, None for the environment's own limit.
    max_player_level: highest level of an LBF player (None: that of the id, 2 for -v3; 3 gives the older -v2 levels).
    action_masks: LBF's own rules mask actions without effect: steps off the field or onto food, and loading
    where no food is beside the agent. Where sight is limited they tell an agent of the field's lower and right edge,
    which it does not see. False leaves everything available, as EPyMARL does.
    make: more arguments of the environment's own constructor, as {"N": 5} for MPE.
    With common_reward the reward is the sum or mean of the agents' rewards.

    LBF ends its own 50 steps with `terminated`: that limit is part of the task and stays so, unless time_limit names
    the same number; more is refused. RWARE says `terminated` after 500 steps, too, but its task has no end and its
    robots do not see the time: here that is `truncated`, as is a limit set here or by gymnasium's registry.
    """

    def __init__(
        self,
        key: str,
        time_limit: int | None = None,
        max_player_level: int | None = None,
        action_masks: bool = False,
        make: dict[str, Any] | None = None,
        seed: int | None = None,
        common_reward: bool = True,
        reward_scalarisation: str = "sum",
    ) -> None:
        spec = find_spec(key)
        key, make = key.rpartition(":")[2], dict(make or {})
        GymmaArgs(
            key=key, time_limit=time_limit, max_player_level=max_player_level, action_masks=action_masks, make=make
        )
        self._env, self.name = _made(spec, key, make, max_player_level), key
        raw = self._env.unwrapped
        self.episode_limit = _limit_of(spec, key, raw, time_limit)
        self._foraging = _is_foraging(raw)
        self._clock_set = self._foraging and time_limit is not None and time_limit == raw._max_episode_steps

        boxes, choices = _spaces_of(self._env, key, make)
        self.n_agents = len(choices)
        if not self.n_agents:
            raise ValueError(f"env_args.make={make}: {key} has no agents then")
        sizes = [int(np.prod(box.shape)) for box in boxes]
        counts = [int(choice.n) for choice in choices]
        self._obs_size, self._n_actions = max(sizes), max(counts)
        self._even = all(box.shape == (self._obs_size,) for box in boxes)
        self._masked = action_masks
        self._avail = [[int(a < count) for a in range(self._n_actions)] for count in counts]
        self._first_action = [int(choice.start) for choice in choices]

        self._next_seed = seed
        self._common, self._mean = common_reward, reward_scalarisation == "mean"
        self._t = 0
        self._raw: Sequence[np.ndarray] = [np.zeros(n, np.float32) for n in sizes]
        package = getattr(raw, "package", type(raw).__module__.split(".")[0])
        try:
            self.backend = f"{package} {version(package)}"
        except PackageNotFoundError:
            self.backend = package
        if common_reward and (opponents := getattr(raw, "opponents", [])):
            self.banner = (
                f"{key} has opposing teams, and with common_reward=True all agents share one reward, so that "
                f"{', '.join(opponents)} and the others learn to help each other. common_reward=False gives each agent "
                "its own, which --config=iql and --config=ippo learn from."
            )
        self.info = {"key": key, "episode_limit": self.episode_limit}
        if max_player_level is not None:
            self.info["max_player_level"] = max_player_level
        if action_masks:
            self.info["action_masks"] = True
        if make:
            self.info["make"] = make

    def seed(self, seed: int | None = None) -> int | None:
        self._next_seed = seed
        return seed

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[list[np.ndarray], dict]:
        seed = self._next_seed if seed is None else seed
        self._next_seed = None
        if seed is not None and self._foraging:
            # It keeps its players off the cells where they stood last: a used environment would not repeat a seed.
            for player in self._env.unwrapped.players:
                player.position = None
        self._raw, info = self._env.reset(seed=seed, options=options)
        self._t = 0
        return self.get_obs(), info

    def step(self, actions: Sequence[int]) -> tuple[list[np.ndarray], Any, bool, bool, dict]:
        if any(self._first_action):
            actions = [a + first for a, first in zip(actions, self._first_action, strict=True)]
        self._raw, rewards, terminated, truncated, info = self._env.step(actions)
        self._t += 1
        if not (isinstance(terminated, bool) and isinstance(truncated, bool)):  # nobody may be left for both reasons
            for name, flag in (("terminated", terminated), ("truncated", truncated)):
                if isinstance(flag, Mapping) or np.asarray(flag).dtype.kind not in "biuf":
                    raise self._of_another_form(name, flag)
            terminated, truncated = _for_all(terminated), _for_all(np.logical_or(terminated, truncated))
        if terminated and self._clock_set and self._t >= self.episode_limit:  # by its clock, or since all food is eaten
            terminated = not np.any(self._env.unwrapped.field)
        truncated = not terminated and (truncated or self._t >= self.episode_limit)
        return self.get_obs(), self._reward(rewards), terminated, truncated, info

    def _reward(self, rewards: Any) -> float | list[float]:
        if isinstance(rewards, Mapping):
            raise self._of_another_form("the reward", rewards)
        if isinstance(rewards, list | tuple) or np.ndim(rewards):
            if len(rewards) != self.n_agents:
                raise self._of_another_form("the reward", rewards)
            try:
                if not self._common:
                    return [float(r) for r in rewards]
                total = float(sum(rewards))
            except TypeError:  # each one's is an array
                raise self._of_another_form("the reward", rewards) from None
            return total / self.n_agents if self._mean else total
        return float(rewards) if self._common else [float(rewards)] * self.n_agents

    def _of_another_form(self, what: str, value: Any) -> EnvContractError:
        return EnvContractError(
            f"{self.info['key']}: {what} is {value!r}; it must be one value, or a list of one an agent"
        )

    def get_obs(self) -> list[np.ndarray]:
        return list(self._raw) if self._even else [self._padded(o) for o in self._raw]

    def _padded(self, obs: np.ndarray) -> np.ndarray:
        row = np.zeros(self._obs_size, np.float32)
        flat = np.reshape(obs, -1)
        row[: flat.size] = flat
        return row

    def fill(self, obs: np.ndarray, state: np.ndarray, avail: np.ndarray) -> None:
        if self._even:
            np.concatenate(self._raw, out=state)
            obs.reshape(-1)[:] = state
        else:
            obs[:] = self.get_obs()
            state[:] = obs.reshape(-1)
        if self._masked or self._t == 0:  # else they never change
            avail[:] = self.get_avail_actions()

    def get_obs_size(self) -> int:
        return self._obs_size

    def get_total_actions(self) -> int:
        return self._n_actions

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        if self._masked:
            raw = self._env.unwrapped
            valid = {action.value for action in raw._valid_actions[raw.players[agent_id]]}
            return [int(a in valid) for a in range(self._n_actions)]
        return list(self._avail[agent_id])

    def render(self) -> Any:
        raw = self._env.unwrapped
        if self._foraging:  # its own pictures need a display
            players = [((int(p.position[0]), int(p.position[1])), int(p.level)) for p in raw.players]
            return drawing.foraging(np.asarray(raw.field), players)
        try:
            raw.render_mode = "rgb_array"
            picture = self._env.render()
        except Exception as error:  # of a window system's library: there is no common class
            raise NotImplementedError(
                f"{self.name} has no pictures without a display ({type(error).__name__}: {error})"
            ) from error
        if picture is None:
            raise NotImplementedError(f"{self.name} has no pictures")
        return picture

    def show(self) -> None:
        self._env.unwrapped.render_mode = "human"
        self._env.render()

    def close(self) -> None:
        self._env.close()
