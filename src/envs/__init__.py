"""Environments by name. Importing this module is cheap: each simulator is imported when it is first used.

REGISTRY: name -> callable(**env_args, seed=, common_reward=, reward_scalarisation=) -> MultiAgentEnv.
ARGS: name -> pydantic model of env_args. make_vector_env(args) builds what the runner steps. describe() lists it all.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from . import gymma, mamujoco, matrix_game, sc2v2, smax, vmas
from .multiagentenv import EPISODE_LOST, EnvContractError, MissingBackendError, MultiAgentEnv, nearest
from .vector import SerialVectorEnv, VectorEnv, env_seeds
from .workers import EnvWorkerError, WorkerVectorEnv

__all__ = [
    "ARGS",
    "EPISODE_LOST",
    "REGISTRY",
    "EnvContractError",
    "EnvListing",
    "EnvWorkerError",
    "MissingBackendError",
    "MultiAgentEnv",
    "VectorEnv",
    "describe",
    "make_vector_env",
    "register",
    "require",
    "simulator_suffix",
]

DISPLAYS = {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"}  # variables, one of which names it

REGISTRY: dict[str, Callable[..., MultiAgentEnv]] = {
    "gymma": gymma.GymmaEnv,
    "sc2v2": sc2v2.make_env,
    "smax": smax.SmaxEnv,
    "mamujoco": mamujoco.MamujocoEnv,
    "vmas": vmas.VmasEnv,
    "matrix": matrix_game.MatrixGame,
}

ARGS: dict[str, Any] = {
    "gymma": gymma.GymmaArgs,
    "sc2v2": sc2v2.Sc2v2Args,
    "smax": smax.SmaxArgs,
    "mamujoco": mamujoco.MamujocoArgs,
    "vmas": vmas.VmasArgs,
    "matrix": matrix_game.MatrixArgs,
}

BUILT_IN = frozenset(ARGS)  # without what a process has registered from elsewhere

# Natively batched environments: callable(env_args, seeds, common_reward, reward_scalarisation) -> VectorEnv.
BATCHED: dict[str, Callable[[dict[str, Any], list[int], bool, str], VectorEnv]] = {
    "sc2v2": sc2v2.make_batched,
    "smax": smax.make_batched,
    "vmas": vmas.make_batched,
}


def register(name: str, make: Callable[..., MultiAgentEnv], args: Any) -> None:
    """Adds an environment from outside this package; called by register() of the module that env_module names.

    make: callable(**env_args, seed=, common_reward=, reward_scalarisation=); a class or function at module level, so
    that worker processes can be given it. args: the pydantic model of its env_args. ValueError where the name is taken,
    or one of the three keywords that every environment is given is not.
    """
    parameters = inspect.signature(make).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        if missing := [key for key in ("seed", "common_reward", "reward_scalarisation") if key not in parameters]:
            raise ValueError(
                f"{name}: {make.__name__} must take the keyword{'s' * (len(missing) > 1)} {', '.join(missing)}"
            )
    if REGISTRY.get(name, make) is not make:
        raise ValueError(f"there is already another environment {name!r}: choose a name of its own")
    REGISTRY[name], ARGS[name] = make, args


def require(config: Mapping[str, Any]) -> None:
    """Raises where this configuration's environment cannot run here. Cheap: asked before anything is written.

    MissingBackendError or EnvContractError for the environment, ValueError for a host key that it has no use for.
    """
    env, env_args = config["env"], config["env_args"]
    if env == "sc2v2":
        sc2v2.require(**env_args)
    elif env == "smax":
        smax.require()
    elif env == "mamujoco":
        mamujoco.require()
    elif env == "vmas":
        vmas.require(**env_args)
    elif env == "gymma":
        gymma.require(**env_args)
    if _is_batched(env, env_args) and config["env_workers"]:
        raise ValueError(
            f"env_workers={config['env_workers']}: {env} steps all environments in one call; set env_workers=0"
        )
    if config["render"] and not _can_be_shown(env):
        raise ValueError(f"render=True: {env} cannot be shown; set render=False")
    if config["render"] and sys.platform == "linux" and not DISPLAYS & set(os.environ):
        raise ValueError("render=True needs a display; --watch makes a film without one")


def _can_be_shown(env: str) -> bool:
    """Whether it opens a window: gymnasium's own, or an environment from elsewhere that has a method for it. Of what a
    function makes, only the window tells."""
    if env in BUILT_IN:
        return env == "gymma"
    made = REGISTRY[env]
    if not isinstance(made, type):
        return True
    methods = ("render", "show")
    return any(getattr(made, name, None) not in (None, getattr(MultiAgentEnv, name)) for name in methods)


def _is_batched(env: str, env_args: Mapping[str, Any]) -> bool:
    """Whether all environments of a run are stepped in one call; StarCraft II is one process a battle."""
    return env in BATCHED and not (env == "sc2v2" and sc2v2.backend_of(**env_args) == "starcraft2")


def simulator_suffix(config: Mapping[str, Any], backend: str = "") -> str:
    """What folders of results add to a task's name: "-SMAX" where SMAX stands in for StarCraft II, else nothing.

    backend: what a recorded run says that it was simulated by; without it, what would be taken on this machine counts.
    """
    if config["env"] not in ("sc2v2", "smax"):
        return ""
    if backend:
        smax_stands_in = "smax" in backend.lower()
    else:
        smax_stands_in = config["env"] == "smax" or sc2v2.backend_of(**config.get("env_args") or {}) == "smax"
    return "-SMAX" if smax_stands_in else ""


def make_vector_env(args: Any) -> VectorEnv:
    """The E = args.batch_size_run environments of a run as one.

    Reads args.env, env_args, batch_size_run, env_workers, env_timeout, seed, common_reward and reward_scalarisation.
    Natively batched environments are stepped in this process whatever env_workers says. The caller closes it.
    """
    if args.env not in REGISTRY:
        raise ValueError(f"unknown environment {args.env!r}.{nearest(args.env, list(REGISTRY))}")
    env_args = dict(args.env_args)
    seeds = env_seeds(args.seed, args.batch_size_run)
    if _is_batched(args.env, env_args):
        return BATCHED[args.env](env_args, seeds, args.common_reward, args.reward_scalarisation)
    rewards = {"common_reward": args.common_reward, "reward_scalarisation": args.reward_scalarisation}
    factories = [partial(REGISTRY[args.env], **env_args, seed=seed, **rewards) for seed in seeds]
    if args.env_workers > 0:
        return WorkerVectorEnv(factories, args.env_workers, args.common_reward, seeds, args.env_timeout)
    return SerialVectorEnv(factories, args.common_reward, seeds)


class EnvListing(NamedTuple):
    """One line group of `--list`."""

    config: str  # name for --env-config
    text: str  # what it is, in a line
    argument: str  # the env_args key that chooses the task
    names: tuple[tuple[str, str], ...]  # (value of that key, explanation)


def describe() -> list[EnvListing]:
    """All environments with the tasks they offer; imports no simulator."""
    lbf = "Foraging[-2s]-SxS-Np-Ff[-coop]-v3"
    return [
        EnvListing(
            "gymma",
            "gymnasium environments of several agents, above all Level-Based Foraging (lbforaging)",
            "key",
            (
                *((task, "Level-Based Foraging, a task of the MMSA paper") for task in gymma.PAPER_TASKS),
                (
                    lbf,
                    "pattern: field size S 5-19, N 2-9 players, F 1-5 foods; 2s: sight 2; coop: all (at most 3) load",
                ),
            ),
        ),
        EnvListing("rware", "RWARE: robots fetch the shelves of a warehouse (gymma)", "key", gymma.RWARE_LISTING),
        EnvListing("mpe", "MPE: multi-particle environments (mpe2, through gymma)", "key", gymma.MPE_LISTING),
        EnvListing("vmas", "VMAS: a vectorised 2D physics simulator", "key", vmas.LISTING),
        EnvListing("sc2v2", "SMACv2 battles, in StarCraft II or in SMAX (backend)", "map_name", sc2v2.LISTING),
        EnvListing("smax", "SMAX, a StarCraft-like simulator in JAX (jaxmarl)", "map_name", smax.LISTING),
        EnvListing("mamujoco", "Multi-Agent MuJoCo: a robot's joints shared out to agents", "key", mamujoco.LISTING),
        EnvListing("matrix", "small games with known answers", "key", tuple(matrix_game.GAMES.items())),
    ]
