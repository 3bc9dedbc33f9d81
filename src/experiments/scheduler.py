"""The runs of a plan, one after another into free slots, until each is finished or has failed twice."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments import records
from experiments.attempts import Pool
from experiments.planning import Run
from utils.progress import duration

TRIES = 2
WAIT = 1.0  # seconds at most between two looks
AGAIN = 5.0  # seconds until a run that another process has is asked for again
REFRESH = 2.0  # seconds between two looks at the records of going runs
LINE = 60.0  # seconds between two plain lines


@dataclass
class Outcome:
    """What has become of the runs; `skipped` were finished before, and are among the finished."""

    finished: list[Run] = field(default_factory=list)
    skipped: list[Run] = field(default_factory=list)
    failed: dict[Run, str] = field(default_factory=dict)
    retried: dict[Run, str] = field(default_factory=dict)


def conduct(runs: Sequence[Run], pool: Pool, overview: Overview) -> Outcome:
    """Runs all that is not finished. A crashed run is tried once more; one that another process has is waited for."""
    outcome = overview.outcome
    outcome.skipped = [run for run in runs if records.find(run).finished is not None]
    outcome.finished = list(outcome.skipped)
    overview.begin()
    done = set(outcome.skipped)
    waiting = deque(run for run in runs if run not in done)
    busy: dict[Run, float] = {}  # run that another process has -> when to ask again
    tries: Counter[Run] = Counter()
    going = overview.going
    try:
        while waiting or going or busy:
            now = time.monotonic()
            for run in [run for run, due in busy.items() if now >= due]:
                del busy[run]
                waiting.append(run)
            while waiting and len(going) < pool.slots:
                run = waiting.popleft()
                going.append(run)
                overview.starting(run)
                pool.start(run)
            for run, result in pool.ended(WAIT):
                going.remove(run)
                if result.state == "finished":
                    outcome.finished.append(run)
                    overview.ended(run, f"finished: {run}")
                elif result.state == "busy":
                    busy[run] = time.monotonic() + AGAIN
                    overview.elsewhere(run)
                else:
                    tries[run] += 1
                    again = tries[run] < TRIES
                    (outcome.retried if again else outcome.failed)[run] = result.text
                    overview.ended(run, f"{'crashed, is tried again' if again else 'FAILED'}: {run}: {result.text}")
                    if again:
                        waiting.append(run)
            overview.refresh()
    finally:
        try:
            overview.stopping()
            pool.stop()
        finally:
            overview.close()
    return outcome


class Overview:
    """Overall progress: a live table on a terminal, plain lines elsewhere."""

    def __init__(
        self,
        runs: Sequence[Run],
        title: str,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.runs, self.title, self.clock = runs, title, clock
        self.console = console or Console()
        self.outcome = Outcome()
        self.going: list[Run] = []
        self._known_busy: set[Run] = set()
        self._unsaid: set[Run] = set()
        self._steps: dict[Run, int] = {}
        self._since: dict[Run, float] = {}  # when its attempt began: records that it does not touch count no longer
        self._start, self._first_steps = 0.0, 0
        self._next_look = self._next_line = 0.0
        self._live: Live | None = None

    # --- events ---
    def begin(self) -> None:
        self._start = self.clock()
        self._next_line = self._start + LINE
        for run in self.outcome.skipped:
            self._steps[run] = run.config["t_max"]
        self._first_steps = self.steps
        self._say(f"{self.title}: {self.line()}")
        if self.console.is_terminal:
            self._live = Live(self.table(), console=self.console, auto_refresh=False, transient=True)
            self._live.start()

    def starting(self, run: Run) -> None:
        self._unsaid.add(run)  # it may yet be busy or fail at once
        self._steps[run] = 0
        self._since[run] = time.time()

    def elsewhere(self, run: Run) -> None:
        self._unsaid.discard(run)
        if run not in self._known_busy:
            self._known_busy.add(run)
            self._say(f"another process has it, its end is waited for: {run}")

    def ended(self, run: Run, text: str) -> None:
        self._known_busy.discard(run)
        self._unsaid.discard(run)
        self._steps[run] = run.config["t_max"] if run in self.outcome.finished else 0
        self._say(text)
        self._say(self.line())
        self._next_line = self.clock() + LINE

    def refresh(self) -> None:
        now = self.clock()
        for run in [run for run in self.going if run in self._unsaid]:
            self._unsaid.discard(run)
            self._say(f"started: {run}")
        if now < self._next_look:
            return
        self._next_look = now + REFRESH
        for run in self.going:
            recorded = [one for one in records.records(run.folder) if one.touched >= self._since.get(run, 0.0)]
            if recorded:
                self._steps[run] = min(recorded[-1].steps, run.config["t_max"])
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
        elif now >= self._next_line:
            self._next_line = now + LINE
            self._say(self.line())

    def stopping(self) -> None:
        if self.going:
            they = "1 run ends" if len(self.going) == 1 else f"{len(self.going)} runs end"
            self._say(f"{they}, with a checkpoint; Ctrl-C once more kills")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    # --- what is shown ---
    @property
    def steps(self) -> int:
        return sum(self._steps.values())

    @property
    def all_steps(self) -> int:
        return sum(run.config["t_max"] for run in self.runs)

    def time_left(self) -> str:
        """From the steps since the start; of failed runs there is nothing left."""
        elapsed, gone = self.clock() - self._start, self.steps - self._first_steps
        left = self.all_steps - self.steps - sum(run.config["t_max"] for run in self.outcome.failed)
        return duration(elapsed * left / gone) if elapsed > 0 and gone > 0 and left > 0 else ""

    def line(self) -> str:
        done, failed = len(self.outcome.finished), len(self.outcome.failed)
        parts = [f"{done} of {len(self.runs)} runs done", f"{len(self.going)} running", f"{failed} failed"]
        parts.append(f"{self.steps / self.all_steps:.0%} of the steps")
        left = self.time_left()
        return " · ".join(parts + ([f"{left} left"] if left else []))

    def table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_row(Text(self.title, style="bold"), self._bar(self.steps, self.all_steps), Text(self.line()))
        for run in self.going:
            steps, t_max = self._steps.get(run, 0), run.config["t_max"]
            table.add_row(Text(str(run)), self._bar(steps, t_max), Text(f"{steps:,} of {t_max:,} steps"))
        return table

    @staticmethod
    def _bar(done: int, of: int) -> ProgressBar:
        return ProgressBar(total=of, completed=done, width=30)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.console.file.flush()
