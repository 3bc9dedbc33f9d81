"""Films: pictures with a line of text under each, written as they come to a GIF or an MP4."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from envs.drawing import strip
from utils.config import ConfigError

KINDS = (".gif", ".mp4")


def film_path(name: str) -> Path:
    """The file of a film; ConfigError, before anything is played, where it cannot be written there."""
    path = Path(name)
    if path.suffix.lower() not in KINDS:
        raise ConfigError(f"--out={name}: the name must end in {' or '.join(KINDS)}")
    if path.suffix.lower() == ".mp4" and find_spec("imageio_ffmpeg") is None:
        raise ConfigError(f"--out={name}: MP4 needs imageio-ffmpeg: pip install -e '.[video]'; a .gif does without")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK) or path.is_dir():
        raise ConfigError(f"--out={name}: {folder if not path.is_dir() else path} is no place for a new file")
    return path


class Film:
    """Writes beside `path` and takes that name when it is closed without an error: no half film is left behind.

    Use it as a context manager. fps: pictures a second.
    """

    def __init__(self, path: Path, fps: int) -> None:
        self.path, self.fps = path, fps
        self.frames = 0
        self._part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self._writer: Any = None
        self._shape: tuple[int, ...] = ()

    def add(self, picture: np.ndarray, text: str, times: int = 1) -> None:
        """One picture, (H, W, 3) uint8, with the text under it, `times` over. All have the same size."""
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ConfigError(
                f"render() of this environment gives {picture.dtype} {picture.shape}, not (height, width, 3) uint8"
            )
        frame = np.concatenate([picture, strip(text, picture.shape[1])])
        frame = np.pad(
            frame, [(0, side % 2) for side in frame.shape[:2]] + [(0, 0)], mode="edge"
        )  # MP4 wants even ones
        if self._writer is None:
            self._writer, self._shape = self._open(), frame.shape
        if frame.shape != self._shape:
            raise ConfigError(f"render() gives pictures of several sizes: {self._shape[:2]}, then {frame.shape[:2]}")
        with warnings.catch_warnings():
            # of the first MP4 frame, for which ffmpeg is started: JAX complains of any fork; this one only starts it
            warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
            for _ in range(times):
                self._writer.append_data(frame)
        self.frames += times

    def _open(self) -> Any:
        from imageio.v2 import get_writer

        if self.path.suffix.lower() == ".gif":
            return get_writer(self._part, mode="I", duration=1000 / self.fps, loop=0)  # ms a picture; for ever
        return get_writer(self._part, mode="I", fps=self.fps, macro_block_size=2)

    def __enter__(self) -> Film:
        return self

    def __exit__(self, kind: Any, *rest: object) -> None:
        if self._writer is None:
            return
        self._writer.close()
        if kind is None:
            os.replace(self._part, self.path)
        else:
            self._part.unlink(missing_ok=True)
