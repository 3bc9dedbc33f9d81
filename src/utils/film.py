"""Films: pictures with a line of text under each. An MP4 is written as they come, a GIF is made in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from envs.drawing import strip
from utils.config import ConfigError

KINDS = (".gif", ".mp4")
MOST = 2000  # pictures of a GIF: about 100 kB of memory each
SHORTEST = 2  # hundredths of a second that one of its pictures is shown; players slow down shorter ones


def film_path(name: str) -> Path:
    """The file of a film; ConfigError, before anything is played, where it cannot be written there."""
    path = Path(name)
    if path.suffix.lower() not in KINDS:
        raise ConfigError(f"--out={name}: the name must end in {' or '.join(KINDS)}")
    if path.suffix.lower() == ".mp4" and not all(map(find_spec, ("imageio", "imageio_ffmpeg"))):
        raise ConfigError(
            f"--out={name}: MP4 needs imageio and imageio-ffmpeg: pip install -e '.[video]'; a .gif does without"
        )
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK) or path.is_dir():
        raise ConfigError(f"--out={name}: {folder if not path.is_dir() else path} is no place for a new file")
    return path


class Film:
    """Writes beside `path` and takes that name when it is closed without an error: no half film is left behind.

    Use it as a context manager. fps: pictures a second. Pictures of a GIF that would be shown for less than SHORTEST
    are left out: it runs at the real speed. ConfigError where it cannot be written, or a GIF has more than MOST.
    """

    def __init__(self, path: Path, fps: int) -> None:
        self.path, self.fps = path, fps
        self.frames = 0  # pictures so far, those left out among them
        self._part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self._gif: list[tuple[int, Image.Image]] | None = [] if path.suffix.lower() == ".gif" else None
        self._mp4: Any = None  # its writer
        self._shape: tuple[int, ...] = ()

    def add(self, picture: np.ndarray, text: str, times: int = 1) -> None:
        """One picture, (H, W, 3) uint8, with the text under it, `times` over. All have the same size."""
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ConfigError(
                f"render() of this environment gives {picture.dtype} {picture.shape}, not (height, width, 3) uint8"
            )
        frame = np.concatenate([picture, strip(text, picture.shape[1])])
        odd = [(0, side % 2) for side in frame.shape[:2]]  # MP4 wants even ones
        frame = np.pad(frame, [*odd, (0, 0)], mode="edge")
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise ConfigError(f"render() gives pictures of several sizes: {self._shape[:2]}, then {frame.shape[:2]}")
        if self._gif is None:
            self._write(frame, times)
        else:
            self._keep(self._gif, frame, times)
        self.frames += times

    def _keep(self, kept: list[tuple[int, Image.Image]], frame: np.ndarray, times: int) -> None:
        """kept: (begin in hundredths of a second, picture)."""
        begin, earliest = self._begin(), kept[-1][0] + SHORTEST if kept else 0
        if begin < earliest and times == 1:
            return
        if len(kept) == MOST:
            raise ConfigError(
                f"{self.path}: more than {MOST} pictures, and a GIF is made in memory; --out film.mp4 has no such "
                "limit, --episodes says how many are filmed"
            )
        kept.append((max(begin, earliest), Image.fromarray(frame).convert("P", palette=Image.Palette.ADAPTIVE)))

    def _begin(self) -> int:
        """Of the next picture, in hundredths of a second."""
        return round(100 * self.frames / self.fps)

    def _write(self, frame: np.ndarray, times: int) -> None:
        from imageio.v2 import get_writer

        with self._said(), warnings.catch_warnings():
            # of the first frame, for which ffmpeg is started: JAX complains of any fork; this one only starts it
            warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
            if self._mp4 is None:
                self._mp4 = get_writer(self._part, mode="I", fps=self.fps, macro_block_size=2)
            for _ in range(times):
                self._mp4.append_data(frame)

    def __enter__(self) -> Film:
        return self

    def __exit__(self, kind: Any, *rest: object) -> None:
        try:
            with self._said():
                if self._mp4 is not None:
                    self._mp4.close()
                if kind is None and self.frames:
                    self._finish()
                    os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._gif is None:
            from imageio_ffmpeg import count_frames_and_secs

            try:
                written, _ = count_frames_and_secs(str(self._part))
            except RuntimeError:
                written = 0
            if written < self.frames:  # ffmpeg does not say so
                raise OSError("ffmpeg could not write all of it")
            return
        begins, (first, *others) = zip(*self._gif, strict=True)
        ends = [*begins[1:], max(self._begin(), begins[-1] + SHORTEST)]
        shown = [10 * (end - begin) for begin, end in zip(begins, ends, strict=True)]  # ms
        first.save(self._part, save_all=True, append_images=others, duration=shown, loop=0)  # for ever

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # ffmpeg's has its whole output in it
            why = error.strerror or str(error).partition("\n")[0]
            raise ConfigError(f"{self.path}: the film cannot be written: {why}") from None
