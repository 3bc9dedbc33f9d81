"""How far a run is: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

REFRESH = 0.25  # seconds between two refreshes
WINDOW = 60.0  # seconds over which the speed is measured
SHOWN = (  # label -> the metrics it can show, the first there is
    ("train return", ("return_mean", "total_return_mean")),
    ("test return", ("test_return_mean", "test_total_return_mean")),
    ("train win rate", ("battle_won_mean",)),
    ("test win rate", ("test_battle_won_mean",)),
    ("loss", ("loss", "critic_loss")),
    ("embedding loss", ("mmsa_loss_sale",)),
    ("world model KL", ("mmsa_loss_kl",)),
    ("epsilon", ("epsilon",)),
)


class Progress:
    """Steps, share done, speed, time left and the last results of a run of `t_max` environment steps.

    :param say: takes a plain line; called every `log_interval` steps at most, and only where there is no terminal.
    """

    def __init__(
        self,
        t_max: int,
        title: str,
        log_interval: int,
        say: Callable[[str], None],
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.t_max, self.title, self.log_interval, self.say, self.clock = t_max, title, log_interval, say, clock
        self.backend = ""
        self.console = console or Console(stderr=True)
        self.t_env, self.episode = 0, 0
        self.stats: Mapping[str, float] = {}
        self._live: Live | None = None
        self._next_refresh = -float("inf")
        self._next_line = log_interval
        self._seen: deque[tuple[float, int]] = deque()  # (time, t_env) within the window

    def update(self, t_env: int, episode: int, stats: Callable[[], Mapping[str, float]], quiet: bool = False) -> None:
        """Note the state of the run and show it, unless that was just done. `quiet`: the caller prints a line."""
        now = self.clock()
        if not quiet and now < self._next_refresh and t_env < self.t_max:
            return
        self._next_refresh = now + REFRESH
        self.t_env, self.episode, self.stats = max(t_env, self.t_env), max(episode, self.episode), stats()
        self._seen.append((now, self.t_env))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        due = self.t_env >= self._next_line
        if due or quiet:
            self._next_line = self.t_env + self.log_interval
        if self.console.quiet:
            return
        if self.console.is_terminal:
            with self._while_there_is_a_terminal():
                if self._live is None:
                    live = Live(self.render(), console=self.console, auto_refresh=False, transient=True)
                    live.start()
                    self._live = live
                self._live.update(self.render(), refresh=True)
        elif due and not quiet:
            self.say(self.line())

    @property
    def speed(self) -> float:
        """Environment steps a second over the last minute."""
        if len(self._seen) < 2:
            return 0.0
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start else 0.0

    @property
    def share(self) -> float:
        return min(1.0, self.t_env / self.t_max)

    def time_left(self) -> str:
        return duration((self.t_max - self.t_env) / self.speed) if self.speed and self.share < 1 else ""

    def results(self) -> list[tuple[str, str]]:
        """The last results: label, value."""
        rows = []
        for label, keys in SHOWN:
            value = next((self.stats[key] for key in keys if key in self.stats), None)
            if value is not None:
                rows.append((label, f"{value:.0%}" if "win rate" in label else f"{value:.4g}"))
        return rows

    def line(self, with_stats: bool = True) -> str:
        """One plain line: step 12,000 of 200,000 (6 %) · 850 steps/s · 3 min 41 s left · test return 0.31."""
        parts = [f"step {self.t_env:,} of {self.t_max:,} ({self.share:.0%})", f"episode {self.episode:,}"]
        if self.speed:
            parts.append(f"{self.speed:,.0f} steps/s")
        if self.time_left():
            parts.append(f"{self.time_left()} left")
        if with_stats:
            parts += [f"{label} {value}" for label, value in self.results()]
        return " · ".join(parts)

    def render(self) -> RenderableType:
        """The live display."""
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(ratio=1)
        bar.add_column(justify="right")
        bar.add_row(ProgressBar(total=self.t_max, completed=min(self.t_env, self.t_max)), f"{self.share:.0%}")
        shown = [Text.assemble((f"{label} ", "dim"), (value, "bold")) for label, value in self.results()]
        results = Text("   ").join(shown)
        note = Text(self.backend, style="yellow") if self.backend else None
        content = Group(bar, Text(self.line(with_stats=False)), results)
        return Panel(content, title=Text(self.title), title_align="left", subtitle=note, subtitle_align="left")

    def stop(self) -> None:
        """Take the display down. Twice is fine."""
        if self._live is not None:
            with self._while_there_is_a_terminal():
                self._live.stop()
            self._live = None

    @contextmanager
    def _while_there_is_a_terminal(self) -> Iterator[None]:
        """A terminal that is gone ends no run: from then on nothing is shown."""
        try:
            yield
        except OSError:
            self.console.quiet = True


def duration(seconds: float) -> str:
    """In words: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
