"""`python src/main.py --check`: what can run on this machine, and the command that mends what cannot."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import platform
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from experiments.planning import usable_cores
from utils.cli import require_writable
from utils.config import ROOT, ConfigError, available, load_yaml, require_environment
from utils.mongo import LOCAL_MONGO, MONGO_VARIABLE, address, connect

WIDTH = 120
PATIENCE_MS = 500  # for MongoDB, which is next door or not there
LBF = "Foraging-2s-8x8-2p-2f-coop-v3"


class Line(NamedTuple):
    """One line of the report."""

    name: str
    mark: str  # ok, no, or - for what is a plain fact
    text: str


def check() -> int:
    """Prints the report; exit status 0, whatever is missing: what is needed is for the reader to say."""
    for title, lines in (
        ("this machine", machine),
        ("environments (--env-config=)", environments),
        ("trackers, comparisons, films", extras),
    ):
        print(title, flush=True)
        for line in lines():
            head = f"  {line.name:<16} {line.mark:<3} "
            first, *more = line.text.splitlines() or [""]
            wrapped = textwrap.wrap(first, WIDTH - len(head), break_long_words=False, break_on_hyphens=False) or [""]
            for text in more:
                wrapped += textwrap.wrap(
                    text, WIDTH - len(head), subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
                )
            print(head + f"\n{'':<{len(head)}}".join(wrapped), flush=True)
    return 0


# --- this machine ---
def machine() -> Iterator[Line]:
    """Python, torch, threads, GPU, and where results go."""
    yield Line(
        "Python", "ok", f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    )
    yield _tried("torch", _torch)
    yield Line("threads", "-", f"{os.cpu_count()} cores, {usable_cores()} for this process; torch_threads=1 a run")
    yield _tried("GPU", _gpu)
    yield _tried("results", _results)


def _torch() -> str:
    torch = importlib.import_module("torch")
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU only"
    return f"{torch.__version__}, built {build}"


def _gpu() -> str:
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    if torch.version.cuda is None:
        raise Problem(
            "not used: this torch is built for the CPU only; with an NVIDIA GPU: pip install torch --force-reinstall"
        )
    try:
        torch.cuda.init()  # says why
    except RuntimeError as error:
        raise Problem(f"not used: {_first_line(error)} (nvidia-smi shows what the driver sees)") from None
    raise Problem("not used: torch finds no CUDA device (nvidia-smi shows what the driver sees)")


def _results() -> str:
    folder = Path(load_yaml(ROOT / "config" / "default.yaml")["local_results_path"]).absolute()
    try:
        there = require_writable(folder, str(folder))
    except ConfigError as error:
        raise Problem(f"{error}: with local_results_path=FOLDER results go elsewhere") from None
    return f"{folder} can be written, {shutil.disk_usage(there).free / 1e9:.0f} GB free"


# --- environments ---
def environments() -> Iterator[Line]:
    """Each environment's file, built or imported as before a run; sc2v2 with each of its backends."""
    for name, path in available("envs").items():
        for shown, config in _cases(name, load_yaml(path)):
            yield _tried(shown, lambda config=config: _environment(config))  # type: ignore[misc]


def _cases(name: str, content: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    default = load_yaml(ROOT / "config" / "default.yaml")
    config = {**default, **content, "env_args": dict(content.get("env_args") or {})}
    if "key" in config["env_args"] and config["env_args"]["key"] is None:
        config["env_args"]["key"] = LBF  # gymma's file leaves it to the user
    if "backend" not in config["env_args"]:
        yield name, config
        return
    for backend in ("starcraft2", "smax"):
        yield f"{name} {backend}", {**config, "env_args": {**config["env_args"], "backend": backend}}


def _environment(config: Mapping[str, Any]) -> str:
    try:
        require_environment(config)
        if config["env_args"].get("backend") == "smax":
            require_environment({**config, "env": "smax", "env_args": {}})
    except ConfigError as error:
        raise Problem(str(error)) from None
    task = config["env_args"].get("key") or config["env_args"].get("map_name")
    return f"{task} can be run"


# --- trackers and tools ---
def extras() -> Iterator[Line]:
    """MongoDB, TensorBoard, W&B, Ray, the report and films."""
    yield _tried("MongoDB", _mongo)
    yield _tried("TensorBoard", lambda: _package("tensorboard", "tensorboard", "use_tensorboard=True"))
    yield _tried(
        "W&B", lambda: _package("wandb", "wandb", "use_wandb=True writes offline; wandb login for the service")
    )
    yield _tried("Ray", lambda: _package("ray", "ray", "compare.py --ray ADDRESS"))
    yield _tried("report", _report)
    yield _tried("films as MP4", lambda: _package("imageio-ffmpeg", "video", "--watch RUN --out film.mp4"))


def _package(name: str, extra: str, use: str) -> str:
    """Installed packages; their import, which takes seconds, is left out."""
    try:
        found = version(name)
    except PackageNotFoundError:
        found = ""
    if not found or importlib.util.find_spec(name.replace("-", "_")) is None:
        raise Problem(f"needs the package {name}: pip install -e '.[{extra}]'")
    return f"{name} {found}: {use}"


def _mongo() -> str:
    url = os.environ.get(MONGO_VARIABLE)
    text = _package("pymongo", "mongo", "--mongo URL")
    where = address(url or LOCAL_MONGO, MONGO_VARIABLE if url else "--mongo")
    client = connect(where, PATIENCE_MS)
    try:
        client.admin.command("ping")
    except Exception as error:  # its own words may hold the password
        raise Problem(
            f"{text}; but no server answers at {where.shown} ({type(error).__name__}); start one, or name another "
            f"with --mongo or {MONGO_VARIABLE}: docker run -d -p 127.0.0.1:27017:27017 mongo"
        ) from None
    finally:
        client.close()
    return f"{text}; the server at {where.shown} answers"


def _report() -> str:
    importlib.import_module("reports.report").require_packages()
    return "compare.py --report"


# --- helpers ---
class Problem(Exception):
    """Why something cannot run here, with what mends it."""


def _tried(name: str, what: Callable[[], str]) -> Line:
    """The line for this part. Whatever it raises or prints, the report goes on."""
    out = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            warnings.simplefilter("ignore")
            return Line(name, "ok", what())
    except (Problem, ConfigError) as error:
        return Line(name, "no", str(error))
    except ModuleNotFoundError as error:
        return Line(name, "no", f"the package {error.name} is not installed: pip install -e .")
    except Exception as error:  # a broken package raises anything when it is imported
        cure = "pip install --force-reinstall -c constraints.txt -e ."
        return Line(name, "no", f"installed, but broken ({type(error).__name__}: {_first_line(error)}): {cure}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
