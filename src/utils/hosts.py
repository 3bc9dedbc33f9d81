"""Plugins: a package or file that an algorithm's YAML names, or a module that an environment's names, fills the
registries."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
REGISTRIES = {  # config key -> module whose REGISTRY holds its values
    "learner": "learners",
    "mac": "controllers",
    "agent": "modules.agents",
    "mixer": "modules.mixers",
    "critic_type": "modules.critics",
    "action_selector": "components.action_selectors",
    "env": "envs",
    "runner": "runners",
}
_registered: set[str] = set()


class PluginError(Exception):
    """A plugin cannot be used; the message says why and what to do."""


def import_plugin(name: str) -> ModuleType:
    """The plugin: a Python file (as of register_environment), or a package, this checkout's if it has one.

    It offers `Config`, a pydantic model, and `register()`.
    """
    if name.endswith(".py"):
        return _checked(_import_file(file_of(name)), name)
    own = ROOT / "plugins"
    if os.path.isfile(own / name / "__init__.py") and str(own) not in sys.path[:1]:  # before one that is installed
        sys.path.insert(0, str(own))
    cure = f"put the folder that holds {name}/ on PYTHONPATH, or {name}/ itself into {own}, or name a file: {name}.py"
    missing = f"there is no package {name!r}; " + ("pip install -e ." if name == "mmsa" else cure)
    return _checked(_import_name(name, missing), name)


def _checked(plugin: ModuleType, name: str) -> ModuleType:
    config = getattr(plugin, "Config", None)
    lacking = [] if isinstance(config, type) and issubclass(config, BaseModel) else ["Config (a pydantic model)"]
    lacking += [] if callable(getattr(plugin, "register", None)) else ["register()"]
    if lacking:
        without = " and no ".join(lacking)
        raise PluginError(f"{name!r} is no plugin: it has no {without}; examples/my_mixer.py shows one")
    return plugin


def register_plugin(name: str) -> None:
    """Let the plugin fill the registries, once a process; PluginError where it cannot."""
    if name not in _registered:
        _register(import_plugin(name), name)
        _registered.add(name)


def register_environment(module: str) -> None:
    """Let a module add its environment, once a process; PluginError where it cannot.

    module: a Python file (see `file_of`; its folder is appended to sys.path, so that worker processes find it, too), or
    the name of an installed module. It offers `register()`, which calls `envs.register`.
    """
    if module in _registered:
        return
    if module.endswith(".py"):
        imported = _import_file(file_of(module))
    else:
        missing = f"there is no installed module {module!r}; name a file: env_module=path/to/my_env.py"
        imported = _import_name(module, missing)
    if not callable(getattr(imported, "register", None)):
        raise PluginError(f"{module!r} adds no environment: it has no register(); examples/my_env.py shows one")
    if imported.register is importlib.import_module("envs").register:
        raise PluginError(
            f"{module!r} has the register() of envs alone: define one of its own, which calls envs.register; "
            "examples/my_env.py shows one"
        )
    _register(imported, module)
    _registered.add(module)


def _register(module: ModuleType, name: str) -> None:
    try:
        module.register()
    except ValueError as error:
        raise PluginError(f"register() of {name!r}: {error}") from None
    except ImportError as error:
        hint = "; what code written for EPyMARL imports from there, and is not here, comes with the plugin"
        theirs = (error.name or "").partition(".")[0] in ("components", "controllers", "learners", "modules", "utils")
        raise PluginError(f"register() of {name!r}: {error}{hint if theirs else ''}") from error


def file_of(module: str) -> Path:
    """The file that plugin or env_module names: this checkout's, wherever the run is started, else from the working
    directory."""
    own = ROOT / module
    return own if os.path.isfile(own) else Path(module)


def _import_name(name: str, missing: str) -> ModuleType:
    """PluginError with the text `missing` where there is no such module; one that it lacks itself is its own error."""
    if not all(part.isidentifier() for part in name.split(".")):  # ./my_env.yaml: Python has other errors for these
        raise PluginError(missing)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise PluginError(missing) from None
    except SyntaxError as error:
        raise PluginError(f"{name!r} cannot be imported: SyntaxError: {error}") from error


def _import_file(path: Path) -> ModuleType:
    path = path.absolute()
    if not os.path.isfile(path):
        raise PluginError(f"there is no file {path}")
    if not path.stem.isidentifier():
        raise PluginError(f"{path.name}: Python can import no file of this name; letters, digits and _ are fine")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(path.stem)
    except (SyntaxError, ImportError) as error:
        raise PluginError(f"{path.name} cannot be imported: {type(error).__name__}: {error}") from error
    if module.__file__ is None or not path.samefile(module.__file__):
        there = module.__file__ or "Python itself"
        raise PluginError(f"another module has the name {path.stem} ({there}): rename {path.name}")
    return module


def trains_as(learner: str, host: str) -> bool:
    """Whether the learner of that name is the host's of the other, or a plugin's that took over its `train`."""
    registry = importlib.import_module(REGISTRIES["learner"]).REGISTRY
    train = getattr(registry[host], "train", None)
    return learner == host or getattr(registry.get(learner), "train", None) is train


def names(key: str) -> list[str]:
    """The names that the config key `key` can take at this moment."""
    return sorted(importlib.import_module(REGISTRIES[key]).REGISTRY)
