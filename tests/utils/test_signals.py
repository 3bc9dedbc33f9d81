from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from utils.signals import Interrupted, StopSignals


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Also where the tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@contextmanager
def nobody_reads() -> Iterator[None]:
    """What is written to the terminal raises BrokenPipeError, as when Ctrl-C has ended `tee`."""
    kept, (reader, writer) = os.dup(2), os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(writer)
        os.close(kept)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_where_nobody_reads_what_it_says(number: signal.Signals) -> None:
    stop = StopSignals()
    with nobody_reads(), stop:
        with pytest.raises(BrokenPipeError):
            os.write(2, b"the pipe is broken\n")
        stop.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as noted:
            stop.check()
    assert noted.value.status == 128 + number


def test_the_end_of_a_terminal_may_be_told_twice_and_after_another_signal() -> None:
    for first in (signal.SIGHUP, signal.SIGINT):
        stop = StopSignals()
        with stop:
            for number in (first, signal.SIGHUP, signal.SIGHUP):
                os.kill(os.getpid(), number)
            assert stop.number == first
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


@pytest.mark.parametrize(("together", "status"), [("60.0", 128 + signal.SIGTERM), ("0.0", -signal.SIGTERM)])
def test_a_job_that_is_ended_as_a_whole_is_told_several_times(together: str, status: int) -> None:
    """By its manager, to whom all of its processes are alike, and by `make` or compare.py: soon after, not later."""
    program = f"""
import os, signal, sys
from utils import signals
signals.TOGETHER = {together}
with signals.StopSignals() as stop:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    try:
        stop.check()
    except signals.Interrupted as told:
        sys.exit(told.status)
"""
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == status


def test_with_nohup_the_end_of_a_terminal_ends_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopSignals()
    with stop:
        os.kill(os.getpid(), signal.SIGHUP)
        stop.check()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
