"""What a plan takes: how fast each algorithm is on each task, and the hours that follow from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from rich.table import Table

from experiments import records
from experiments.planning import Run
from utils.progress import duration

Pair = tuple[str, str]  # of an algorithm and a task


class Speed(NamedTuple):
    steps: float | None  # of the environment, each second; None where nothing is known
    source: str


def speeds(runs: Sequence[Run]) -> dict[Pair, Speed]:
    """How fast each algorithm is on each task.

    One without a speed of its own there has that of the first one with the same config file, and where it makes more
    updates is taken for as many times slower, since learning takes most of the time.
    """
    first: dict[Pair, Run] = {}
    for run in runs:
        first.setdefault((run.algorithm, run.task), run)
    own = {pair: _own(run, runs) for pair, run in first.items()}
    like: dict[Pair, Pair] = {}  # (--config=NAME, task) -> the first that has a speed
    for pair, run in first.items():
        if own[pair].steps:
            like.setdefault((run.words[0], run.task), pair)
    result = {}
    for pair, run in first.items():
        other = like.get((run.words[0], run.task), pair)
        result[pair] = own[pair] if own[pair].steps else _as(run, first[other], own[other])
    return result


def table(runs: Sequence[Run], done: Collection[Run], known: Mapping[Pair, Speed]) -> Table:
    """A row for each algorithm on each task, with its hours where they can be told."""
    shown = Table(box=None)
    for name in ("algorithm", "task", "seeds", "runs", "done", "steps a run", "steps/s", "hours", "from"):
        shown.add_column(name, overflow="fold")
    for (algorithm, task), speed in known.items():
        group = [run for run in runs if (run.algorithm, run.task) == (algorithm, task)]
        left = [run for run in group if run not in done]
        hours = f"{sum(run.config['t_max'] for run in left) / speed.steps / 3600:.2f}" if speed.steps else "unknown"
        seeds = " ".join(str(run.seed) for run in group)
        counts = (str(len(group)), str(len(group) - len(left)), f"{group[0].config['t_max']:,}")
        rate = f"{speed.steps:,.0f}" if speed.steps else "unknown"
        shown.add_row(algorithm, task, seeds, *counts, rate, hours, speed.source)
    return shown


def estimated_time(left: Sequence[Run], jobs: int, known: Mapping[Pair, Speed]) -> str:
    """How long these runs take, `jobs` at once, in words."""
    seconds = [run.config["t_max"] / speed for run in left if (speed := known[run.algorithm, run.task].steps)]
    if not seconds:
        return "unknown"
    text = duration(max(sum(seconds) / jobs, max(seconds)))
    others = len(left) - len(seconds)
    return f"{text} for {len(seconds)} of them; unknown for the other {others}" if others else text


def _own(run: Run, plan: Sequence[Run]) -> Speed:
    if measured := records.seconds_per_step(run, plan):
        return Speed(1 / measured[0], measured[1])
    return Speed(run.steps_per_second, "the file") if run.steps_per_second else Speed(None, "unknown")


def _as(run: Run, other: Run, speed: Speed) -> Speed:
    """The other's speed, or less."""
    if speed.steps is None:
        return speed
    steps, others = (one.config["env_steps_per_update"] for one in (run, other))
    more = others / steps if isinstance(steps, int) and isinstance(others, int) and steps < others else 1
    updates = f", {more:.3g} times its updates" if more > 1 else ""
    return Speed(speed.steps / more, f"as {other.algorithm}{updates}: {speed.source}")
