"""sc2v2 says which simulator it is, and what is missing for StarCraft II."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import envs
from envs import sc2v2, smacv2
from envs.sc2v2 import MAPS, Sc2v2Args

needs_smax = pytest.mark.skipif(
    importlib.util.find_spec("jaxmarl") is None, reason="needs jaxmarl: pip install jaxmarl six"
)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like StarCraft II with maps, and a package smacv2."""
    for path in (tmp_path / "Versions" / "Base75689" / "SC2_x64", tmp_path / "Maps" / smacv2.MAP_FILE):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    package(monkeypatch, True)
    return tmp_path


def package(monkeypatch: pytest.MonkeyPatch, there: bool, imported: Exception | None = None) -> None:
    """The package is there or not; importing it raises the error."""
    found = importlib.util.find_spec
    ours = ("smacv2", "pysc2", "s2clientprotocol")
    answer = found("json") if there else None
    monkeypatch.setattr(smacv2.importlib.util, "find_spec", lambda name: answer if name in ours else found(name))

    def load() -> None:
        if imported is not None:
            raise imported

    monkeypatch.setattr(smacv2, "_package", load)


def test_maps() -> None:
    assert len(MAPS) == 15 and Sc2v2Args().map_name == "protoss_5_vs_5" and Sc2v2Args().backend == "auto"
    with pytest.raises(ValidationError, match="protoss_10_vs_11"):
        Sc2v2Args(map_name="protos_10_vs_11")
    with pytest.raises(ValidationError, match="starcraft2"):
        Sc2v2Args(backend="sc2")


def test_missing_pieces_are_all_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    package(monkeypatch, False)
    with pytest.raises(envs.MissingBackendError) as error:
        make("sc2v2", backend="starcraft2")
    message = str(error.value)
    for piece in ("smacv2 and pysc2", "pip install -r requirements-sc2.txt", "environment of its own", "SC2PATH",
                  "nowhere", "32x32_flat", "docker/install_sc2.sh", "backend=smax"):  # fmt: skip
        assert piece in message
    assert message.count("\n  - ") == 3


def test_nothing_is_missing(installed: Path) -> None:
    assert sc2v2.missing_pieces() == []
    sc2v2.require("zerg_5_vs_5", "starcraft2")


@pytest.mark.parametrize(
    ("gone", "word"),
    [
        ("Versions/Base75689/SC2_x64", "StarCraft II: no Versions"),
        ("Maps/SMAC_Maps/32x32_flat.SC2Map", "the SMAC maps"),
    ],
)
def test_only_what_is_missing_is_named(installed: Path, gone: str, word: str) -> None:
    (installed / gone).unlink()
    (piece,) = sc2v2.missing_pieces()
    assert piece.startswith(word) and "install_sc2.sh" in piece


def test_a_map_in_the_wrong_folder_is_missing(installed: Path) -> None:
    path = installed / "Maps" / smacv2.MAP_FILE
    path.rename(installed / "Maps" / path.name)
    (piece,) = sc2v2.missing_pieces()
    assert piece.startswith("the SMAC maps: no SMAC_Maps")


def test_a_package_that_cannot_be_imported_is_missing(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real loader, and a module in smacv2's place that cannot be imported
    monkeypatch.setenv("SC2PATH", str(installed))
    folder = installed / "broken"
    for name in ("smacv2", "pysc2", "s2clientprotocol"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise TypeError('Descriptors cannot be created directly.')")
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(str(folder))
    (piece,) = sc2v2.missing_pieces()
    assert "Descriptors cannot be created directly" in piece and "protobuf < 3.21" in piece


def test_without_sc2path_the_default_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SC2PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    game = next(piece for piece in sc2v2.missing_pieces() if piece.startswith("StarCraft II"))
    assert "SC2PATH is not set" in game and str(tmp_path / "StarCraftII") in game


def test_auto_takes_starcraft_where_it_is(installed: Path) -> None:
    config = {"env": "sc2v2", "env_args": {"map_name": "zerg_5_vs_5", "backend": "auto"}}
    assert sc2v2.backend_of("auto") == "starcraft2" and envs.simulator_suffix(config) == ""
    assert sc2v2.backend_of("smax") == "smax"
    (installed / "Maps" / smacv2.MAP_FILE).unlink()
    assert sc2v2.backend_of("auto") == "smax" and envs.simulator_suffix(config) == "-SMAX"
    assert sc2v2.backend_of("starcraft2") == "starcraft2"


def test_a_record_says_its_simulator_wherever_it_is_read() -> None:
    config = {"env": "sc2v2", "env_args": {"backend": "auto"}}
    assert envs.simulator_suffix(config, "StarCraft II Base75689 (smacv2 1.0.0)") == ""
    assert envs.simulator_suffix(config, "SMAX (jaxmarl 0.2.0), not StarCraft II") == "-SMAX"
    assert envs.simulator_suffix({"env": "gymma"}, "smaxish") == ""


def test_neither_simulator_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path))

    def absent() -> str:
        raise envs.MissingBackendError("SMAX needs the package jaxmarl")

    monkeypatch.setattr(sc2v2.smax, "backend_name", absent)
    with pytest.raises(envs.MissingBackendError, match="neither in StarCraft II(.|\n)*SMAC maps(.|\n)*SMAX needs"):
        sc2v2.require(backend="auto")
    with pytest.raises(envs.MissingBackendError, match="^SMAX needs"):
        sc2v2.require(backend="smax")


@pytest.mark.parametrize(("backend", "fine"), [("starcraft2", True), ("smax", False)])
def test_workers_are_for_starcraft_only(
    installed: Path, backend: str, fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"env": "sc2v2", "env_args": {"backend": backend}, "env_workers": 2, "render": False}
    if fine:
        envs.require(config)
    else:
        monkeypatch.setattr(sc2v2.smax, "backend_name", lambda: "SMAX")
        with pytest.raises(ValueError, match="env_workers=2"):
            envs.require(config)


@needs_smax
def test_auto_falls_back_to_smax_loudly(make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    vector = make("sc2v2", 3, map_name="zerg_5_vs_5", time_limit=12)
    assert vector.backend.startswith("SMAX (jaxmarl") and vector.backend.endswith(", not StarCraft II")
    assert "not StarCraft II itself" in vector.banner and "zerg_5_vs_5" in vector.banner
    assert "Missing for StarCraft II: " in vector.banner and "the SMAC maps" in vector.banner
    assert vector.info["backend"] == vector.backend and vector.info["backend_note"] == vector.banner


@needs_smax
def test_numbers_and_types_of_units(make: Any) -> None:
    vector = make("sc2v2", 4, map_name="protoss_10_vs_11", backend="smax")
    assert (vector.n_agents, vector.n_actions, vector.episode_limit) == (10, 5 + 11, 100)
    types = []
    for _ in range(4):
        vector.reset()
        types.append(np.asarray(vector._carry[1].state.unit_types))
    drawn = np.concatenate(types)
    assert drawn.shape == (16, 21) and set(np.unique(drawn)) == {0, 1}
    assert np.array_equal(drawn[:, :10], drawn[:, 10:20]), "the enemy mirrors the allies"
    assert set(drawn[:, 20]) == {0, 1}, "the extra enemy is drawn too"
    health = np.asarray(vector._carry[1].state.unit_health)
    assert np.array_equal(np.where(types[-1] == 0, 160.0, 150.0), health)  # stalker, zealot


@needs_smax
def test_smax_time_limit_of_a_map_is_truncation(make: Any) -> None:
    vector = make("sc2v2", 3, map_name="zerg_5_vs_5", backend="smax", time_limit=12)
    vector.reset()
    on = np.ones(3, bool)
    for t in range(1, 13):
        noop = np.zeros((3, 5), np.int64)
        for i, info in vector.step(noop, on):
            on[i] = False
            assert "battle_won" in info
            assert vector.truncated[i] == (t == 12 and not vector.terminated[i])
    assert not on.any()
