"""The command line: python src/main.py --config=mmsa --env-config=sc2v2 with env_args.map_name=protoss_5_vs_5"""

from __future__ import annotations

import argparse
import copy
import os
import secrets
import shlex
import shutil
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NoReturn

try:
    import yaml

    from utils.cli import leave, refuse, require_writable
    from utils.config import ConfigError, Parser, available, compose, describe, require_environment
    from utils.mongo import DATABASE, LOCAL_MONGO, MONGO_VARIABLE, Address, address, hide
except ModuleNotFoundError as error:
    sys.exit(f"error: the package {error.name} is not installed; in this folder: pip install -e .")

UPSTREAM_VARIABLE = "EPYMARL_PATH"
# whose versions are recorded
PACKAGES = (
    "torch", "numpy", "gymnasium", "lbforaging", "rware", "mpe2", "vmas", "mujoco", "gymnasium-robotics",
    "jaxmarl", "jax", "smacv2", "pysc2", "epymarl-mmsa",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python src/main.py",
        description="Train a multi-agent algorithm on an environment.",
        epilog="example: python src/main.py --config=mmsa --env-config=sc2v2 with env_args.map_name=protoss_5_vs_5 "
        "seed=1 t_max=200000   (every key and what it does: config/default.yaml)",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="ALGORITHM", help="algorithm: a name in config/algs, or a path to a .yaml")
    parser.add_argument(
        "--env-config", metavar="ENVIRONMENT", help="environment: a name in config/envs, or a path to a .yaml"
    )
    parser.add_argument("--list", action="store_true", help="list algorithms, environments, maps and keys, then stop")
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration as YAML, then stop")
    parser.add_argument(
        "--mongo",
        metavar="URL[/DB]",
        help=f"record the run in MongoDB, too; without a value {LOCAL_MONGO}, without a database {DATABASE}. "
        f"{MONGO_VARIABLE} does the same and is not seen in a list of processes",
    )
    parser.add_argument(
        "--epymarl",
        metavar="PATH",
        help="run in this checkout of upstream EPyMARL, which stays as it is, instead of our own core: mmsa or one of "
        f"its own algorithms; without a value in the checkout that {UPSTREAM_VARIABLE} names",
    )
    parser.add_argument(
        "--watch",
        metavar="RUN",
        help="play the saved networks of a run (the folder of its record, or of its networks) greedily and film it; "
        "with seed=, load_step=, env_args.time_limit= change what is played",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run that was cut off (the folder of its record) from its last checkpoint; with t_max=N "
        "longer. --resume=last, beside the words of a new run: the newest cut-off run of this configuration, or a new "
        "one where there is none",
    )
    parser.add_argument("--out", metavar="FILE", help="the film of --watch: .gif or .mp4 (default: watch.gif in RUN)")
    parser.add_argument("--episodes", metavar="N", type=int, help="episodes that --watch plays (default: 1)")
    parser.add_argument(
        "--trust",
        metavar="NAME",
        action="append",
        help="a plugin or module beyond this checkout that the record of --watch or --resume may import",
    )
    parser.add_argument(
        "--check", action="store_true", help="say what can run on this machine, and what mends the rest"
    )
    parser.add_argument("words", metavar="with key=value", nargs="*", help="values that replace the files' ones")
    return parser


def bare_options(argv: Sequence[str]) -> list[str]:
    """--mongo and --epymarl with their default attached, so that a word after a bare one is not taken for it."""
    defaults = {"--mongo": LOCAL_MONGO, "--epymarl": os.environ.get(UPSTREAM_VARIABLE, "")}
    words = list(argv)
    for index, word in enumerate(argv):
        following = "".join(argv[index + 1 : index + 2])
        if word in defaults and (following in ("", "with") or following.startswith("-")):
            words[index] = f"{word}={defaults[word]}"
    return words


def overrides(words: Sequence[str]) -> list[str]:
    """What follows `with`; ConfigError for words before it."""
    before = list(words[: words.index("with")] if "with" in words else words)
    if before:
        hint = f"write: with {' '.join(before)}" if all("=" in word for word in before) else "only options may be there"
        raise ConfigError(f"{' '.join(before)!r} on the command line is not preceded by the word with; {hint}")
    return [word for word in words if word != "with"]


def listing() -> str:
    """Algorithms and environments with their maps or keys, a line of explanation each."""
    lines = ["algorithms (--config=)"]
    lines += [f"  {name:<10} {describe(path)}" for name, path in available("algs").items()]
    lines += ["", "environments (--env-config=)"]
    entries = {entry.config: entry for entry in import_module("envs").describe()}
    for name, path in available("envs").items():
        entry = entries.get(name)
        lines.append(f"  {name:<10} {entry.text if entry else describe(path)}")
        if entry and entry.names:
            width = max(len(choice) for choice, _ in entry.names)
            lines.append(f"  {'':<10}   with env_args.{entry.argument}=")
            lines += [f"  {'':<10}     {choice:<{width}}  {text}".rstrip() for choice, text in entry.names]
    return "\n".join(lines)


def results_folder(config: Mapping[str, Any], task: str) -> Path:
    """Where the run is recorded; ConfigError where nothing can be written there. Nothing is written yet."""
    from utils.logging import task_folder

    folder = Path(config["local_results_path"]) / "sacred" / config["name"] / task_folder(task)
    require_writable(folder, f"local_results_path = {config['local_results_path']!r}")
    return folder


def make_folder(folder: Path) -> None:
    """ConfigError where the folder cannot be made after all, as on a full or a special file system."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"local_results_path: {folder} cannot be made: {error.strerror}") from None


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


def add_artifacts(_run: Any, config: Mapping[str, Any], folder: Path, task: str) -> None:
    """The learning curve, and the last saved networks if asked, for every record of the run."""
    from utils.figures import learning_curve
    from utils.logging import backend_note, record_lock
    from utils.runs import variant_of

    with record_lock:
        info = dict(_run.info)
    title = f"{config['name']} on {task}{variant_of(config)}, seed {config['seed']}"
    if curve := learning_curve(info, folder / "learning_curve.png", title, backend_note(info.get("backend", ""))):
        _run.add_artifact(curve, content_type="image/png")
    if config["record_checkpoint"] and info.get("checkpoint"):
        _run.add_artifact(shutil.make_archive(str(folder / "checkpoint"), "zip", info["checkpoint"]))


def train(config: dict[str, Any], files: tuple[str, str], mongo: Address | None = None, resumed: Any = None) -> int:
    """One recorded run; the exit status.

    :param files: names of the algorithm's and the environment's file.
    :param mongo: where the run is recorded beside the files.
    :param resumed: utils.resume.Resumed, of a run that goes on with this configuration.
    """
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # Sacred's, and of no use to the reader
    from sacred import SETTINGS, Experiment

    import envs
    from utils.checkpoints import CheckpointError, Checkpoints
    from utils.commands import rebuilt_command
    from utils.logging import get_logger, task_name
    from utils.progress import stop_display
    from utils.recording import Delivery, Heartbeat, ResumedFolder, RunFolder
    from utils.resume import checkpoints_of, writes_checkpoints
    from utils.signals import StopSignals

    task = task_name(config)
    console = get_logger()
    if resumed is None:
        require_environment(config)
        if config["checkpoint_path"]:
            import_module("utils.watch").require_networks(config)
        folder = results_folder(config, task + envs.simulator_suffix(config))
        make_folder(folder)
    if config["seed"] is None:
        config["seed"] = secrets.randbelow(2**31)
        console.info("seed=%d was drawn; give it to repeat this run", config["seed"])
    warnings.showwarning = lambda message, *_: console.warning("%s", message)  # not above, but in the live display
    SETTINGS["CAPTURE_MODE"] = "no"  # output stays on the terminal
    experiment = Experiment("epymarl-mmsa", save_git_info=under_git())
    experiment.logger = console  # type: ignore[assignment]
    experiment.add_config(copy.deepcopy(config))
    info: dict[str, Any] = {}
    if resumed is None:
        observer = RunFolder(folder)
    else:
        observer = ResumedFolder(resumed.folder, resumed.points, resumed.changed)
        info = observer.info_until_then(resumed.saved.manifest.t_env)
        resumed.say(observer.missing, console)
    experiment.observers.append(observer)
    if mongo is not None:
        experiment.observers.append(Delivery(mongo, observer, console))
    checkpoints: Checkpoints | None = None if resumed is None else resumed.checkpoints

    @experiment.main
    def main(_run: Any) -> None:
        nonlocal checkpoints
        # The command is made from the configuration: what was typed may lack the drawn seed and hold a password.
        _run.info |= {"versions": versions(), "cores": os.cpu_count()}
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
            try:
                saved = None if resumed is None else resumed.saved
                import_module("run").run(
                    _run, copy.deepcopy(config), console, checkpoints=checkpoints, saved=saved, stop=stop
                )
            finally:
                stop_display()
                try:
                    add_artifacts(_run, config, Path(str(observer.dir)), task)
                except Exception as error:  # a figure decides about no run
                    console.warning("the learning curve or the networks are not in the record: %r", error)

    status = 1
    stop = StopSignals()
    try:
        with stop:
            experiment.run(info=info, options={"--beat-interval": "0"})
        status = 0
    except KeyboardInterrupt as error:
        status = getattr(error, "status", 130)
    except (CheckpointError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
    except Exception:
        traceback.print_exc()
    finally:
        stop_display()
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
        say_end(config, Path(observer.dir), info.get("backend", ""), status)
    return status


def say_end(config: Mapping[str, Any], folder: Path, backend: str, status: int) -> None:
    """How the run in this folder ended, and the command with which it can go on."""
    from envs import simulator_suffix
    from utils.logging import backend_note
    from utils.recorded import named_code

    outcome = "done" if status == 0 else "stopped" if status > 128 else "failed"
    simulator = f" [{backend_note(backend)}]" if simulator_suffix(config) else ""
    curve = folder / "learning_curve.png"
    print(f"{outcome}{simulator}: {folder}" + (f"\nlearning curve: {curve}" if curve.exists() else ""), flush=True)
    if status and any(folder.glob("checkpoints/*/manifest.json")):
        trust = [word for _, name in named_code(config) for word in ("--trust", name)]
        command = shlex.join(["python", "src/main.py", "--resume", str(folder), *trust])
        print(f"to go on: {command}", flush=True)


def resume(options: argparse.Namespace, mongo: Address | None) -> int:
    """--resume RUN; the run's record is the configuration, so that no other can be named."""
    if options.config is not None or options.env_config is not None:
        raise ConfigError("--config, --env-config: with --resume only where it is --resume=last; RUN has its own")
    if options.print_config:
        raise ConfigError("--print-config: not with --resume RUN, whose configuration is in its config.json")
    resumed = import_module("utils.resume").prepare(options.resume, overrides(options.words), options.trust or ())
    return train(resumed.config, resumed.files, mongo, resumed)


def resume_last(config: dict[str, Any], options: argparse.Namespace, mongo: Address | None) -> int:
    """--resume=last: the newest cut-off run of this configuration goes on, or a new one begins."""
    import envs
    from utils.logging import get_logger, task_name

    require_environment(config)
    folder = results_folder(config, task_name(config) + envs.simulator_suffix(config))
    resumed, problems = import_module("utils.resume").last(folder, config, options.trust or ())
    if resumed is not None:
        return train(resumed.config, resumed.files, mongo, resumed)
    for problem in problems:
        get_logger().warning("%s", problem)
    get_logger().info("no cut-off run of this configuration can go on: a new one begins")
    return train(config, (options.config, options.env_config), mongo)


def watch(options: argparse.Namespace) -> int:
    """--watch; the run's record is the configuration, so that no other can be named."""
    names = ("config", "env_config", "print_config", "mongo", "resume")
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in (None, False)]:
        raise ConfigError(f"{', '.join(given)}: not with --watch, which takes the run's own configuration")
    episodes = 1 if options.episodes is None else options.episodes
    player = import_module("utils.watch")
    return player.watch(options.watch, options.out, episodes, overrides(options.words), options.trust or ())


def upstream(options: argparse.Namespace) -> NoReturn:
    """--epymarl: this process becomes the plugin's own command line. Our src is not on its path, since both hosts
    call their modules the same."""
    names = ("watch", "resume", "out", "episodes", "trust", "mongo")
    if given := [f"--{name}" for name in names if getattr(options, name) is not None] + ["--check"] * options.check:
        raise ConfigError(f"{', '.join(given)}: not with --epymarl")
    if not options.epymarl:
        raise ConfigError(f"--epymarl without a value takes the checkout that {UPSTREAM_VARIABLE} names; it is not set")
    if os.environ.get(MONGO_VARIABLE):
        print(f"{MONGO_VARIABLE} is not read with --epymarl: track.py sync uploads the record", file=sys.stderr)
    command = [sys.executable, "-P", "-m", "mmsa", f"--epymarl={options.epymarl}"]
    command += [f"--config={options.config}"] if options.config is not None else []
    command += [f"--env-config={options.env_config}"] if options.env_config is not None else []
    command += [f"--{name}" for name in ("list", "print-config") if getattr(options, name.replace("-", "_"))]
    words = overrides(options.words)
    path = [str(Path(__file__).parents[1] / "plugins"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    sys.stdout.flush()
    os.execve(sys.executable, [*command, *(["with", *words] if words else [])], environment)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 1 failed, 2 wrong arguments or configuration, 130 stopped by Ctrl-C."""
    try:
        options = parser().parse_intermixed_args(bare_options(sys.argv[1:] if argv is None else argv))
        sys.argv = [hide(word) for word in sys.argv]  # W&B, for one, records them
        if options.epymarl is not None:
            upstream(options)
        if options.list:
            print(listing())
            return 0
        if options.check:
            return import_module("utils.doctor").check()
        if options.watch is not None:
            return watch(options)
        only_watch = ["out", "episodes", *([] if options.resume is not None else ["trust"])]
        if lost := [f"--{name}" for name in only_watch if getattr(options, name) is not None]:
            raise ConfigError(f"{', '.join(lost)}: only with --watch{' or --resume' * (lost == ['--trust'])}")
        url = options.mongo if options.mongo is not None else os.environ.get(MONGO_VARIABLE, "")
        key = "--mongo" if options.mongo is not None else MONGO_VARIABLE
        mongo = address(url, key) if url or options.mongo is not None else None
        if options.resume is not None and options.resume != "last":
            return resume(options, mongo)
        config = compose(options.config, options.env_config, overrides(options.words))
        if options.print_config:
            print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), end="")
            return 0
        if options.resume is not None:
            return resume_last(config, options, mongo)
        return train(config, (options.config, options.env_config), mongo)
    except KeyboardInterrupt:
        return 130
    except ConfigError as error:
        return refuse(error)


if __name__ == "__main__":
    leave(main)
