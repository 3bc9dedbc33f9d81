"""SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal is gone): the first asks a run to stop where nothing is lost, a
later one ends the process."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

TOGETHER = 2.0  # seconds after the first signal in which others are the same request, told by somebody else


def ending() -> list[int]:
    """The signals that are to end this process; nohup has the terminal's end ignored."""
    heard = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if heard else [])]


class Interrupted(KeyboardInterrupt):
    """A signal has ended the run. `status`: the process's exit status."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class StopSignals:
    """Within `with`, the first signal is noted for `check`, which is cheap; a later one does what it does by default.

    But of one end a run may be told several times: of a terminal's by the system and the shell (SIGHUP), of a job's by
    what manages it, to all its processes alike, and by `make` or compare.py, which pass it on.

    The handlers are those of the process: in another thread than the main one nothing is changed.
    """

    def __init__(self) -> None:
        self.number: int | None = None  # of the signal that came
        self._since = 0.0  # when it came, of a clock that only runs forward
        self._before: dict[int, Any] = {}

    def check(self) -> None:
        """Raises Interrupted where a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._since = number, now
            name = signal.Signals(number).name
            text = f"{name}: the run stops after this step; in {TOGETHER:g} seconds or later another one ends it\n"
            with suppress(OSError):  # Ctrl-C has ended `tee`, too; the terminal is gone
                os.write(2, text.encode())  # a log line may be under way just now
        elif number != signal.SIGHUP and now - self._since >= TOGETHER:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in ending()}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
