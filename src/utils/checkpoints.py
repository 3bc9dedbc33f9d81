"""Checkpoints of a run: all that it needs to go on as if it had never stopped, each whole or not there at all.

FOLDER/lock                     held by the process that trains the run
FOLDER/000012-50400/            the twelfth checkpoint, at environment step 50400
    manifest.json               which files make it up, with their sizes and SHA-256
    state.pt                    networks, optimiser, counters, random generators, ...: everything but the episodes
FOLDER/replay/FIRST-LAST.pt     episodes of the replay buffer, by number; each is written once, for all checkpoints

A checkpoint gets its name when all its files are on disk, so that one that was cut off is never taken for a whole one.
It is data: it is read as weights only, nothing but plain values and tensors is let in, no name in it leaves the folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import torch as th
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from components.episode_buffer import ReplayBuffer
from utils.untrusted import inside

MANIFEST, STATE, REPLAY, LOCK = "manifest.json", "state.pt", "replay", "lock"
PIECE_BYTES = 64 * 2**20  # of the replay buffer that are in memory a second time while they are written
MANIFEST_BYTES = 64 * 2**20  # more is no manifest
_NAME = re.compile(r"(\d{6,})-(\d+)")  # number, environment step
_PLAIN = (bool, int, float, str, type(None), th.Tensor)


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; says which and why."""


class Part(Protocol):
    """What a checkpoint is made of."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class File(_Strict):
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Piece(File):
    first: Annotated[int, Field(ge=0)]  # number of its first episode
    episodes: Annotated[int, Field(ge=1)]

    @property
    def name(self) -> str:
        return f"{self.first:09d}-{self.first + self.episodes - 1:09d}.pt"


class Manifest(_Strict):
    format: Literal[1]
    number: Annotated[int, Field(ge=1)]
    t_env: Annotated[int, Field(ge=0)]
    torch: str
    device: str
    host: str
    unique_token: Annotated[str, AfterValidator(inside)]
    state: File
    pieces: tuple[Piece, ...]


class Saved(NamedTuple):
    """A checkpoint that was read and found whole: its state, of the parts' names and dicts."""

    manifest: Manifest
    state: dict[str, Any]


class Written(NamedTuple):
    path: Path
    size: int  # bytes written, those of episodes that another checkpoint has already left out
    seconds: float


class Checkpoints:
    """The checkpoints in a folder. Only the process that has locked it may write.

    keep: the newest so many are left. flush: called before each one is made; what was logged until then must be on disk
    with it, else it raises OSError.
    """

    def __init__(self, folder: Path, keep: int = 2, flush: Callable[[], None] = lambda: None) -> None:
        self.folder, self.keep, self.flush = folder, keep, flush
        self._lock: int | None = None
        self._pieces: list[Piece] = []  # on disk, in order
        self._number = 0  # of the newest checkpoint

    # --- the lock ---
    def lock(self) -> None:
        """Makes the folder and takes its lock until `unlock`, or the end of the process however it ends.

        CheckpointError where another process has it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        number = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(number, 100, 0).decode(errors="replace").strip()
            os.close(number)
            if not isinstance(error, BlockingIOError):
                raise
            raise CheckpointError(f"{self.folder.parent}: another process has this run ({holder})") from None
        os.ftruncate(number, 0)
        os.pwrite(number, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._lock = number

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- writing ---
    def save(
        self, parts: Mapping[str, Part], buffer: ReplayBuffer, *, t_env: int, device: str, unique_token: str
    ) -> Written:
        """Writes a checkpoint, then removes what is older than the last `keep`. OSError where it cannot be written, and
        CheckpointError where it could not be read again: what was there before is still there."""
        start, size = time.perf_counter(), 0
        self.flush()
        name = f"{self._number + 1:06d}-{t_env}"
        part = self.folder / f"{name}.part"
        (self.folder / REPLAY).mkdir(exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        try:
            pieces = [piece for piece in self._pieces if piece.first + piece.episodes > buffer.oldest]
            for content in buffer.pieces(pieces[-1].first + pieces[-1].episodes if pieces else 0, PIECE_BYTES):
                written = self._write_piece(content)
                pieces.append(written)
                size += written.size
            part.mkdir()
            states = _checked({name: one.state_dict() for name, one in parts.items()})
            state = _write_bytes(part / STATE, states.getbuffer())
            manifest = Manifest(
                format=1,
                number=self._number + 1,
                t_env=t_env,
                torch=th.__version__,
                device=device,
                unique_token=unique_token,
                host=socket.gethostname(),
                state=state,
                pieces=tuple(pieces),
            )
            text = manifest.model_dump_json(indent=1).encode()
            _write_bytes(part / MANIFEST, text)
            for folder in (part, self.folder / REPLAY):
                _sync(folder)
            os.rename(part, self.folder / name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            with suppress(OSError):
                self._remove_loose()  # on a full disk others need the space
            raise
        self._number, self._pieces = self._number + 1, pieces
        _sync(self.folder)  # before the older ones go
        self._prune()
        return Written(self.folder / name, size + state.size + len(text), time.perf_counter() - start)

    def _write_piece(self, content: dict[str, Any]) -> Piece:
        file = self.folder / REPLAY / "piece.part"
        written = _write_bytes(file, _packed(content).getbuffer())
        piece = Piece(first=content["first"], episodes=len(content["lengths"]), **written.model_dump())
        os.replace(file, self.folder / REPLAY / piece.name)
        return piece

    def _prune(self) -> None:
        """Removes older checkpoints, and episodes that none of the others has."""
        for path in (*self._paths()[self.keep :], *self.folder.glob("*.part")):
            shutil.rmtree(path, ignore_errors=True)
        self._remove_loose()

    def _remove_loose(self) -> None:
        """Removes episodes that no checkpoint has."""
        needed = {piece.name for piece in self._pieces}
        for path in self._paths()[1:]:
            try:
                needed |= {piece.name for piece in _manifest(path).pieces}
            except CheckpointError:
                continue
        for file in (self.folder / REPLAY).iterdir():
            if file.name not in needed:
                file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the whole folder: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- reading ---
    def newest(self) -> tuple[Saved | None, list[str]]:
        """The newest checkpoint that is whole, and what is wrong with those after it.

        Everything is read and compared with its checksum. Nothing is changed.
        """
        problems: list[str] = []
        for path in self._paths():
            try:
                return self._read(path), problems
            except CheckpointError as error:
                problems.append(str(error))
        return None, problems

    def _read(self, path: Path) -> Saved:
        manifest = _manifest(path)
        for piece in manifest.pieces:
            _verify(self.folder / REPLAY / piece.name, piece)
        state = _load(path / STATE, manifest.state)
        if not isinstance(state, dict) or not all(isinstance(part, dict) for part in state.values()):
            raise CheckpointError(f"{path / STATE}: this is no state of a run")
        return Saved(manifest, state)

    def restore(self, saved: Saved, parts: Mapping[str, Part], buffer: ReplayBuffer) -> None:
        """Brings the parts and the buffer, which is one of them, to the saved state, and goes on from there: newer
        checkpoints, which were found damaged, are removed. CheckpointError where the state is another run's."""
        if saved.state.keys() != parts.keys():
            raise CheckpointError(
                f"{self.folder}: the checkpoint holds {', '.join(saved.state)}; this program wants {', '.join(parts)}"
            )
        try:
            for name, part in parts.items():
                part.load_state_dict(saved.state[name])
            for piece in saved.manifest.pieces:
                buffer.load_piece(_load(self.folder / REPLAY / piece.name, piece))
            if not buffer.complete:
                raise ValueError("episodes of the replay buffer are missing")
        except Exception as error:  # whatever a state of other types and shapes makes of it
            raise CheckpointError(
                f"{self.folder}: the checkpoint does not fit this run ({type(error).__name__}: {error})"
            ) from error
        for path in self._paths():
            if int(path.name.partition("-")[0]) > saved.manifest.number:
                shutil.rmtree(path, ignore_errors=True)
        self._number, self._pieces = saved.manifest.number, list(saved.manifest.pieces)

    def _paths(self) -> list[Path]:
        """Folders of checkpoints, the newest first."""
        if not self.folder.is_dir():
            return []
        found = [(match, path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found, key=lambda one: int(one[0][1]), reverse=True)]


# --- files ---
def _packed(content: Any) -> io.BytesIO:
    file = io.BytesIO()
    th.save(content, file)
    file.seek(0)
    return file


def _unpacked(file: Path | io.BytesIO) -> Any:
    """What `_packed` has made; raises anything where there is more in it than plain values and tensors."""
    content = th.load(file, map_location="cpu", weights_only=True)
    for value in _values(content):
        if not isinstance(value, _PLAIN):
            raise TypeError(f"it holds a {type(value).__name__}")
    return content


def _checked(states: Mapping[str, Any]) -> io.BytesIO:
    """The parts' states, packed. CheckpointError names the part that could not be unpacked again."""
    file = _packed(states)
    try:
        _unpacked(file)
    except Exception:
        for name, state in states.items():
            _check(name, state)
        raise
    return file


def _check(part: str, state: Any) -> None:
    try:
        _unpacked(_packed(state))
    except Exception:
        strange = {type(one) for one in _values(state)} - {*_PLAIN}  # numpy's float64 is a float, too
        names = sorted(f"{kind.__module__}.{kind.__name__}" for kind in strange)
        found = ", ".join(names) or "a container of its own kind"
        plain = "Python's numbers, words, lists and dicts can, and tensors"
        raise CheckpointError(f"the state_dict() of {part} holds what cannot be read again: {found}; {plain}") from None


def _write_bytes(path: Path, content: bytes | memoryview) -> File:
    """Writes a file and waits until it is on disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return File(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def _sync(folder: Path) -> None:
    """Waits until the names in the folder are on disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    try:
        if file.stat().st_size > MANIFEST_BYTES:
            raise CheckpointError(f"{file}: larger than {MANIFEST_BYTES} bytes")
        manifest = Manifest.model_validate_json(file.read_bytes())
    except ValidationError as errors:
        error = errors.errors()[0]
        key = ".".join(map(str, error["loc"]))
        raise CheckpointError(f"{file} cannot be read ({key or 'it'}: {error['msg']})") from None
    except (OSError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({type(error).__name__}: {error})") from None
    if path.name != f"{manifest.number:06d}-{manifest.t_env}":
        raise CheckpointError(f"{file}: this is the manifest of another checkpoint")
    return manifest


def _verify(path: Path, wanted: File) -> None:
    """CheckpointError where the file is not the one that was written."""
    try:
        if (size := path.stat().st_size) != wanted.size:
            raise CheckpointError(f"{path} has {size} bytes of {wanted.size}")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
    if digest != wanted.sha256:
        raise CheckpointError(f"{path} is damaged: its checksum is not the one of its manifest")


def _load(path: Path, wanted: File) -> Any:
    _verify(path, wanted)
    try:
        content = _unpacked(path)
    except Exception as error:  # unpickling what somebody else made can raise anything
        first = next(iter(str(error).splitlines()), "")
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}: {first})") from None
    return content


def _values(content: Any) -> Iterator[Any]:
    """Keys and values of all containers within."""
    stack = [content]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            stack.extend(one.keys())
            stack.extend(one.values())
        elif isinstance(one, (list, tuple)):
            stack.extend(one)
        else:
            yield one
