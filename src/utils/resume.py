"""`python src/main.py --resume RUN`: a run that was cut off goes on from its last good checkpoint, in its own folder.

The record is data from elsewhere, as for --watch: its configuration passes the checks of a run's own, code that it
names must be this checkout's or be confirmed with --trust, and checkpoints are read as weights only.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import envs
from experiments import records
from experiments.planning import words_of
from utils import config as configs
from utils.checkpoints import MANIFEST, CheckpointError, Checkpoints, Saved
from utils.config import ConfigError, require_environment
from utils.identity import NOT_LEARNT, differences
from utils.schema import as_today
from utils.untrusted import find_run, named_code, read, refuse_code, refuse_links, root_of

CHECKPOINTS = "checkpoints"  # in the run's folder
# A resumed run may be longer, too. What it is called and where its record lies stays.
MAY_CHANGE = sorted(NOT_LEARNT - {"label", "local_results_path"} | {"t_max"})


class BusyError(ConfigError):
    """Another process has the run."""


class Resumed(NamedTuple):
    """A run that may go on. Its checkpoints are locked: unlock them at the end."""

    folder: Path
    config: dict[str, Any]
    changed: bool  # whether the configuration is no longer the recorded one
    checkpoints: Checkpoints
    saved: Saved
    points: dict[str, int]  # of each metric in the record, when the checkpoint was made
    files: tuple[str, str]  # names of the algorithm's and the environment's file, "" where the record does not say
    problems: list[str]  # of newer checkpoints, which are damaged

    def say(self, missing: int, log: logging.Logger) -> None:
        """From where the run goes on, and what is not as it should be. missing: points that its record has lost."""
        for problem in self.problems:
            log.warning("this checkpoint is passed over, the one before it is taken: %s", problem)
        if missing:
            log.warning("the record has lost %d points that were logged before the checkpoint", missing)
        log.info("%s goes on from step %s", self.folder, f"{self.saved.manifest.t_env:,}")


def has_checkpoints(folder: Path) -> bool:
    """Whether there is one in the folder of a run's record."""
    return any(folder.glob(f"{CHECKPOINTS}/*/{MANIFEST}"))


def writes_checkpoints(config: Mapping[str, Any]) -> bool:
    """Whether a new run of this configuration makes checkpoints."""
    return config["checkpoint_interval"] is not None and not config["evaluate"]


def checkpoints_of(config: Mapping[str, Any], folder: Path, log: logging.Logger) -> Checkpoints | None:
    """Where a new run's checkpoints go, locked, so that nobody takes the run away even if it writes none; None where
    nothing can be locked there.
    """
    checkpoints = Checkpoints(folder / CHECKPOINTS, config["keep_checkpoints"])
    try:
        checkpoints.lock()
    except OSError as error:  # a full disk, or a file system without locks
        if writes_checkpoints(config):
            log.warning("no checkpoints are written, this run cannot be resumed: %s", error)
        return None
    return checkpoints


def prepare(name: str, overrides: Sequence[str] = (), trusted: Sequence[str] = ()) -> Resumed:
    """Finds, checks and locks the run. Nothing is written but the lock.

    :param name: the folder of the run's record.
    :param overrides: key=value, of keys that may change.
    :param trusted: names of plugins and modules beyond this checkout that the record may import.
    :raises ConfigError: with why it cannot go on; BusyError where another process has it.
    """
    folder = find_run("--resume", name)
    if not (folder / "run.json").is_file():
        raise ConfigError(f"--resume={name}: no record of a run; it is in results/sacred/ALGORITHM/TASK/ID")
    refuse_links(folder)
    source = folder / "config.json"
    recorded = as_today(read(source))
    status = str(read(folder / "run.json").get("status"))
    none_written = recorded.get("checkpoint_interval") is None and not has_checkpoints(folder)
    if none_written or not (folder / CHECKPOINTS).is_dir():
        why = (
            "it is finished, and keeps its last checkpoint only with keep_finished=True"
            if status == records.COMPLETED
            else f"checkpoint_interval = {recorded.get('checkpoint_interval')}"
        )
        raise ConfigError(f"--resume={name}: this run has no checkpoints ({why})")
    config, changed = _changed(recorded, overrides, source, trusted)
    info = read(folder / "info.json") if (folder / "info.json").is_file() else {}
    _same_simulator(folder, info, config)
    root = root_of(folder)  # where the record lies now: moved, or seen from another working directory
    if root is not None and Path(config["local_results_path"]).absolute() != root:
        config = {**config, "local_results_path": str(root)}
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: nothing can be written there")
    checkpoints = Checkpoints(folder / CHECKPOINTS, config["keep_checkpoints"])
    try:
        checkpoints.lock()
    except CheckpointError as error:
        raise BusyError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"{folder / CHECKPOINTS}: its lock cannot be taken: {error.strerror}") from None
    try:
        saved, problems = checkpoints.newest()
        if saved is None:
            said = "; ".join(dict.fromkeys(problems)) or "there is none yet"
            raise ConfigError(f"--resume={name}: no checkpoint to go on from: {said}")
        points = saved.state.get("logger", {}).get("points")
        if not isinstance(points, dict) or not all(type(count) is int and count >= 0 for count in points.values()):
            raise ConfigError(f"--resume={name}: the checkpoint does not say how far the record was")
        t_env, finished = saved.manifest.t_env, status == records.COMPLETED
        # One that was cut off in its last test is beyond its own t_max, too.
        if t_env > config["t_max"] and (finished or config["t_max"] != recorded["t_max"]):
            raise ConfigError(
                f"--resume={name}: this run is {'finished, ' if finished else ''}at step {t_env}; it goes on with a "
                f"t_max above that: with t_max={max(2 * t_env, recorded['t_max'])}"
            )
    except BaseException:
        checkpoints.unlock()
        raise
    return Resumed(folder, config, changed, checkpoints, saved, points, _files(info), problems)


def last(runs: Path, config: Mapping[str, Any], trusted: Sequence[str] = ()) -> tuple[Resumed | Path | None, list[str]]:
    """The newest cut-off run of this configuration in the folder `runs`, if one can go on, and why others cannot.

    Of the keys that may change it takes this configuration's values. Where the newest training is finished, it is the
    folder of that: with the same seed it would be the same run again. Without a seed a new run is another one.
    Code that the configuration itself names is trusted: checking it has imported that already.

    :raises BusyError: where another process trains it, with this seed.
    """
    problems: list[str] = []
    trusted = [*trusted, *(name for _, name in named_code(config))]
    folders = [path for path in runs.glob("*") if path.name.isdecimal() and (path / "run.json").is_file()]
    for folder in sorted(folders, key=lambda path: int(path.name), reverse=True):
        record = records.record(folder)
        planned = {**config, "seed": record.config.get("seed")} if config["seed"] is None else config
        finished = record.status == records.COMPLETED
        if differences(record.config, planned) or finished and (config["seed"] is None or config["evaluate"]):
            continue
        if finished:
            other = [key for key in sorted(NOT_LEARNT & {*config}) if config[key] != record.config.get(key)]
            without = [f"{key} = {record.config.get(key)!r} there" for key in other if key != "local_results_path"]
            return folder, problems + ([f"{folder} stays as it is: {', '.join(without)}"] if without else [])
        wanted = {key: config[key] for key in MAY_CHANGE if config[key] != record.config.get(key)}
        try:
            return prepare(str(folder), words_of(wanted), trusted), problems
        except BusyError as error:
            if config["seed"] is not None:
                raise BusyError(f"--resume=last: {error}; with the same seed it would be trained twice") from None
            problems += error.problems
        except ConfigError as error:
            problems += error.problems
    return None, problems


def _changed(
    recorded: dict[str, Any], overrides: Sequence[str], source: Path, trusted: Sequence[str]
) -> tuple[dict[str, Any], bool]:
    """The checked configuration, and whether it is no longer the recorded one."""
    problems = []
    for text in overrides:
        path, value = configs.parse_override(text)
        if path[0] not in MAY_CHANGE and not _has(recorded, path, value):
            problems.append(
                f"{text} (the command line): {path[0]} cannot change in a resumed run ({source}); what can: "
                f"{', '.join(MAY_CHANGE)}"
            )
    if problems:
        raise ConfigError(problems)
    config, sources = configs.replaced(recorded, overrides, str(source))
    refuse_code(config, source, trusted)
    if config.get("evaluate"):
        raise ConfigError(f"{source}: evaluate = True: a test of saved networks is not resumed, but started again")
    begun_from = {key: config.get(key) for key in ("checkpoint_path", "load_step")}  # are of no use any more
    config = configs.complete({**config, "checkpoint_path": "", "load_step": 0}, sources) | begun_from
    require_environment(config)
    return config, config != recorded


def _files(info: Mapping[str, Any]) -> tuple[str, str]:
    try:
        words = shlex.split(str(info.get("command") or ""))
    except ValueError:  # a quote that is not closed
        words = []
    names = {option: name for option, _, name in (word.partition("=") for word in words)}
    return names.get("--config", ""), names.get("--env-config", "")


def _has(recorded: Mapping[str, Any], path: tuple[str, ...], value: Any) -> bool:
    inner: Any = recorded
    for key in path:
        if not isinstance(inner, Mapping) or key not in inner:
            return False
        inner = inner[key]
    return bool(inner == value)


def _same_simulator(folder: Path, info: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """ConfigError where env_args.backend=auto would now take another simulator than before."""
    was = str(info.get("backend") or "")
    if was and envs.simulator_suffix(config, was) != envs.simulator_suffix(config):
        raise ConfigError(f"{folder}: this run was simulated by {was}, and would be by another simulator here")
