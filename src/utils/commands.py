"""Commands that repeat a run, rebuilt from its configuration."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from utils import config as configs
from utils.config import ConfigError, find, load_layer, written_value
from utils.schema import as_today, later_args


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("env_args.key", value) for every value, mappings within mappings opened."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def rebuilt_command(config: Mapping[str, Any], algorithm: str = "", environment: str = "") -> str:
    """A command that makes this configuration, by this checkout's config files; "" where they lack the algorithm.

    `algorithm`, `environment`: names of the config files; by default what the configuration calls them. A YAML of the
    user's own is named with its whole path. local_results_path, which says nothing about the run, is left out.
    """
    algorithm, environment = algorithm or config["name"], environment or config["env"]
    try:
        files = find("envs", environment), find("algs", algorithm)
        defaults = _defaults((configs.ROOT / "config" / "default.yaml", *files))
    except ConfigError:
        return ""
    if environment.endswith(".yaml"):
        environment = str(files[0])
    if algorithm.endswith(".yaml"):
        algorithm = str(files[1])
    words = ["python", "src/main.py", f"--config={algorithm}", f"--env-config={environment}"]
    overrides = [
        f"{key}={written_value(value)}"
        for key, value in flat(as_today(config))
        if key != "local_results_path"
        and (key not in defaults or defaults[key] != value)
        # what no file names is a model's own default; None and {} say nothing
        and not (key not in defaults and value in (None, {}))
    ]
    return shlex.join([*words, *(["with", *overrides] if overrides else [])])


@lru_cache(maxsize=64)
def _defaults(files: tuple[Path, ...]) -> Mapping[str, Any]:
    defaults: dict[str, Any] = {}
    for path in files:
        defaults.update(flat(load_layer(path)))
    # Their models' defaults, where a user's older file lacks them.
    return {f"env_args.{key}": value for key, value in later_args(defaults).items()} | defaults
