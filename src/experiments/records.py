"""What there is of a planned run: a finished record, here or published, records of other settings, cut-off ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.planning import Run, published_folder
from reports.grouping import incomplete
from reports.runs import JOURNAL, folders_below, load_runs, pauses, seconds_between, time_of
from utils.config import ConfigError
from utils.identity import differences
from utils.naming import task_folder, task_of

COMPLETED = "COMPLETED"
TAIL = 2**16  # bytes of a journal that hold its last heartbeats


@dataclass(frozen=True)
class Record:
    """One of Sacred's folders. `config` is empty where it cannot be read."""

    folder: Path
    status: str
    config: dict[str, Any]

    @property
    def touched(self) -> float:
        """When its run.json was last written, in seconds of the clock; 0.0 where there is none."""
        try:
            return (self.folder / "run.json").stat().st_mtime
        except OSError:
            return 0.0

    @property
    def seconds(self) -> float | None:
        """From its beginning to its end, as runs.seconds_between has them; None where it has not ended."""
        entry = _json(self.folder / "run.json")
        began, ended = (time_of(entry.get(key)) for key in ("start_time", "stop_time"))
        if began is None or ended is None:
            return None
        return seconds_between(began, ended, pauses(_json(self.folder / "info.json")))

    @property
    def steps(self) -> int:
        """Environment steps up to the last metric that is recorded; while a run goes on, info.json lags behind."""
        if newest := _newest(self.folder / JOURNAL):
            return int(max(newest))
        info = _json(self.folder / "info.json")
        return int(max((values[-1] for key, values in info.items() if key.endswith("_T") and values), default=0))


@dataclass(frozen=True)
class Found:
    """The records of a planned run: the finished one, and finished ones of another configuration."""

    finished: Record | None
    others: tuple[Record, ...]


def find(run: Run) -> Found:
    """What there is of the run, here and published. The one that was finished here goes before a published one."""
    own, kept = here(run), published(run)
    return Found(own.finished or kept.finished, own.others + kept.others)


def here(run: Run) -> Found:
    """What there is in the run's own folder, by the simulator that this machine would run it in: see naming.task_of."""
    return _found(run, _of_this_simulator(run, run.folder))


def published(run: Run) -> Found:
    """What the repository keeps of the run, by the same simulator.

    A finished one of the experiments that the run's own takes runs of counts where the own folder has none.
    """
    own, *others = (_found(run, _of_this_simulator(run, folder)) for folder in (run.published, *run.shared))
    return replace(own, finished=next((one.finished for one in (own, *others) if one.finished), None))


def _of_this_simulator(run: Run, folder: Path) -> Iterator[Record]:
    task = task_folder(task_of(run.config))
    return (one for one in records(folder) if one.folder.parent.name == task)


def published_only(run: Run) -> Record | None:
    """The published record that counts as the run, where none was finished here."""
    return None if here(run).finished else published(run).finished


def _found(run: Run, records: Iterable[Record]) -> Found:
    finished: list[Record] = []
    others: list[Record] = []
    for record in records:
        if record.status == COMPLETED:
            (others if differences(record.config, run.config) else finished).append(record)
    return Found(finished[0] if finished else None, tuple(others))


def records(folder: Path) -> Iterator[Record]:
    """All of Sacred's records of a run's folder, the oldest first."""
    paths = [path for path in folder.glob("sacred/*/*/*/run.json") if path.parent.name.isdecimal()]
    for path in sorted(paths, key=lambda path: (path.parent.parent, int(path.parent.name))):
        yield record(path.parent)


def has_any(folder: Path) -> bool:
    """Whether there is a record in the folder or below it."""
    return any("run.json" in files for _, files in folders_below(folder))


def record(folder: Path) -> Record:
    """The record in one of Sacred's folders."""
    entry = _json(folder / "run.json")
    return Record(folder, str(entry.get("status", "")), _json(folder / "config.json"))


def faults(record: Record) -> list[str]:
    """What is wrong with the record of a finished run, above all why no report averages it."""
    problems: list[str] = []
    try:
        loaded = load_runs([str(record.folder)], problems)
    except ConfigError as error:
        return error.problems
    return problems + [
        f"{run.source}: {reason}; no report averages it" for run in loaded if (reason := incomplete(run))
    ]


def seconds_per_step(run: Run, plan: Sequence[Run]) -> tuple[float, str] | None:
    """The mean of finished runs of the same algorithm and task with the same settings but for seed and length, and
    which runs these are: those that were made here; where there are none, published ones, maybe of another machine,
    the plan's own before those of any experiment."""
    like = [other for other in plan if (other.algorithm, other.task) == (run.algorithm, run.task)]
    own = (one for other in like for one in _of_this_simulator(other, other.folder))
    folders = ((other, folder) for other in like for folder in (other.published, *other.shared))
    kept = (one for other, folder in folders for one in _of_this_simulator(other, folder))
    places = {"finished runs": own, "published runs": kept, "published runs of other experiments": _anywhere(run)}
    for source, found in places.items():
        times = []
        for one in found:
            wanted = {**run.config, **{key: one.config.get(key) for key in ("seed", "t_max")}}
            if one.status == COMPLETED and not differences(one.config, wanted) and (seconds := one.seconds):
                times.append(seconds / one.config["t_max"])
        if times:
            return sum(times) / len(times), source
    return None


def _anywhere(run: Run) -> Iterator[Record]:
    """All published records of the run's algorithm and task, of whatever settings."""
    inner = Path("runs", "*", "*", "*", "sacred", run.config["name"], task_folder(task_of(run.config)), "*", "run.json")
    return (record(path.parent) for path in published_folder("*").parent.glob(f"*/{inner}"))


def _newest(journal: Path) -> list[float]:
    """The steps in the last whole line, if that is within the last TAIL bytes."""
    try:
        with journal.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
            lines = file.read().splitlines()
    except OSError:
        return []
    for line in reversed(lines):
        try:
            return [step for entry in json.loads(line).values() for step in entry["steps"]]
        except (ValueError, TypeError, AttributeError, KeyError):  # cut off, at its end or by us
            continue
    return []


def _json(path: Path) -> dict[str, Any]:
    """A file's mapping; an empty one where the file is missing or was cut off."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
