from __future__ import annotations

import errno
import io
import sys

import pytest
from rich.console import Console

from utils.progress import Progress, duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(terminal: bool, t_max: int = 1000, log_interval: int = 100) -> tuple[Progress, Clock, list[str], Console]:
    clock, lines = Clock(), []  # type: ignore[var-annotated]
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, record=True)
    return Progress(t_max, "mmsa on protoss_5_vs_5", log_interval, lines.append, console, clock), clock, lines, console


def test_the_display_shows_everything() -> None:
    progress, clock, lines, console = make(terminal=True)
    progress.backend = "SMAX (jaxmarl 0.2.0), not StarCraft II"
    stats = {"return_mean": 1.25, "test_return_mean": 2.5, "test_battle_won_mean": 0.4, "loss": 0.0123, "epsilon": 0.9}
    progress.update(0, 0, lambda: stats)
    clock.now = 2.0
    progress.update(250, 5, lambda: stats)
    console.print(progress.render())
    progress.stop()
    progress.stop()
    text = console.export_text()
    for part in (
        "mmsa on protoss_5_vs_5", "SMAX (jaxmarl 0.2.0), not StarCraft II", "step 250 of 1,000 (25%)", "125 steps/s",
        "6 s left", "train return 1.25", "test return 2.5", "test win rate 40%", "loss 0.0123",
    ):  # fmt: skip
        assert part in text, part
    assert lines == []


def test_the_display_refreshes_four_times_a_second() -> None:
    progress, clock, _, _ = make(terminal=True, t_max=10**6)
    asked = 0

    def stats() -> dict[str, float]:
        nonlocal asked
        asked += 1
        return {}

    for step in range(1000):
        clock.now = step / 100
        progress.update(step, 0, stats)
    progress.stop()
    assert 38 <= asked <= 41 and progress._live is None


def test_a_terminal_that_is_gone_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for shown in (0, 1):  # it was there for so many refreshes
        progress, clock, _, console = make(terminal=True, t_max=10**6)
        before = sys.stdout, sys.stderr
        for step in range(5):
            if step == shown:
                monkeypatch.setattr(
                    console.file, "write", lambda text: (_ for _ in ()).throw(OSError(errno.EIO, "gone"))
                )
            clock.now = float(step)
            progress.update(step, 0, dict)
        progress.stop()
        assert progress._live is None and (sys.stdout, sys.stderr) == before


def test_plain_lines_elsewhere() -> None:
    progress, clock, lines, console = make(terminal=False)
    for step in range(0, 1001, 10):
        clock.now = step / 10
        progress.update(step, step // 50, lambda: {"test_return_mean": 0.5})
    assert len(lines) == 10
    assert lines[0] == "step 100 of 1,000 (10%) · episode 2 · 10 steps/s · 1 min 30 s left · test return 0.5"
    assert "left" not in lines[-1] and console.export_text() == ""


def test_no_plain_line_after_a_table() -> None:
    progress, clock, lines, _ = make(terminal=False)
    progress.update(100, 1, dict, quiet=True)
    clock.now = 1.0
    progress.update(110, 1, dict)
    assert lines == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.4, "4 s"), (59.9, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words
