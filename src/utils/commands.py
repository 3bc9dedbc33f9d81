"""Commands that repeat a run, rebuilt from its configuration."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from utils.config import ConfigError, find, load_yaml, parse_value


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("env_args.key", value) for every value, mappings within mappings opened."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def rebuilt_command(config: Mapping[str, Any], algorithm: str = "", environment: str = "") -> str:
    """A command that makes this configuration, by this checkout's config files; "" where they lack the algorithm.

    `algorithm`, `environment`: names of the config files; by default what the configuration calls them.
    local_results_path, which says nothing about the run, is left out.
    """
    algorithm, environment = algorithm or config["name"], environment or config["env"]
    try:
        defaults = _defaults(algorithm, environment)
    except ConfigError:
        return ""
    words = ["python", "src/main.py", f"--config={algorithm}", f"--env-config={environment}"]
    overrides = [
        f"{key}={_typed(value)}"
        for key, value in flat(config)
        if key != "local_results_path"
        and (key not in defaults or defaults[key] != value)
        # what no file names is a model's own default; None and {} say nothing
        and not (key not in defaults and value in (None, {}))
    ]
    return shlex.join([*words, *(["with", *overrides] if overrides else [])])


def _defaults(algorithm: str, environment: str) -> Mapping[str, Any]:
    env = find("envs", environment)
    return _files((env.parents[1] / "default.yaml", env, find("algs", algorithm)))


@lru_cache(maxsize=64)
def _files(paths: tuple[Path, ...]) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for path in paths:
        defaults.update(flat(load_yaml(path)))
    return defaults


def _typed(value: Any) -> str:
    """The value as the command line reads it back."""
    text = value if isinstance(value, str) else repr(value)
    return text if parse_value(text) == value else repr(value)
