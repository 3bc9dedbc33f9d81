"""Films: their speed, their size, and what is left where they cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from utils import film
from utils.config import ConfigError
from utils.film import Film


def shoot(path: Path, fps: int, n: int = 40) -> None:
    """n pictures, no two the same, and a last one for a second."""
    with Film(path, fps) as shot:
        for i in range(n):
            shot.add(np.full((40, 60, 3), 4 * i, np.uint8), f"{i}")
        shot.add(np.full((40, 60, 3), 255, np.uint8), "the end", times=fps)


@pytest.mark.parametrize("fps", [5, 20, 30, 50, 67, 125])
def test_a_gif_runs_at_the_real_speed(tmp_path: Path, fps: int) -> None:
    """Players slow down pictures of less than 20 ms, and the file counts in 10 ms."""
    shoot(tmp_path / "a.gif", fps)
    with Image.open(tmp_path / "a.gif") as gif:
        shown = [(gif.seek(i), gif.info["duration"])[1] for i in range(gif.n_frames)]
        last = np.asarray(gif.convert("RGB"))
    assert min(shown) >= 20 and sum(shown) == pytest.approx(1000 * (40 + fps) / fps, abs=10)
    assert len(shown) == 41 if fps <= 50 else 15 < len(shown) < 41
    assert shown[-1] == pytest.approx(1000, abs=20) and last[:30].min() > 250, "the end is not held"


def test_a_gif_of_too_many_pictures_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "MOST", 40)
    with pytest.raises(ConfigError, match="more than 40 pictures.*--out film.mp4.*--episodes"):
        shoot(tmp_path / "a.gif", 5)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, path: Any, **_: Any) -> None:
        if isinstance(path, Path):
            path.write_bytes(b"GIF89a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ConfigError, match="a.gif: the film cannot be written: No space left on device"):
        shoot(tmp_path / "a.gif", 5)
    assert list(tmp_path.iterdir()) == []


def test_ffmpeg_that_could_not_write_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    monkeypatch.setattr(ffmpeg, "count_frames_and_secs", lambda path: (3, 1.0))
    with pytest.raises(ConfigError, match="a.mp4: the film cannot be written"):
        shoot(tmp_path / "a.mp4", 5)
    assert list(tmp_path.iterdir()) == []


def test_mp4_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "find_spec", lambda name: None if name == "imageio" else object())
    assert film.film_path(str(tmp_path / "a.gif"))
    with pytest.raises(ConfigError, match="MP4 needs imageio and imageio-ffmpeg: pip install"):
        film.film_path(str(tmp_path / "a.mp4"))
