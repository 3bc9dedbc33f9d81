"""MMSA (Wang & Meger, AAMAS 2026) as a plugin for EPyMARL: learner, controller, agent, mixer and world model."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .config import MMSAConfig as Config
from .config import check

__all__ = ["Config", "check", "register"]


def register() -> None:
    """Fills the registries of the host whose modules are on sys.path. Raises ValueError where a name is taken."""
    from .agent import MMSAAgent
    from .controller import MMSAController
    from .learner import MMSALearner
    from .mixer import MMSAMixer
    from .world_model import WorldModel

    entries: list[tuple[str, str, Any]] = [
        ("learners", "mmsa_learner", MMSALearner),
        ("controllers", "mmsa_mac", MMSAController),
        ("modules.agents", "mmsa_agent", MMSAAgent),
        ("modules.mixers", "mmsa_mixer", MMSAMixer),
        ("modules.world_models", "mmsa", WorldModel),
    ]
    registries = [_registry(module) for module, _, _ in entries]
    for registry, (module, name, entry) in zip(registries, entries, strict=True):
        if registry.get(name, entry) is not entry:
            raise ValueError(f"{module}.REGISTRY already has another {name!r}; two plugins can't share a name")
    for registry, (_, name, entry) in zip(registries, entries, strict=True):
        registry[name] = entry


def _registry(module: str) -> dict[str, Any]:
    """The host's registry; an empty one where upstream has none (mixers, world models)."""
    if module in ("modules.mixers", "modules.world_models"):
        try:
            return getattr(import_module(module), "REGISTRY", {})
        except ModuleNotFoundError:
            return {}
    return import_module(module).REGISTRY
