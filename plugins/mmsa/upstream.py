"""MMSA inside an unedited checkout of upstream EPyMARL: nothing in it is copied, edited or written.

The checkout's `src` goes on sys.path, its registries are filled, and its own `run.run` trains by the configuration that
`checkout.py` composes, in a Sacred run that is opened here. Its own algorithms run the same way.
"""

from __future__ import annotations

import atexit
import copy
import inspect
import logging
import os
import random
import re
import secrets
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from .checkout import HERE, SOURCE, Checkout, UpstreamError, commit_of, nearest, task_of

STANDINS = HERE / "standins"
PACKAGES = (
    "torch", "numpy", "gymnasium", "lbforaging", "rware", "pettingzoo", "vmas", "smaclite", "smacv2", "sacred",
    "epymarl-mmsa",
)  # fmt: skip
# What the plugin and this module ask of the host: module, then attribute or entry.
CONTRACT = (
    "run.run", "learners.REGISTRY", "controllers.REGISTRY", "modules.agents.REGISTRY",
    "runners.REGISTRY", "runners.REGISTRY[episode]", "runners.REGISTRY[parallel]", "envs.REGISTRY",
    "envs.multiagentenv.MultiAgentEnv.get_env_info", "components.action_selectors.REGISTRY[epsilon_greedy]",
    "components.episode_buffer.EpisodeBatch.update", "components.episode_buffer.EpisodeBatch.to",
    "components.episode_buffer.EpisodeBatch.max_t_filled", "components.episode_buffer.ReplayBuffer.can_sample",
    "components.episode_buffer.ReplayBuffer.insert_episode_batch", "components.episode_buffer.ReplayBuffer.sample",
    "utils.logging.Logger.setup_sacred", "utils.logging.Logger.log_stat", "utils.logging.Logger.print_recent_stats",
)  # fmt: skip
LATE = ("sc2", "sc2v2")  # environments that upstream's runners register when they are asked for
MODULES = {"Foraging": "lbforaging", "rware": "rware"}  # begin of a gymnasium id -> package that registers it


# --- the host ---
def prepare(checkout: Checkout, config: dict[str, Any], log: logging.Logger) -> list[str]:
    """Imports the checkout's modules, mends what they lack, and registers MMSA with them if it is to be run.

    Changes `config` only where a task's id needs its package. Returns what was mended, a line each; each is logged.
    Raises UpstreamError where a package or a part of the contract is missing.
    """
    mended: list[str] = []

    def mend(what: str) -> None:
        mended.append(what)
        log.info("%s", what)

    sys.dont_write_bytecode = True  # no __pycache__ in the checkout, by us
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # nor by processes that step environments
    src = checkout.path / "src"
    sys.path.insert(0, str(src))
    needed = (path.read_text(encoding="utf-8") for path in (src / "envs").glob("*.py"))
    if _is_missing("smaclite") and any(re.search(r"^\s*import smaclite\b", text, re.MULTILINE) for text in needed):
        if config.get("env") == "smaclite":
            raise UpstreamError("env=smaclite needs smaclite: pip install git+https://github.com/uoe-agents/smaclite")
        _stand_in()
        mend("smaclite is not installed: an empty module stands in, since EPyMARL imports it whatever the task")
    if config.get("use_tensorboard"):
        folder = Path(config["local_results_path"]).absolute() / "tb_logs"
        sys.modules["tensorboard_logger"] = _tensorboard_logger(folder)
        mend(f"tensorboard_logger, which needs an old protobuf: torch's SummaryWriter writes to {folder}")
    if config.get("use_wandb") and "WANDB_DIR" not in os.environ:  # else it writes to the working directory
        folder = Path(config["local_results_path"]).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["WANDB_DIR"] = str(folder)
    _import_host(src)
    _check_contract(src)
    environments = {*import_module("envs").REGISTRY, *LATE}
    for key, names in (("runner", set(import_module("runners").REGISTRY)), ("env", environments)):
        if (name := str(config.get(key))) not in names:
            raise UpstreamError(
                f"{key}={name}: there is no such {key}{nearest(name, names)}; available: {', '.join(sorted(names))}"
            )
    batch = import_module("components.episode_buffer").EpisodeBatch
    parse = getattr(batch, "_parse_slices", None)
    if parse is not None and isinstance(parse(None, (slice(None), slice(None))), list):
        batch._parse_slices = lambda self, items: tuple(parse(self, items))
        mend("EpisodeBatch indexed tensors with lists, which PyTorch is about to read in another way: now with tuples")
    key = str(task_of(config))
    if config.get("env") == "gymma" and ":" not in key and key not in import_module("gymnasium").registry:
        package = next((module for begin, module in MODULES.items() if key.startswith(begin)), None)
        if package is not None:
            config["env_args"]["key"] = f"{package}:{key}"
            mend(f"env_args.key={key} became {package}:{key}, so that gymnasium finds the package")
    if config.get("env") == "gymma":
        _require_task(str(task_of(config)))
    if config.get("plugin") == __package__:
        import_module(str(__package__)).register()
    return mended


def _require_task(key: str) -> None:
    """UpstreamError where gymnasium has no such environment: with the run begun it would be a failed record."""
    gymnasium = import_module("gymnasium")
    module, _, name = key.rpartition(":")
    try:
        if module:
            import_module(module)
        gymnasium.spec(name)
    except (ImportError, gymnasium.error.Error) as error:
        raise UpstreamError(f"env_args.key={key}: {error}") from None


def _is_missing(module: str) -> bool:
    """Whether only a stand-in of ours can be imported under this name, or nothing."""
    spec = find_spec(module)
    return spec is None or Path(str(spec.origin)).parent == STANDINS


def _stand_in() -> None:
    """Lets missing modules be found in STANDINS, also by worker processes that inherit nothing but the path."""
    if str(STANDINS) not in sys.path:
        sys.path.append(str(STANDINS))  # at the end: what is installed comes first


def _import_host(src: Path) -> None:
    try:
        run = import_module("run")
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        found = getattr(sys.modules.get(package), "__file__", None)
        # A folder of the checkout that has no __init__.py comes after packages anywhere else on the path.
        if found and (src / package).is_dir() and not Path(found).resolve().is_relative_to(src):
            raise UpstreamError(
                f"{src} needs {error.name}, but {package} comes from {found}: take that off PYTHONPATH, or uninstall it"
            ) from None
        if package in {name.partition(".")[0] for name in CONTRACT}:
            raise UpstreamError(
                f"{src}: {error.name} is missing, which the checkout's own files import; a clone of {SOURCE} has all"
            ) from None
        raise UpstreamError(f"EPyMARL needs {error.name}, which is not installed: pip install {error.name}") from None
    if not Path(str(run.__file__)).resolve().is_relative_to(src):
        raise UpstreamError(f"the module run comes from {run.__file__} and not from {src}: start another process")


def _check_contract(src: Path) -> None:
    for name in CONTRACT:
        _follow(name, src)
    parameters = inspect.signature(import_module("run").run).parameters
    if len(parameters) != 3:
        raise UpstreamError(
            f"{src}: run.run({', '.join(parameters)}) does not take (_run, config, log); MMSA was made for cbc38c0"
        )


def _follow(name: str, src: Path) -> Any:
    """The object of a dotted name; UpstreamError names the first part that is missing."""
    name, _, entry = name.rstrip("]").partition("[")
    words = name.split(".")
    found: Any = import_module(words[0])
    for depth, word in enumerate(words[1:], start=2):
        if not hasattr(found, word) and isinstance(found, ModuleType):
            try:
                import_module(f"{found.__name__}.{word}")
            except ModuleNotFoundError:
                pass
        if not hasattr(found, word):
            raise UpstreamError(
                f"{src}: {'.'.join(words[:depth])} is missing, on which MMSA relies; it was made for cbc38c0"
            )
        found = getattr(found, word)
    if words[-1] == "REGISTRY" and not isinstance(found, dict):
        raise UpstreamError(f"{src}: {name} is no dict, on which MMSA relies; it was made for cbc38c0")
    if entry and entry not in found:
        raise UpstreamError(f"{src}: {name} has no {entry!r}, on which MMSA relies; it was made for cbc38c0")
    return found


def _tensorboard_logger(folder: Path) -> ModuleType:
    """A module with the two functions that upstream's logger takes from tensorboard_logger.

    What upstream wants to write beside its source goes to a folder of the same name in `folder`.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UpstreamError("use_tensorboard=True needs tensorboard: pip install tensorboard") from None
    writers: list[Any] = []

    def configure(directory: str) -> None:
        writers.append(SummaryWriter(folder / Path(directory).name))
        atexit.register(writers[-1].close)

    module: Any = ModuleType("tensorboard_logger")
    module.configure, module.log_value = configure, lambda name, value, step: writers[-1].add_scalar(name, value, step)
    return module


# --- a run ---
def train(checkout: Checkout, config: dict[str, Any], names: tuple[str, str], words: Sequence[str]) -> int:
    """One recorded run of the checkout's own run.run; the exit status: 0 done, 1 failed, or its record is incomplete,
    130 stopped by Ctrl-C, 143 by SIGTERM.

    names: of algorithm and environment, words: what followed `with`; they become the record's command.
    """
    log = _logger()
    log.info("host: %s", checkout)
    require_writable(config["local_results_path"])
    mended = prepare(checkout, config, log)
    if config.get("plugin") == __package__ and config["td_lambda"]:
        log.warning(
            "td_lambda=%s is MMSA's own here: upstream's algorithms have one-step targets, as td_lambda=0",
            config["td_lambda"],
        )
    if config["seed"] is None:
        config["seed"] = secrets.randbelow(2**31)
        log.info("seed=%d was drawn; give it to repeat this run", config["seed"])
    if _is_missing("pkg_resources"):
        _stand_in()
        mended.append("setuptools without pkg_resources, which Sacred needs: importlib.metadata stands in")
        log.info("%s", mended[-1])
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    from sacred import SETTINGS, Experiment

    from .record import Record

    task = re.sub(r"[^\w.:+\-]|^\.+", "_", str(task_of(config)))
    folder = Path(config["local_results_path"]) / "sacred" / config["name"] / task
    SETTINGS["CAPTURE_MODE"] = "no"  # output stays on the terminal
    experiment = Experiment("epymarl-mmsa", save_git_info=False)
    experiment.logger = log  # type: ignore[assignment]
    experiment.add_config(copy.deepcopy(config))
    observer = Record(folder, log)
    experiment.observers.append(observer)

    @experiment.main
    def main(_run: Any) -> None:
        _run.info |= _facts(checkout, config, names, words) | {"mended": mended}
        seed_everything(config["seed"])
        import_module("run").run(_run, _with_env_seed(config), log)

    status, terminated = 0, _terminations()
    try:
        experiment.run()
    except KeyboardInterrupt:
        status = 128 + (terminated[0] if terminated else signal.SIGINT)
    except Exception:
        traceback.print_exc()
        status = 1
    if observer.unwritten:
        log.error("the record is not complete: %s could not be written", ", ".join(observer.unwritten))
        status = status or 1
    if observer.dir is not None:
        outcome = {0: "done", 1: "failed"}.get(status, "stopped")
        print(f"{outcome}: {observer.dir}", flush=True)
    return status


def _terminations() -> list[int]:
    """SIGTERM ends the run as Ctrl-C does, in this process alone, and is then in this list."""
    received: list[int] = []
    own = os.getpid()

    def stop(number: int, _frame: Any) -> None:
        if os.getpid() != own:  # a process that steps environments
            os._exit(128 + number)
        received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    return received


def require_writable(folder: str) -> None:
    """UpstreamError where nothing can be written in the folder, or in the nearest one above it that is there."""
    path = Path(folder).absolute()
    there = next(each for each in (path, *path.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UpstreamError(f"local_results_path={folder}: {there} is no writable folder")


def _with_env_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that gives the environments the run's seed, as upstream's main.py does. The record has it only once."""
    copied = copy.deepcopy(dict(config))
    copied["env_args"]["seed"] = config["seed"]
    return copied


def seed_everything(seed: int) -> None:
    """As upstream's main.py does, and Python's own generator."""
    import numpy as np
    import torch as th

    th.set_num_threads(1)
    random.seed(seed)
    np.random.seed(seed)
    th.manual_seed(seed)


def _facts(
    checkout: Checkout, config: Mapping[str, Any], names: tuple[str, str], words: Sequence[str]
) -> dict[str, Any]:
    """What the record notes beside the configuration."""
    given = [word for word in words if not word.startswith("seed=")] + [f"seed={config['seed']}"]
    command = ["python", "-m", "mmsa", f"--config={names[0]}", f"--env-config={names[1]}", "with", *given]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    package = str(task_of(config)).partition(":")[0]
    return {
        "host": str(checkout),
        "plugin_commit": commit_of(HERE, "upstream.py"),
        "backend": f"{package} {versions[package]}" if package in versions else "",
        "update_to_data": f"an update for each {config['batch_size_run']} episode(s)",
        "versions": versions,
        "command": shlex.join(command),
        "cores": os.cpu_count(),
    }


def _logger() -> logging.Logger:
    log = logging.getLogger(__package__)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("[%(levelname)s %(asctime)s] %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return log
