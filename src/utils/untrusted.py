"""Records of runs as data from elsewhere: nothing that they name is imported, or written to, unasked."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.gymma import PACKAGES
from utils import config as configs
from utils import hosts
from utils.config import ConfigError

LIMIT = 2**28  # bytes of a record's file; info.json holds the metrics


def find_run(option: str, name: str) -> Path:
    """The folder of a run's record, or of its saved networks; a folder above is fine where it holds one run.

    :param option: of the command line, for messages.
    """
    folder = Path(name)
    if not os.path.isdir(folder):
        raise ConfigError(f"{option}={name}: there is no such folder; a run is in results/sacred/ALGORITHM/TASK/ID")
    if (folder / "config.json").is_file():
        return folder
    if folder.name.isdecimal() and (folder.parent / "config.json").is_file():
        raise ConfigError(f"{option}={name}: name the folder above, and the step as: with load_step={folder.name}")
    below = sorted(path.parent for path in folder.rglob("run.json"))
    if len(below) == 1:
        return below[0]
    several = f"{len(below)} runs are in it; name one, as {below[0]}" if below else "no run is recorded there"
    raise ConfigError(f"{option}={name}: {several}")


def root_of(folder: Path) -> Path | None:
    """local_results_path as it is now, moved or not, of the record in this folder; None where it lies in no results."""
    parents = folder.absolute().parents  # task, algorithm, sacred, root
    return parents[3] if len(parents) > 3 and parents[2].name == "sacred" else None


def read(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file of a record."""
    try:
        if path.stat().st_size > LIMIT:
            raise ConfigError(f"{path}: larger than {LIMIT} bytes, this is no file of a run")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping of keys to values is wanted, this is a {type(content).__name__}")
    return content


def inside(name: str) -> str:
    """The name of a file or folder within another one. ValueError where it leads out of it."""
    path = Path(name)
    if not name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} names nothing within a folder")
    return name


def refuse_links(folder: Path) -> None:
    """ConfigError for a symbolic link in the folder: what is written there would be written elsewhere."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ConfigError(f"{path}: this is a symbolic link, as no record has one; nothing is written there")


def refuse_code(config: Mapping[str, Any], source: Path, trusted: Sequence[str]) -> None:
    """ConfigError where checking this configuration would import what is neither this checkout's nor trusted."""
    problems = [
        f"{source}: {key} names code to import that is not this checkout's: {name!r}. If you know it and trust it: "
        f"--trust {shlex.quote(name)}"
        for key, name in named_code(config)
        if name not in trusted
    ]
    if problems:
        raise ConfigError(problems)


def named_code(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, name) of all that checking this configuration would import, of what is not this checkout's own."""
    packages = {path.parent.name for path in configs.ROOT.glob("plugins/*/__init__.py")}
    for key, own in (("plugin", packages), ("env_module", set())):
        code = config.get(key)
        if isinstance(code, str) and code and code not in own and not _is_own_file(key, code):
            yield key, code
    env_args = config.get("env_args")
    task = env_args.get("key") if isinstance(env_args, dict) else None
    if config.get("env") == "gymma" and isinstance(task, str):
        package = task.rpartition(":")[0]  # package:id imports the package
        if package and package not in PACKAGES.values():
            yield "env_args.key", package


def _is_own_file(key: str, name: str) -> bool:
    """Whether plugin or env_module may name it unasked: a file that our YAML files name, or one of our benchmarks."""
    listed = [path for kind in ("envs", "algs") for path in configs.available(kind).values()]
    files = [*listed, *(configs.ROOT / "examples").glob("*.yaml")]
    named = ((path.parent, configs.load_yaml(path).get(key)) for path in files)
    own = {(folder / file).resolve() for folder, file in named if isinstance(file, str)}
    own |= {path.resolve() for path in (configs.ROOT / "benchmarks").glob("*.py")}
    try:
        return hosts.file_of(name).resolve() in own
    except (OSError, RuntimeError, ValueError):  # a name that no file can have
        return False
