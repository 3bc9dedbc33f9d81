"""Pictures of the environments, without a display."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import envs
from envs import drawing
from envs.multiagentenv import MissingBackendError
from envs.vector import VectorEnv


def make(env: str, workers: int = 0, n_envs: int = 1, **env_args: Any) -> VectorEnv:
    return envs.make_vector_env(
        SimpleNamespace(
            env=env, env_args=env_args, batch_size_run=n_envs, env_workers=workers, env_timeout=None, seed=1,
            common_reward=True, reward_scalarisation="sum",
        )
    )  # fmt: skip


def play(env: VectorEnv, steps: int) -> list[np.ndarray]:
    """Pictures of the beginning and after each of some random steps."""
    rng = np.random.default_rng(0)
    env.reset()
    pictures = [env.render()]
    for _ in range(steps):
        actions = np.array([[rng.choice(np.flatnonzero(mask)) for mask in masks] for masks in env.avail_actions])
        env.step(actions, np.ones(env.n_envs, bool))
        pictures.append(env.render())
    return pictures


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_display")
@pytest.mark.parametrize(
    ("env", "env_args", "package"),
    [
        ("gymma", {"key": "Foraging-8x8-2p-2f-v3"}, "lbforaging"),
        ("gymma", {"key": "pz-mpe-simple-spread-v3"}, "mpe2"),
        ("smax", {"map_name": "3m"}, "jaxmarl"),
        ("sc2v2", {"map_name": "zerg_5_vs_5", "backend": "smax"}, "jaxmarl"),
        ("mamujoco", {"key": "HalfCheetah-6x1"}, "gymnasium_robotics"),
    ],
)
def test_pictures(env: str, env_args: dict[str, Any], package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    with make(env, **env_args) as vector:
        try:
            pictures = play(vector, 6)
        except MissingBackendError as error:
            assert env == "mamujoco" and "libegl1" in str(error)
            pytest.skip(str(error))
        assert vector.render_fps >= 1
    for picture in pictures:
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        assert picture.shape == pictures[0].shape and min(picture.shape[:2]) >= 200
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3
    assert any((picture != pictures[0]).any() for picture in pictures[1:])


def test_smax_says_that_it_is_not_starcraft() -> None:
    with make("smax", map_name="3m") as vector:
        (picture,) = play(vector, 0)
    wanted = drawing.strip("SMAX, not StarCraft II · m marine", drawing.SIZE, drawing.FOOD)
    assert (picture[: drawing.STRIP] == wanted).all()


@pytest.mark.parametrize(("env", "key"), [("matrix", "climbing"), ("gymma", "rware-tiny-2ag-v2")])
@pytest.mark.usefixtures("no_display")
def test_no_pictures(env: str, key: str) -> None:
    if env == "gymma":
        pytest.importorskip("rware")
    with make(env, key=key) as vector:
        vector.reset()
        with pytest.raises(NotImplementedError, match=f"{key} has no pictures"):
            vector.render()


def test_mujoco_without_opengl(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gymnasium_robotics")
    monkeypatch.setitem(os.environ, "MUJOCO_GL", "nothing")
    with make("mamujoco", key="Hopper-3x1") as vector:
        vector.reset()
        with pytest.raises(MissingBackendError, match="MUJOCO_GL=nothing.*apt-get install"):
            vector.render()
    assert "Traceback" not in capfd.readouterr().err


# --- the drawings ---
def near(picture: np.ndarray, x: float, y: float, colour: tuple[int, int, int]) -> bool:
    return bool((picture[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2] == colour).all(-1).any())


def test_foraging() -> None:
    field = np.zeros((4, 6), int)
    field[3, 5] = 2
    picture = drawing.foraging(field, [((0, 1), 1), ((2, 0), 2)])
    assert picture.shape == (4 * 80 + 1 + drawing.STRIP, 6 * 80 + 1, 3)
    assert near(picture, 1 * 80 + 20, 20, drawing.AGENTS[0])
    assert near(picture, 20, 2 * 80 + 20, drawing.AGENTS[1])
    assert near(picture, 5 * 80 + 20, 3 * 80 + 40, drawing.FOOD)
    assert not near(picture, 3 * 80 + 40, 40, drawing.FOOD)
    other = drawing.foraging(field, [((0, 1), 2), ((2, 0), 2)])
    assert (other != picture).any()  # levels are written


def test_battle() -> None:
    positions = np.array([[4.0, 4.0], [28.0, 28.0], [4.0, 28.0]])
    health, radii = np.array([1.0, 0.5, 0.0]), np.array([0.6, 0.6, 0.6])

    def draw(shots: list[tuple[int, int]]) -> np.ndarray:
        return drawing.battle(positions, health, radii, ["m", "z", "z"], 1, shots, (32.0, 32.0), "not StarCraft II")

    picture, strip = draw([]), drawing.STRIP
    edge = 0.5 * 15  # pixels from the middle, between the letter and the rim
    assert near(picture, 60 - edge, 420 + strip, drawing.ALLY)
    assert near(picture, 420 - edge, 60 + strip, drawing.ENEMY)
    assert not near(picture, 60 - edge, 60 + strip, drawing.ENEMY)  # dead
    bar = 60 - 9 - 6 + 1 + strip
    assert near(picture, 414, bar, drawing.HEALTHY) and near(picture, 427, bar, drawing.HURT)
    assert near(draw([(1, 0)]), 240, 240 + strip, drawing.ENEMY) and not near(picture, 240, 240 + strip, drawing.ENEMY)


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    env_args = {"key": "Foraging-5x5-2p-1f-v3"}
    config = {"env": "gymma", "env_args": env_args, "common_reward": True, "env_workers": 0, "render": True}
    with pytest.raises(ValueError, match="render=True needs a display; --watch makes a film without one"):
        envs.require(config)
    monkeypatch.setenv("DISPLAY", ":0")
    envs.require(config)
