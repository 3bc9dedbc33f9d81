"""SIGTERM and SIGINT (Ctrl-C): the first asks a run to stop where nothing is lost, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal has ended the run. `status`: the process's exit status."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class StopSignals:
    """Within `with`, the first signal is noted for `check`, which is cheap; a second one does what it does by default.

    The handlers are those of the process: in another thread than the main one nothing is changed.
    """

    def __init__(self) -> None:
        self.number: int | None = None  # of the signal that came
        self._before: dict[int, Any] = {}

    def check(self) -> None:
        """Raises Interrupted where a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
        text = f"{signal.Signals(number).name}: the run stops after this step; once more ends it at once\n"
        os.write(2, text.encode())  # a log line may be under way just now

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
