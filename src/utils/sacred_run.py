"""One run in Sacred: where its record goes, what is noted beside its metrics, and how it ends."""

from __future__ import annotations

import copy
import logging
import os
import secrets
import shlex
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from sacred import SETTINGS, Experiment

from envs import simulator_suffix
from utils.checkpoints import CheckpointError, Checkpoints
from utils.cli import require_writable
from utils.commands import rebuilt_command
from utils.config import ConfigError, require_environment
from utils.logging import get_logger, note_start, record_lock
from utils.mongo import Address
from utils.naming import backend_note, task_folder, task_name, task_of, variant_of
from utils.recording import Delivery, Heartbeat, ResumedFolder, RunFolder
from utils.resume import Resumed, checkpoints_of, has_checkpoints, writes_checkpoints
from utils.signals import StopSignals
from utils.untrusted import named_code

# whose versions are recorded
PACKAGES = (
    "torch", "numpy", "gymnasium", "lbforaging", "rware", "mpe2", "vmas", "mujoco", "gymnasium-robotics",
    "jaxmarl", "jax", "smacv2", "pysc2", "epymarl-mmsa",
)  # fmt: skip


def train(
    config: dict[str, Any], files: tuple[str, str], mongo: Address | None = None, resumed: Resumed | None = None
) -> int:
    """One recorded run; the exit status.

    :param files: names of the algorithm's and the environment's file.
    :param mongo: where the run is recorded beside the files.
    :param resumed: of a run that goes on with this configuration.
    :raises ConfigError: where the environment, the networks to begin with or the folder are not as they must be.
    """
    console = get_logger()
    info: dict[str, Any] = {}
    if resumed is None:
        _require(config)
        folder = results_folder(config)
        make_folder(folder)
        observer = RunFolder(folder)
    else:
        observer = ResumedFolder(resumed.folder, resumed.points, resumed.changed)
        info = observer.info_until_then(resumed.saved.manifest.t_env)
        resumed.say(observer.missing, console)
        resumed.saved.state["logger"]["points"] = observer.lengths  # the next checkpoint counts from there
    if config["seed"] is None:
        config["seed"] = secrets.randbelow(2**31)
        console.info("seed=%d was drawn; give it to repeat this run", config["seed"])
    warnings.showwarning = lambda message, *_: console.warning("%s", message)  # not above, but in the live display
    experiment = _experiment(config, observer, mongo, console)
    checkpoints: Checkpoints | None = None if resumed is None else resumed.checkpoints

    @experiment.main
    def main(_run: Any) -> None:
        nonlocal checkpoints
        # The command is made from the configuration: what was typed may lack the drawn seed and hold a password.
        note_start(_run.info, console, versions=versions(), cores=os.cpu_count())
        if resumed is None or resumed.changed:
            _run.info["command"] = rebuilt_command(config, *files)
        with Heartbeat(_run) as heartbeat:

            def flush() -> None:
                heartbeat.beat()
                observer.sync()

            if resumed is None:
                checkpoints = checkpoints_of(config, Path(str(observer.dir)), console)
            if checkpoints is not None:
                checkpoints.flush = flush
            saved = None if resumed is None else resumed.saved
            try:
                own = copy.deepcopy(config)
                import_module("run").run(_run, own, console, checkpoints=checkpoints, saved=saved, stop=stop)
            finally:
                try:
                    add_artifacts(_run, config, Path(str(observer.dir)))
                except Exception as error:  # a figure decides about no run
                    console.warning("the learning curve or the networks are not in the record: %r", error)

    status = 1
    stop = StopSignals()
    with stop:  # also while its checkpoints are removed
        try:
            status = _status(lambda: experiment.run(info=info, options={"--beat-interval": "0"}))
        finally:
            if observer.problem is not None:
                print(f"error: the record is not complete: {observer.problem}", file=sys.stderr)
                status = status or 1
            if checkpoints is not None:
                none = resumed is None and not writes_checkpoints(config)
                if none or status == 0 and not config["keep_finished"]:
                    checkpoints.remove()
                checkpoints.unlock()
    if observer.dir is not None:
        info = experiment.current_run.info if experiment.current_run is not None else {}
        with suppress(OSError):  # the terminal is gone
            say_end(config, Path(observer.dir), info.get("backend", ""), status)
    return status


def _require(config: Mapping[str, Any]) -> None:
    """ConfigError where a new run could not begin. Nothing is written."""
    require_environment(config)
    if config["checkpoint_path"]:
        import_module("utils.watch").require_networks(config)


def _experiment(config: Mapping[str, Any], observer: RunFolder, mongo: Address | None, console: logging.Logger) -> Any:
    """Sacred's, with this configuration, which records to the folder, and to MongoDB where that is wanted."""
    SETTINGS["CAPTURE_MODE"] = "no"  # output stays on the terminal
    experiment = Experiment("epymarl-mmsa", save_git_info=under_git())
    experiment.logger = console  # type: ignore[assignment]
    experiment.add_config(copy.deepcopy(dict(config)))
    experiment.observers.append(observer)
    if mongo is not None:
        experiment.observers.append(Delivery(mongo, observer, console))
    return experiment


def _status(run: Callable[[], Any]) -> int:
    """The exit status of a run; what stopped it is printed."""
    try:
        run()
        return 0
    except KeyboardInterrupt as error:
        return getattr(error, "status", 130)
    except (CheckpointError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
    except (Exception, SystemExit):  # an environment may call sys.exit
        traceback.print_exc()
    return 1


def results_folder(config: Mapping[str, Any]) -> Path:
    """Where a new run is recorded; ConfigError where nothing can be written there. Nothing is written yet."""
    folder = Path(config["local_results_path"]) / "sacred" / config["name"] / task_folder(task_of(config))
    require_writable(folder, f"local_results_path = {config['local_results_path']!r}")
    return folder


def make_folder(folder: Path) -> None:
    """ConfigError where the folder cannot be made after all, as on a full or a special file system."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a name that no folder can have
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"local_results_path: {folder} cannot be made: {why}") from None


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def under_git() -> bool:
    """Whether Sacred can note the commit: it raises where git, a repository or its first commit is missing."""
    try:
        return bool(import_module("git").Repo(Path(__file__).parent, search_parent_directories=True).head.commit)
    except Exception:
        return False


def add_artifacts(_run: Any, config: Mapping[str, Any], folder: Path) -> None:
    """The learning curve of a training, and the last saved networks if asked, for every record of the run."""
    if config["evaluate"]:
        return
    from reports.figures import learning_curve  # matplotlib, after the training

    with record_lock:
        info = dict(_run.info)
    title = f"{config['name']} on {task_name(config)}{variant_of(config)}, seed {config['seed']}"
    if curve := learning_curve(info, folder / "learning_curve.png", title, backend_note(info.get("backend", ""))):
        _run.add_artifact(curve, content_type="image/png")
    if config["record_checkpoint"] and info.get("checkpoint"):
        _run.add_artifact(shutil.make_archive(str(folder / "checkpoint"), "zip", info["checkpoint"]))


def say_end(config: Mapping[str, Any], folder: Path, backend: str, status: int) -> None:
    """How the run in this folder ended, and the command with which it can go on, or what would have kept what it
    learnt."""
    outcome = "done" if status == 0 else "stopped" if status > 128 else "failed"
    simulator = f" [{backend_note(backend)}]" if simulator_suffix(config) else ""
    curve = folder / "learning_curve.png"
    print(f"{outcome}{simulator}: {folder}" + (f"\nlearning curve: {curve}" if curve.exists() else ""), flush=True)
    if status and has_checkpoints(folder):
        trust = [word for _, name in named_code(config) for word in ("--trust", name)]
        command = shlex.join(["python", "src/main.py", "--resume", str(folder), *trust])
        print(f"to go on: {command}", flush=True)
    if not (status or config["evaluate"] or config["save_model"] or has_checkpoints(folder)):
        print("no networks kept: save_model=True saves them, keep_finished=True keeps the last checkpoint", flush=True)
