"""The plugin fills the host's registries: once, always with the same, and never over something else."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
from support.mmsa import plugin_keys

import mmsa
from mmsa.agent import MMSAAgent
from mmsa.controller import MMSAController
from mmsa.learner import MMSALearner
from mmsa.mixer import MMSAMixer
from mmsa.world_model import WorldModel

ENTRIES = {
    "learners": ("learner", MMSALearner),
    "controllers": ("mac", MMSAController),
    "modules.agents": ("agent", MMSAAgent),
    "modules.mixers": ("mixer", MMSAMixer),
}


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    """Copies, so that nothing stays."""
    found = {}
    for name in (*ENTRIES, "modules.world_models"):
        module = importlib.import_module(name)
        found[name] = {key: value for key, value in module.REGISTRY.items() if "mmsa" not in key}
        monkeypatch.setattr(module, "REGISTRY", found[name])
    return found


def test_register_adds_what_the_yaml_names_and_nothing_else(registries: dict[str, dict]) -> None:
    before = {name: dict(registry) for name, registry in registries.items()}
    mmsa.register()
    keys = plugin_keys()
    for module, (key, entry) in ENTRIES.items():
        assert registries[module] == before[module] | {keys[key]: entry}
    assert registries["modules.world_models"] == before["modules.world_models"] | {"mmsa": WorldModel}


def test_registering_twice_is_registering_once(registries: dict[str, dict]) -> None:
    mmsa.register()
    once = {name: dict(registry) for name, registry in registries.items()}
    mmsa.register()
    assert registries == once


@pytest.mark.parametrize("module", ENTRIES)
def test_a_name_that_is_taken_is_refused(registries: dict[str, dict], module: str) -> None:
    name = plugin_keys()[ENTRIES[module][0]]
    registries[module][name] = taken = object()
    with pytest.raises(ValueError, match=f"{module}.*'{name}'"):
        mmsa.register()
    assert registries[module][name] is taken


def test_a_host_without_registries_of_mixers_and_world_models(
    registries: dict[str, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "modules.world_models", None)  # its import fails
    monkeypatch.setitem(sys.modules, "modules.mixers", ModuleType("modules.mixers"))  # no REGISTRY in it
    mmsa.register()
    assert registries["learners"][plugin_keys()["learner"]] is MMSALearner
