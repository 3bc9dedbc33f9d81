"""Plugins: a package named in an algorithm's YAML is imported, and fills the host's registries."""

from __future__ import annotations

import importlib
from types import ModuleType

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
    """The plugin's package. It offers `Config` (a pydantic model of its keys) and `register()`."""
    try:
        plugin = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise PluginError(f"there is no installed package {name!r}; this project's: pip install -e .") from None
    missing = [part for part in ("Config", "register") if not hasattr(plugin, part)]
    if missing:
        raise PluginError(f"the package {name!r} is no plugin: it has no {' and no '.join(missing)}")
    return plugin


def register_plugin(name: str) -> None:
    """Let the plugin fill the registries, once a process."""
    if name not in _registered:
        import_plugin(name).register()
        _registered.add(name)


def names(key: str) -> list[str]:
    """The names that the config key `key` can take at this moment."""
    return sorted(importlib.import_module(REGISTRIES[key]).REGISTRY)
