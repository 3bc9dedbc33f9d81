"""One attempt at a run: its lock, its process, its log; and the attempts that this machine makes at once."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from experiments import records
from experiments.planning import Run

MAIN = Path(__file__).parents[1] / "main.py"
CHILD = Path(__file__).with_name("child.py")
LOG = "run.log"
LOCK = "lock"
GRACE = 60.0  # seconds in which a run may write its last checkpoint and end, after it was interrupted
POLL = 0.1  # seconds between two looks at the processes
TAIL_LINES, TAIL_BYTES = 15, 4000
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NPROC")  # NPROC: jax


class Result(NamedTuple):
    """busy: another process has the run. crashed: `text` says how, with the end of the log."""

    state: Literal["finished", "busy", "crashed"]
    text: str = ""


class Pool(Protocol):
    """Makes attempts side by side."""

    @property
    def slots(self) -> int:
        """How many at once."""

    def start(self, run: Run) -> None: ...

    def ended(self, timeout: float) -> list[tuple[Run, Result]]:
        """Those that have ended since the last call; waits for one, `timeout` seconds at most."""

    def stop(self) -> None:
        """Interrupt all that still go on, and wait until they have ended."""


class Attempt:
    """The process of a run. It holds the lock of the run's folder for its whole life, whatever becomes of us."""

    def __init__(self, run: Run, process: subprocess.Popen[bytes], log: Path, start: int) -> None:
        self.run, self.process, self.log, self.start = run, process, log, start

    def poll(self) -> Result | None:
        """None while it goes on."""
        if self.process.returncode is None:
            if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self.signal(signal.SIGKILL)  # what it has left behind; its number is not given to others until wait()
            self.process.wait()
        if records.find(self.run).finished is not None:  # the record decides: a figure that fails loses no run
            return Result("finished")
        return Result("crashed", f"{ending(self.process.returncode)}; {self.log} ends with\n{self.tail()}")

    def signal(self, number: signal.Signals) -> None:
        """To the run and all that it started. Only while poll() has not told its end."""
        if self.process.returncode is None:
            try:
                os.killpg(self.process.pid, number)
            except (ProcessLookupError, PermissionError):  # all of them have ended
                pass

    def tail(self) -> str:
        """The last lines that this attempt has written."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self.start, size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])


def begin(run: Run, main: Path | None = None, folder: Path | None = None) -> Attempt | Result:
    """Starts the run, or one that was cut off goes on, in the working directory `folder`, unless it is finished or
    another process has it.

    Whether it is finished is asked under the lock: another compare.py may have finished it this moment.
    """
    try:
        return _begin(run, main, folder)
    except OSError as error:  # a full disk, no more processes: other runs may still do
        return Result("crashed", f"it cannot be started: {error}")


def _begin(run: Run, main: Path | None, folder: Path | None) -> Attempt | Result:
    run.folder.mkdir(parents=True, exist_ok=True)
    with _lock(run.folder / LOCK, wait=False) as lock:
        if lock is None:
            return Result("busy")
        if records.find(run).finished is not None:
            return Result("finished")
        command = [sys.executable, str(main or MAIN), "--resume=last", *run.words]
        pins = dict.fromkeys(THREADS, str(run.config["torch_threads"]))
        log = run.folder / LOG
        with log.open("ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            start = file.tell()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(CHILD), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **pins, "PYTHONUNBUFFERED": "1"},
                pass_fds=[lock],  # the lock is the open file's: the run holds it from here on
                start_new_session=True,  # Ctrl-C is for compare.py, which passes it on
            )
    return Attempt(run, process, log, start)


def stop(attempts: Sequence[Attempt]) -> None:
    """Interrupts them, so that their records say so, and kills those that do not end in time."""
    try:
        for attempt in attempts:
            attempt.signal(signal.SIGINT)
        deadline = time.monotonic() + GRACE
        while any(attempt.poll() is None for attempt in attempts) and time.monotonic() < deadline:
            time.sleep(POLL)
    finally:  # also at a second Ctrl-C
        for attempt in attempts:
            attempt.signal(signal.SIGKILL)
            attempt.process.wait()


class LocalPool:
    """Attempts on this machine."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._going: list[Attempt] = []
        self._ended: list[tuple[Run, Result]] = []

    def start(self, run: Run) -> None:
        attempt = begin(run)
        if isinstance(attempt, Attempt):
            self._going.append(attempt)
        else:
            self._ended.append((run, attempt))

    def ended(self, timeout: float) -> list[tuple[Run, Result]]:
        deadline = time.monotonic() + timeout
        while True:
            for attempt in list(self._going):
                result = attempt.poll()
                if result is not None:
                    self._going.remove(attempt)
                    self._ended.append((attempt.run, result))
            if self._ended or time.monotonic() >= deadline:
                ended, self._ended = self._ended, []
                return ended
            time.sleep(POLL)

    def stop(self) -> None:
        stop(self._going)
        self._going = []


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process is inside with the same path."""
    with _lock(path, wait=True):
        yield


@contextmanager
def _lock(path: Path, wait: bool) -> Iterator[int | None]:
    """The locked file's descriptor, or None where another process has it. Closing it here leaves a child's as it is."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            mine = True
        except BlockingIOError:
            mine = False
        yield number if mine else None
    finally:
        os.close(number)


def ending(status: int) -> str:
    """The exit status of a run without a finished record, in words."""
    if status == 0:
        return "exit status 0, but there is no finished record of this configuration"
    if status > 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
