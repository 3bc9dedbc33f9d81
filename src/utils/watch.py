"""`python src/main.py --watch RUN`: a recorded run's saved policy plays, and is filmed.

A record is data from elsewhere. Its configuration passes the same checks as a run's own; code that it names for import
must be this checkout's or be confirmed with --trust; networks are read as weights only.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import envs
from components.saved_networks import find_checkpoint
from utils import config as configs
from utils.config import ConfigError, require_environment
from utils.film import Film, film_path
from utils.identity import changes
from utils.naming import task_name
from utils.schema import HostConfig, as_today
from utils.untrusted import find_run, inside, read, refuse_code, root_of

FILM = "watch.gif"  # in the run's folder
REPLAYS = ("sc2v2",)  # environments that save replays where they have no pictures
# The policy itself plays, whatever the tests of the run did. `with` may change these.
DEFAULTS: dict[str, Any] = {"test_greedy": True, "evaluation_epsilon": 0.0, "use_cuda": "auto", "load_step": 0}
# One environment in this process; nothing is learnt, logged or saved.
FIXED: dict[str, Any] = {
    "evaluate": True, "render": False, "runner": "episode", "batch_size_run": 1, "env_workers": 0,
    "save_model": False, "record_checkpoint": False, "use_tensorboard": False, "use_wandb": False,
}  # fmt: skip
# Keys of the host that decide which networks there are; so do the environment's and a plugin's own.
NETWORKS = (
    "name", "learner", "mac", "agent", "agent_output_type", "use_rnn", "hidden_dim", "obs_agent_id", "obs_last_action",
    "mixer", "mixing_embed_dim", "hypernet_layers", "hypernet_embed", "critic_type", "obs_individual_obs", "env",
    "common_reward",
)  # fmt: skip
SHOWN = 5  # of the keys that differ
# What saved networks' config.json has beside the configuration (run.make_args and run.build add it).
BUILT = {"device", "unique_token", "state_shape", "obs_shape", "n_actions", "n_agents", "episode_limit"}


# --- the record ---
def find_networks(folder: Path, config: Mapping[str, Any], info: Mapping[str, Any]) -> Path:
    """The folder with a run's saved networks, a subfolder for each step."""
    if not (folder / "run.json").is_file():
        return folder  # the networks' own folder
    if "unique_token" not in info:
        raise ConfigError(
            f"{folder}: no networks are kept with this record: published runs have none, nor has one that was cut off "
            "at once. Train with save_model=True, then watch that run"
        )
    token = str(info["unique_token"])
    try:
        inside(token)
    except ValueError:
        said = f"unique_token = {token!r} names no folder of saved networks"
        raise ConfigError(f"{folder / 'info.json'}: {said}") from None
    roots = [root_of(folder), Path(str(config.get("local_results_path")))]
    places = [root / "models" / token for root in roots if root is not None]
    if found := [place for place in places if place.is_dir()]:
        return found[0]
    interval = config.get("save_model_interval")
    if config.get("save_model") is True:
        raise ConfigError(
            f"{folder}: no networks are saved yet, or they were removed (looked for {places[0]}); they are saved every "
            f"save_model_interval={interval} steps and at the end"
        )
    raise ConfigError(
        f"{folder}: this run has saved no networks. Train with save_model=True (every save_model_interval={interval} "
        "steps and at the end), then watch that run"
    )


def replay_config(
    folder: Path, episodes: int, overrides: Sequence[str] = (), trusted: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The checked configuration with which the run in this folder is played again, and the record's info.

    :raises ConfigError: with all problems.
    """
    source = folder / "config.json"
    config = as_today(read(source))
    info = read(folder / "info.json") if (folder / "info.json").is_file() else {}
    networks = find_networks(folder, config, info)
    if not (folder / "run.json").is_file():
        config = {key: value for key, value in config.items() if key not in BUILT}
    if config.get("seed") is None:
        raise ConfigError(f"{source}: seed = None: a record has the seed; give one: with seed=1")
    env_args = config.get("env_args")
    if isinstance(env_args, dict) and env_args.get("backend") == "auto" and info.get("backend"):
        simulator = "smax" if "SMAX" in str(info["backend"]) else "starcraft2"  # the one that the policy knows
        config = {**config, "env_args": {**env_args, "backend": simulator}}
    if config.get("action_selector") == "soft_policies":  # draws actions, whatever test_greedy says
        config = {**config, "action_selector": "multinomial"}
    fixed = {**FIXED, "test_nepisode": episodes, "checkpoint_path": str(networks)}
    for text in overrides:
        (key, *_), _ = configs.parse_override(text)
        if key in fixed:
            raise ConfigError(f"{text} (the command line): --watch sets {key} itself")
    config, sources = configs.replaced({**config, **DEFAULTS}, overrides, str(source))
    refuse_code(config, source, trusted)
    return configs.complete({**config, **fixed}, sources), info


# --- playing ---
class Camera:
    """A vector environment, of which each state of the first environment is handed on. All else is the environment's.

    take: called with the sum of rewards so far (the team's, or the agents' mean), the step and whether it is the last.
    """

    def __init__(self, env: envs.VectorEnv, take: Any) -> None:
        self._env, self._take = env, take

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self) -> None:
        self._env.reset()
        self._t, self._return = 0, 0.0
        self._take(self._return, self._t, None)

    def step(self, actions: np.ndarray, active: np.ndarray) -> Any:
        ended = self._env.step(actions, active)
        self._t += 1
        self._return += float(np.mean(self._env.reward[0]))
        self._take(self._return, self._t, ended[0][1] if ended else None)
        return ended


def watch(
    name: str, out: str | None = None, episodes: int = 1, overrides: Sequence[str] = (), trusted: Sequence[str] = ()
) -> int:
    """Plays the saved policy of the run in folder `name` and writes a film; the exit status.

    :param out: the film's file, .gif or .mp4; by default FILM in the run's folder.
    :param overrides: key=value, above all seed, load_step and env_args.time_limit.
    :param trusted: names of plugins and modules beyond this checkout that the record may import.
    :raises ConfigError: where it cannot be played or filmed.
    """
    if episodes < 1:
        raise ConfigError(f"--episodes={episodes}: a whole number from 1 is wanted")
    folder = find_run("--watch", name)
    path = film_path(out or str(folder / FILM))
    config, info = replay_config(folder, episodes, overrides, trusted)
    require_environment(config)
    checkpoint = find_checkpoint(config["checkpoint_path"], config["load_step"])
    runner = load_policy(config, checkpoint)
    asked, step = config["load_step"], int(checkpoint.name)
    near = f", the nearest to load_step={asked}" if asked not in (0, step) else ""
    print(f"networks: step {step:,}{near}", flush=True)
    try:
        return _play(runner, config, path, info, step)
    except envs.MissingBackendError as error:
        raise ConfigError(str(error)) from None
    finally:
        runner.close_env()


def load_policy(config: Mapping[str, Any], checkpoint: Path) -> Any:
    """The episode runner with its environment and the networks of the checkpoint."""
    host, logging = import_module("run"), import_module("utils.logging")
    args = host.make_args(config)
    logger = logging.Logger(logging.get_logger())
    runner = host.make_runner(args, logger)
    try:
        _, learner = host.build(args, runner, logger)
        learner.load_models(checkpoint)
    except Exception as error:  # damaged files, other shapes, absurd sizes: torch has a class for each
        runner.close_env()
        said = " ".join(line.strip() for line in str(error).splitlines()[:2])  # the second has torch's first mismatch
        trained = _trained_with(checkpoint.parent, config)
        cure = f"they were trained with {trained}" if trained else "with load_step=STEP another step is taken"
        raise ConfigError(
            f"{checkpoint}: these networks cannot be loaded with this configuration ({type(error).__name__}: "
            f"{textwrap.shorten(said, 200, placeholder=' ...')}); {cure}"
        ) from None
    except BaseException:
        runner.close_env()
        raise
    runner.t_env = int(checkpoint.name)
    return runner


def require_networks(config: Mapping[str, Any]) -> None:
    """ConfigError where the networks of checkpoint_path do not fit this configuration. Nothing is written."""
    checkpoint = find_checkpoint(config["checkpoint_path"], config["load_step"])
    _refuse_other_numbers(checkpoint.parent, config)
    load_policy({**config, **FIXED, "seed": 0}, checkpoint).close_env()


def _saved_config(saved: Path) -> dict[str, Any]:
    """The configuration beside the networks; {} of networks from elsewhere, of which weights only are asked for."""
    with suppress(ConfigError):
        return read(saved / "config.json")
    return {}


def _trained_with(saved: Path, config: Mapping[str, Any]) -> str:
    """What the networks' own configuration has of other values than this one, of the keys that decide which there are:
    "sale.dim=64, ..."; "" where that is nothing."""
    own = set(HostConfig.model_fields) - {*NETWORKS, "env_args"} | BUILT
    other = {key: value for key, value in changes(_saved_config(saved), config).items() if key.split(".")[0] not in own}
    named = ("name", "env", "env_args.key", "env_args.map_name")
    first = sorted(other, key=lambda key: (key not in named, key.startswith("env_args."), key))
    return ", ".join([f"{key}={other[key]}" for key in first[:SHOWN]] + ["..."] * (len(first) > SHOWN))


def _refuse_other_numbers(saved: Path, config: Mapping[str, Any]) -> None:
    """ConfigError where the networks were trained on inputs, or are to learn from rewards, of another size."""
    trained = _saved_config(saved)
    for key in ("scale_inputs", *(() if config["evaluate"] else ("standardise_rewards",))):
        if trained.get(key, config[key]) != config[key]:
            raise ConfigError(
                f"{key}={config[key]}: the networks in {saved} were trained with {trained[key]!r}; "
                f"set {key}={trained[key]}"
            )


def _play(runner: Any, config: Mapping[str, Any], path: Path, info: Mapping[str, Any], step: int) -> int:
    env = runner.env
    if (recorded := info.get("backend")) and recorded != env.backend:
        print(f"note: the run was recorded with {recorded}, it is played with {env.backend}")
    task = f"{config['label'] or config['name']}, {task_name(config)}, step {step:,}"
    episode = 1
    filming = True
    with Film(path, env.render_fps) as film:

        def take(total: float, t: int, final: Mapping[str, float] | None) -> None:
            nonlocal episode, filming
            if filming:
                try:
                    picture = env.render()
                except NotImplementedError as error:
                    if config["env"] not in REPLAYS:
                        raise ConfigError(f"{error}: it cannot be watched") from None
                    filming = False
                except Exception as error:  # of the environment
                    why = f"{type(error).__name__}: {error}"
                    raise ConfigError(f"render() of {env.backend or config['env']} failed: {why}") from error
                else:
                    text = f"{task} · episode {episode}, {t} steps, return {total:.2f}"
                    film.add(np.asarray(picture), text, times=1 if final is None else env.render_fps)
            if final is not None:
                if final.get(envs.EPISODE_LOST):
                    print(f"episode {episode}: the simulator broke down, another one is played", flush=True)
                    return
                more = "".join(f", {key} {value:g}" for key, value in final.items())
                print(f"episode {episode}: return {total:.3f}, {t} steps{more}", flush=True)
                episode += 1

        runner.env = Camera(env, take)
        for _ in range(config["test_nepisode"]):
            runner.run(test_mode=True)
    if filming:
        print(f"film: {path}, {film.frames / env.render_fps:.0f} s")
    else:
        runner.save_replay()
        print("replay: saved by StarCraft II, in its folder of replays")
    return 0
