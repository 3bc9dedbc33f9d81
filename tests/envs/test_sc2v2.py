"""sc2v2 says which simulator it is, and what is missing for StarCraft II."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import envs
from envs import sc2v2
from envs.sc2v2 import MAPS, Sc2v2Args


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like StarCraft II with maps, and a package smacv2."""
    (tmp_path / "Versions").mkdir()
    (tmp_path / "Maps" / "SMAC_Maps").mkdir(parents=True)
    (tmp_path / "Maps" / "SMAC_Maps" / "32x32_flat.SC2Map").touch()
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    found = importlib.util.find_spec
    monkeypatch.setattr(sc2v2.importlib.util, "find_spec", lambda n: found("json") if n == "smacv2" else found(n))
    return tmp_path


def test_maps() -> None:
    assert len(MAPS) == 15 and Sc2v2Args().map_name == "protoss_5_vs_5" and Sc2v2Args().backend == "auto"
    with pytest.raises(ValidationError, match="protoss_10_vs_11"):
        Sc2v2Args(map_name="protos_10_vs_11")
    with pytest.raises(ValidationError, match="starcraft2"):
        Sc2v2Args(backend="sc2")


def test_missing_pieces_are_all_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(sc2v2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(envs.MissingBackendError) as error:
        make("sc2v2", backend="starcraft2")
    message = str(error.value)
    for piece in ("pip install git+", "SC2PATH", "nowhere", "32x32_flat", "backend=smax"):
        assert piece in message
    monkeypatch.undo()
    request.getfixturevalue("installed")
    assert sc2v2.missing_pieces() == []


def test_only_what_is_missing_is_named(installed: Path) -> None:
    (installed / "Versions").rmdir()
    (piece,) = sc2v2.missing_pieces()
    assert "Versions" in piece


def test_the_real_backend_is_not_finished(installed: Path, make: Any) -> None:
    with pytest.raises(envs.BackendNotFinishedError, match="not finished"):
        make("sc2v2", backend="starcraft2")


@pytest.mark.parametrize("complete", [False, True])
def test_auto_falls_back_to_smax_loudly(
    complete: bool, make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if complete:  # the backend is not finished, so StarCraft II is not taken even then
        request.getfixturevalue("installed")
    else:
        monkeypatch.setenv("SC2PATH", str(tmp_path))
    vector = make("sc2v2", 3, map_name="zerg_5_vs_5", time_limit=12)
    assert vector.backend.startswith("SMAX (jaxmarl") and vector.backend.endswith(", not StarCraft II")
    assert "not StarCraft II itself" in vector.banner and "zerg_5_vs_5" in vector.banner
    assert ("a finished StarCraft II backend" in vector.banner) == complete
    assert vector.info["backend"] == vector.backend and vector.info["backend_note"] == vector.banner


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
