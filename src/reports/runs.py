"""Runs that were recorded: read from Sacred's folders or from MongoDB, without Sacred and without pickle."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.gymma import plain_key
from utils.commands import rebuilt_command
from utils.config import ConfigError
from utils.mongo import address, connect, is_mongo, parse_time
from utils.naming import algorithm_of, backend_note, task_of, variant_of

JOURNAL = "metrics.jsonl"  # every metric of a run that has not ended, one line a heartbeat; see utils.recording


class Series(NamedTuple):
    """A metric over a run, in the order of its steps, each step once. Arrays of shape (T,)."""

    steps: np.ndarray  # environment steps
    values: np.ndarray
    seconds: np.ndarray  # since the run's start, as seconds_between has them; NaN where no time was recorded


Pause = tuple[datetime, datetime]  # in which a run that was resumed stood still


class Start(NamedTuple):
    """A later start of a run, which went on with it. commit: as RunRecord has it, "" where it was not recorded. others:
    simulator, device and versions that were not those of the first start."""

    commit: str
    machine: str
    cpu: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)  # a run is equal to itself alone; arrays have no truth value
class RunRecord:
    """What one run has left behind."""

    algorithm: str  # the configuration's label, or its name where there is none
    task: str  # task, simulator, its version and variant_of: only runs with the same one may share a curve
    task_name: str  # without the version
    backend: str  # simulator and version, "" where the run ended before it was known
    seed: int | None
    status: str  # Sacred's: COMPLETED, RUNNING (or killed), FAILED, INTERRUPTED, ...
    config: Mapping[str, Any]
    metrics: Mapping[str, Series]
    source: str  # path of the folder, or the database without user and password and the id in it
    versions: Mapping[str, str] = field(default_factory=dict)
    host: Mapping[str, str] = field(default_factory=dict)  # program, machine, cpu, ..., as far as recorded
    command: str = ""  # "" where neither recorded nor to be rebuilt
    command_rebuilt: bool = False  # from the configuration and this checkout's config files
    commit: str = ""  # of git; "..., changed" where files differed from it
    resumed: tuple[Start, ...] = ()
    lost: int = 0  # points of its metrics that were gone when it went on
    started: str = ""  # ISO 8601, UTC
    stopped: str = ""
    heartbeat: str = ""  # last sign of life
    error: str = ""  # what it ended with: see _reason
    tags: tuple[str, ...] = ()  # given in Omniboard
    run_id: Any = None  # in a database; None for a folder

    @property
    def commits(self) -> tuple[str, ...]:
        """Of the first start and of later ones, each once; ("",) where none was recorded."""
        known = filter(None, [self.commit, *(start.commit for start in self.resumed)])
        return tuple(dict.fromkeys(known)) or ("",)


@dataclass(frozen=True)
class Planned:
    """A run that an experiment wants.

    `algorithm` and `task` are as RunRecord's algorithm and task_name.
    """

    algorithm: str
    task: str
    seed: int | None
    config: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Planned:
        """The plan to run this composed configuration."""
        return cls(algorithm_of(config), plain_key(task_of(config)), config.get("seed"), config)


def load_runs(sources: Sequence[str], problems: list[str] | None = None) -> list[RunRecord]:
    """All runs of all sources, each once, in the order of the sources.

    :param sources: folders, searched with all that is in them, and databases as mongodb://host[:port]/DB.
    :param problems: damaged records are described here and left out; without a list they become warnings.
    :raises ConfigError: for each source that does not exist or holds no run; for one that holds only damaged ones where
        no other source has a run.
    """
    found: dict[str, RunRecord] = {}
    damaged: list[str] = []
    wrong: list[str] = []
    nothing_whole: list[str] = []
    for source in sources:
        try:
            records = list(_from_mongo(source, damaged) if is_mongo(source) else _from_folder(Path(source), damaged))
        except _NothingWhole as error:
            nothing_whole.extend(error.problems)
            continue
        except ConfigError as error:
            wrong.extend(error.problems)
            continue
        for key, record in records:
            found.setdefault(key, record)
    if not found:
        wrong.extend(nothing_whole)
    if not sources:
        wrong.append("no source of runs: name folders with Sacred's records or mongodb://host/DB")
    if wrong:
        raise ConfigError(wrong)
    damaged = list(dict.fromkeys(damaged))
    if problems is not None:
        problems.extend(damaged)
    elif damaged:
        warnings.warn("left out: " + "; ".join(damaged), stacklevel=2)
    return list(found.values())


# --- Sacred's folders ---
def _from_folder(folder: Path, problems: list[str]) -> Iterator[tuple[str, RunRecord]]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; runs are recorded in local_results_path/sacred")
    count, damaged = 0, []
    for path, files in folders_below(folder):
        if "run.json" not in files:
            if "cout.txt" in files:
                damaged.append(f"{path}: run.json is missing")
            continue
        try:
            record = _read_folder(path, damaged)
        except Damaged as error:
            damaged.append(f"{path}: {error}")
            continue
        count += 1
        yield str(path.resolve()), record
    problems.extend(damaged)
    if not count:
        raise _no_run(f"{folder}: no run is recorded there (no folder with run.json and config.json)", damaged)


def folders_below(folder: Path) -> Iterator[tuple[Path, Collection[str]]]:
    """The folder and all below it with their files, those behind symbolic links, too, each once."""
    seen: set[str] = set()
    for name, inner, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(name)
        if place in seen:
            inner.clear()
        else:
            seen.add(place)
            inner.sort()
            yield Path(name), files


class Files(NamedTuple):
    """What the files of a record say. The metrics are as in metrics.json; without times where it is missing."""

    run: Mapping[str, Any]
    config: Mapping[str, Any]
    info: Mapping[str, Any]
    metrics: Mapping[str, Any]


def read_files(path: Path, problems: list[str]) -> Files:
    """The record in this folder. Damage that leaves something of it is described in `problems`.

    :raises Damaged: without run.json and config.json.
    """
    run, config = _json(path / "run.json"), _json(path / "config.json")
    info: Mapping[str, Any] = {}
    metrics: Mapping[str, Any] | None = None
    try:
        info = _json(path / "info.json") if (path / "info.json").exists() else {}
    except Damaged as error:
        problems.append(f"{path}: {error}; what it says of backend and versions is missing")
    try:
        metrics = read_metrics(path)
    except Damaged as error:
        problems.append(f"{path}: {error}; its curves are read from info.json, without times")
    if metrics is None:  # info.json has every value as well, only no times
        metrics = {
            key: {"values": values, "steps": info[f"{key}_T"]}
            for key, values in info.items()
            if isinstance(values, list) and f"{key}_T" in info
        }
    return Files(run, config, info, metrics)


def _read_folder(path: Path, problems: list[str]) -> RunRecord:
    return _record(*read_files(path, problems), str(path), lambda problem: problems.append(f"{path}: {problem}"))


def facts_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's info says beside its metrics, as JSON gives it back. A metric is two entries, `x` and `x_T`."""
    metrics = {key for key in info if f"{key}_T" in info}
    facts = {key: value for key, value in info.items() if key not in metrics and key.removesuffix("_T") not in metrics}
    return json.loads(json.dumps(facts, default=str))


def read_metrics(folder: Path) -> Mapping[str, Any] | None:
    """metrics.json, or the journal, which is whole where the run has not ended; None where there is neither."""
    try:
        lines = (folder / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:  # the run has ended, maybe just now
        return _json(folder / "metrics.json") if (folder / "metrics.json").exists() else None
    except OSError as error:
        raise Damaged(f"{JOURNAL} cannot be read ({error})") from None
    metrics: dict[str, dict[str, list[Any]]] = {}
    for line in lines:
        try:
            new = json.loads(line)
        except ValueError:  # the last line of a run that was killed
            continue
        try:
            for name, entry in new.items():
                kept = metrics.setdefault(name, {"steps": [], "values": [], "timestamps": []})
                for key in kept:
                    kept[key].extend(entry[key])
        except (AttributeError, KeyError, TypeError) as error:
            raise Damaged(f"{JOURNAL} has a line that is none of a run's: {line[:60]!r} ({error!r})") from None
    return metrics


class Damaged(Exception):
    """A record that cannot be read; says why."""


class _NothingWhole(ConfigError):
    """A source has records, and all are damaged."""


def _no_run(text: str, damaged: Sequence[str]) -> ConfigError:
    return _NothingWhole(f"{text}; damaged: {'; '.join(damaged)}") if damaged else ConfigError(text)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise Damaged(f"{path.name} holds no mapping")
    return content


# --- MongoDB ---
def _from_mongo(url: str, problems: list[str]) -> Iterator[tuple[str, RunRecord]]:
    """The runs that Sacred's MongoObserver has left in a database. No error of the driver is passed on: it may quote
    the password."""
    where = address(url, "source of runs")
    shown = where.shown
    import pymongo.errors

    client = connect(where)
    try:
        database = client[where.database]
        runs = list(database["runs"].find().sort("_id", 1))
        series: dict[Any, dict[str, Any]] = {}
        for entry in database["metrics"].find():
            series.setdefault(entry.get("run_id"), {})[str(entry.get("name"))] = entry
    except pymongo.errors.PyMongoError as error:
        cure = "is the server running, and are user and password right?"
        raise ConfigError(f"{shown}: the database cannot be read ({type(error).__name__}); {cure}") from None
    finally:
        client.close()
    count = 0
    damaged: list[str] = []
    for run in runs:
        source = f"{shown} run {run['_id']}"

        def report(problem: str, source: str = source) -> None:
            damaged.append(f"{source}: {problem}")

        try:
            config, info = run.get("config"), run.get("info") or {}
            if not isinstance(config, dict) or not isinstance(info, dict):
                raise Damaged("it has no configuration")
            record = _record(run, config, info, series.get(run["_id"], {}), source, report)
        except Damaged as error:
            report(str(error))
            continue
        count += 1
        yield source, record
    problems.extend(damaged)
    if not count:
        raise _no_run(f"{shown}: the collection `runs` of this database holds no run", damaged)


# --- what both have ---
def _record(run: Mapping[str, Any], *given: Any) -> RunRecord:
    """The record; Damaged where what it holds is no run's."""
    try:
        return _read(run, *given)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise Damaged(f"this is no record of a run ({type(error).__name__}: {error})") from None


def _read(
    run: Mapping[str, Any],
    config: Mapping[str, Any],
    info: Mapping[str, Any],
    metrics: Mapping[str, Any],
    source: str,
    report: Callable[[str], None],
) -> RunRecord:
    missing = [key for key in ("name", "env") if not isinstance(config.get(key), str)]
    if missing:
        raise Damaged(f"this is no run of EPyMARL (no {' and no '.join(missing)} in its configuration)")
    start = time_of(run.get("start_time"))
    series, stood_still = {}, pauses(info)
    for name, entry in metrics.items():
        try:
            series[name] = _series(entry, start, stood_still)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            report(f"the metric {name} is damaged")
    backend = backend_note(str(info.get("backend") or ""))
    task = plain_key(task_of(config, backend))
    recorded = info.get("command")
    command = recorded if isinstance(recorded, str) and recorded else rebuilt_command(config)
    seed = config.get("seed")
    host = _host(run.get("host"), info)
    return RunRecord(
        algorithm=algorithm_of(config),
        task=f"{task}, {backend or 'backend not recorded'}{variant_of(config)}",
        task_name=task,
        backend=backend,
        seed=int(seed) if isinstance(seed, int) else None,
        status=str(run.get("status", "unknown")),
        config=config,
        metrics=series,
        source=source,
        versions=_words(info.get("versions")),
        host=host,
        command=command,
        command_rebuilt=command != recorded and bool(command),
        commit=commit_of(run.get("experiment")),
        resumed=tuple(_start(note, host) for note in resumptions(info)),
        lost=sum(int(note["missing"]) for note in resumptions(info) if str(note.get("missing")).isdecimal()),
        started=_iso(start),
        stopped=_iso(time_of(run.get("stop_time"))),
        heartbeat=_iso(time_of(run.get("heartbeat"))),
        error=_reason(run.get("fail_trace")),
        tags=_tags(run),
        run_id=run.get("_id"),
    )


def _series(entry: Mapping[str, Any], start: datetime | None, stood_still: Sequence[Pause]) -> Series:
    steps, values = np.asarray(entry["steps"], float), np.array(numbers(entry["values"]), float)
    if steps.ndim != 1 or steps.shape != values.shape:
        raise ValueError("as many steps as values are wanted")
    times = entry.get("timestamps") or []
    seconds = np.full(len(steps), np.nan)
    if len(times) == len(steps) and start is not None:
        parsed = [time_of(time) for time in times]
        seconds = np.array([np.nan if time is None else seconds_between(start, time, stood_still) for time in parsed])
    last = {step: index for index, step in enumerate(steps)}  # a resumed run repeats steps: the later value counts
    order = np.array([last[step] for step in sorted(last)], int)
    return Series(steps[order], values[order], seconds[order])


def numbers(values: Sequence[Any]) -> list[float]:
    """The values of a metric. Upstream's records have NumPy's numbers as mappings; null is no number."""
    plain = (value.get("value") if isinstance(value, dict) else value for value in values)
    return [np.nan if value is None else float(value) for value in plain]


def time_of(value: Any) -> datetime | None:
    """None where it is none. Sacred's times are UTC without a zone: ISO text in files, datetimes in MongoDB."""
    time = parse_time(value)
    return time.replace(tzinfo=None) if isinstance(time, datetime) else None


def _iso(time: datetime | None) -> str:
    return "" if time is None else time.isoformat(timespec="seconds")


def _words(mapping: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in mapping.items()} if isinstance(mapping, dict) else {}


def _host(host: Any, info: Mapping[str, Any]) -> dict[str, str]:
    if not isinstance(host, dict):
        return {}
    system = host.get("os")
    named = {
        "program": info.get("host"),  # upstream EPyMARL; a run of our own core says nothing
        "machine": host.get("hostname"),
        "cpu": host.get("cpu"),
        "cores": host.get("cores") or host.get("cpu_count") or info.get("cores"),
        "device": info.get("device"),
        "system": system[-1] if isinstance(system, (list, tuple)) and system else system,
        "python": host.get("python_version"),
    }
    return {key: str(value) for key, value in named.items() if value}


def resumptions(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a run's info notes of each later start: see recording.ResumedFolder."""
    notes = info.get("resumed")
    return [note for note in notes if isinstance(note, dict)] if isinstance(notes, list) else []


def _start(note: Mapping[str, Any], host: Mapping[str, str]) -> Start:
    """What the note does not say is as at the first start; older records have no commit and no processor."""
    machine, cpu = note.get("host") or host.get("machine", ""), note.get("cpu") or host.get("cpu", "")
    others = {key: note.get(key) for key in ("backend", "device")} | {**_words(note.get("versions"))}
    said = tuple(f"{key} {value}" for key, value in others.items() if value)
    return Start(commit_of({"repositories": [note]}), str(machine), str(cpu), said)


def pauses(info: Mapping[str, Any]) -> list[Pause]:
    """Of a resumed run, each from its end, or its last sign of life, to its next start."""
    spans = ((time_of(note.get("stopped")), time_of(note.get("resumed"))) for note in resumptions(info))
    return [(stopped, resumed) for stopped, resumed in spans if stopped is not None and resumed is not None]


def seconds_between(start: datetime, end: datetime, stood_still: Sequence[Pause]) -> float:
    """Wall-clock without the pauses. What a killed run does again, since its last checkpoint, counts twice."""
    lost = sum(max((min(end, resumed) - stopped).total_seconds(), 0.0) for stopped, resumed in stood_still)
    return (end - start).total_seconds() - lost


def commit_of(experiment: Any) -> str:
    """The commit in what Sacred notes of an experiment, as RunRecord has it."""
    repositories = experiment.get("repositories") if isinstance(experiment, dict) else None
    for repository in repositories or []:
        if isinstance(repository, dict) and repository.get("commit"):
            return str(repository["commit"]) + (", changed" if repository.get("dirty") else "")
    return ""


def _tags(run: Mapping[str, Any]) -> tuple[str, ...]:
    omniboard = run.get("omniboard")
    tags = omniboard.get("tags") if isinstance(omniboard, dict) else None
    return tuple(str(tag) for tag in tags) if isinstance(tags, list) else ()


def _reason(trace: Any) -> str:
    """Of a traceback, the exception's first line, and the last of what was noted to it."""
    lines = [line.rstrip() for line in "".join(map(str, trace or [])).splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    said = [line for line in lines[frames[-1] :] if not line.startswith(" ")] if frames else lines[-1:]
    return "; ".join(dict.fromkeys(line.strip() for line in (*said[:1], *said[-1:])))
