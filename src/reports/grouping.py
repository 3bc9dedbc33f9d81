"""Which runs are averaged with which, and which with none: nothing is mixed that differs in more than the seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from reports.runs import Planned, RunRecord
from utils.identity import NOT_COMPARED, comparable, differences
from utils.naming import REWARD, shown, suffix

METRICS = ("test_battle_won_mean", "test_return_mean", "test_total_return_mean")  # the first that a task's runs have
ENVIRONMENT = {"env", *REWARD}  # with env_args: other values make another task
NAMES_THE_TASK = {"env_args.map_name", "env_args.key"}
ABSENT = "absent"
NOTHING = {"null", "false", "{}", ""}  # values of a key that says as much as its absence where a host lacks it


@dataclass(frozen=True)
class Curve:
    """Runs that differ in the seed only."""

    name: str  # the algorithm, with the keys that tell it from its neighbours
    algorithm: str
    runs: tuple[RunRecord, ...]

    @property
    def seeds(self) -> str:
        return ", ".join(str(run.seed) for run in self.runs)


@dataclass(frozen=True)
class Task:
    """Curves that may be compared: one task in one version of one environment."""

    title: str  # task, simulator and version
    backend: str
    metric: str
    curves: tuple[Curve, ...]


class LeftOut(NamedTuple):
    """A run that is listed, not averaged."""

    algorithm: str
    task: str
    seed: int | None
    reason: str
    source: str


class Groups(NamedTuple):
    tasks: tuple[Task, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]  # what a reader of the averages should know


def group(runs: Sequence[RunRecord], planned: Sequence[Planned] = ()) -> Groups:
    """Tasks with their curves, and what is left out of them and why.

    :param planned: what an experiment wanted; without it every complete run is averaged with its like.
    """
    complete, left_out = _sift(runs, planned)
    measured: list[tuple[str, str, list[RunRecord]]] = []  # title, metric, runs
    for title, own in sorted(_split_tasks(complete).items()):
        metric = next(m for m in METRICS if any(m in run.metrics for run in own))
        lacking = [run for run in own if metric not in run.metrics]
        left_out += [_left_out(run, f"it has no {metric}, which the other runs of this task have") for run in lacking]
        measured.append((title, metric, [run for run in own if metric in run.metrics]))
    tasks = []
    named = _curve_names([own for _, _, own in measured])
    for (title, metric, own), names in zip(measured, named, strict=True):
        curves, repeated = _curves(own, names)
        left_out += repeated
        tasks.append(Task(title, own[0].backend, metric, curves))
    return Groups(tuple(tasks), tuple(left_out), tuple(note for task in tasks for note in _notes(task)))


def _sift(runs: Iterable[RunRecord], planned: Sequence[Planned]) -> tuple[list[RunRecord], list[LeftOut]]:
    """The complete runs, those of the plan where there is one; the others, and what of the plan is missing."""
    complete: list[RunRecord] = []
    left_out: list[LeftOut] = []
    met: set[int] = set()  # indices of `planned`
    tried: set[int] = set()
    for run in sorted(runs, key=lambda run: (run.task, run.algorithm, run.seed or 0, run.started, run.source)):
        reason = incomplete(run)
        wanted = [i for i, plan in enumerate(planned) if _is_of(run, plan)]
        tried |= set(wanted)
        if not reason and planned:
            wrong = {i: differences(run.config, planned[i].config) for i in wanted}
            met |= {i for i in wanted if not wrong[i]}
            if not wanted:
                reason = "not planned in this experiment"
            elif all(wrong.values()):
                reason = "another configuration than planned: " + min(map("; ".join, wrong.values()), key=len)
        if reason:
            left_out.append(_left_out(run, reason))
        else:
            complete.append(run)
    for i, plan in enumerate(planned):
        if i not in met:
            what = "no complete run of this configuration" if i in tried else "no run was recorded"
            left_out.append(LeftOut(plan.algorithm, plan.task, plan.seed, f"missing: {what}", ""))
    return complete, left_out


def _curves(runs: Sequence[RunRecord], names: Sequence[str]) -> tuple[tuple[Curve, ...], list[LeftOut]]:
    """A curve for each name; of the runs of one seed the first, and the others left out."""
    curves, left_out = [], []
    for name in sorted(set(names)):
        of_name = [run for run, own in zip(runs, names, strict=True) if own == name]
        first = {run.seed: run for run in reversed(of_name)}  # sorted by seed, then by beginning
        chosen = [run for run in of_name if first[run.seed] is run or run.seed is None]
        reason = "a repetition of this seed with the same configuration; the run that began first is averaged"
        left_out += [_left_out(run, reason) for run in of_name if run not in chosen]
        curves.append(Curve(name, chosen[0].algorithm, tuple(chosen)))
    return tuple(curves), left_out


def incomplete(run: RunRecord) -> str:
    """Why the run has no whole learning curve; "" where it has."""
    died = f": {run.error}" if run.error else ""
    if run.config.get("evaluate"):
        return "it tests a checkpoint and learns nothing"
    if run.status == "FAILED":
        return f"crashed{died}"
    if run.status == "INTERRUPTED":
        return "stopped by hand (Ctrl-C)"
    if run.status == "RUNNING":
        return f"cut off, or still running (last sign of life: {run.heartbeat or 'none'} UTC)"
    if run.status != "COMPLETED":
        return f"not completed: Sacred's status is {run.status}{died}"
    metric = next((run.metrics[name] for name in METRICS if name in run.metrics), None)
    if metric is None or not len(metric.steps):
        return "it has no test"
    if not np.isfinite(metric.values).all():
        return "a test's result is no finite number"
    t_max, between = run.config.get("t_max"), run.config.get("test_interval", 0)
    if isinstance(t_max, (int, float)) and isinstance(between, (int, float)) and metric.steps[-1] + between < t_max:
        return f"cut off: the last test is at step {metric.steps[-1]:,.0f} of t_max={t_max:,}"
    again = "; to have it run again, remove its record"
    if run.lost:
        return f"{run.lost:,} points of its metrics were lost when it went on{again}"
    if hole := _hole(metric.steps, float(between) if isinstance(between, (int, float)) else 0.0, run.config):
        return f"its tests from step {hole[0]:,.0f} to {hole[1]:,.0f} are not there{again}"
    return ""


def _hole(steps: np.ndarray, between: float, config: Mapping[str, Any]) -> tuple[float, float] | None:
    """Between which steps, tests (T,) are missing; None where none are. They may lie wider apart than `between`, as
    rollouts do; a run that began with saved networks has its first one where these were."""
    ends = np.concatenate([steps[:1] if config.get("checkpoint_path") else [0.0], steps])
    gaps = np.diff(ends)
    widest = int(gaps.argmax())
    return (ends[widest], ends[widest + 1]) if gaps[widest] > 3 * max(between, float(np.median(gaps))) else None


def _is_of(run: RunRecord, plan: Planned) -> bool:
    return (run.algorithm, run.seed) == (plan.algorithm, plan.seed) and plan.task in (run.task_name, run.task)


def _left_out(run: RunRecord, reason: str) -> LeftOut:
    return LeftOut(run.algorithm, run.task, run.seed, reason, run.source)


def _compared(run: RunRecord) -> dict[str, str]:
    config = {key: shown(_number(value)) for key, value in comparable(run.config) if key not in NOT_COMPARED}
    return config | {"host": _host(run)}


def _number(value: Any) -> Any:
    """10.0 as 10, which is what upstream's records say."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _host(run: RunRecord) -> str:
    """Which program trained: our core, or EPyMARL of this commit."""
    upstream = run.host.get("program", "")  # "upstream EPyMARL COMMIT at PATH"
    return upstream.removeprefix("upstream ").partition(" at ")[0] or "embedded"


def _is_environment(key: str) -> bool:
    return key in ENVIRONMENT or key.startswith("env_args.")


def _differing(configs: Sequence[Mapping[str, str]]) -> set[str]:
    keys = {key for config in configs for key in config}
    return {key for key in keys if len({config.get(key) for config in configs}) > 1}


def _telling(runs: Sequence[RunRecord]) -> set[str]:
    """The keys, and "host", that tell these runs apart. A key that only one of two hosts knows is compared among that
    host's runs; across hosts only if it is the environment's, and set."""
    by_host: dict[str, list[dict[str, str]]] = defaultdict(list)
    for run in runs:
        by_host[_host(run)].append(_compared(run))
    telling = set().union(*map(_differing, by_host.values()))
    known = [{key for config in configs for key in config} for configs in by_host.values()]
    common = set.intersection(*known)
    everything = [config for configs in by_host.values() for config in configs]
    telling |= _differing(everything) & common
    for config in everything:
        telling |= {key for key in config.keys() - common if _is_environment(key) and config[key] not in NOTHING}
    return telling


def _suffix(config: Mapping[str, str], keys: Iterable[str]) -> str:
    return suffix({key: config.get(key, ABSENT) for key in keys})


def _split_tasks(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs by task; where keys of the environment differ that its name does not tell, these are in the title, too."""
    by_task: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        by_task[run.task].append(run)
    result: dict[str, list[RunRecord]] = defaultdict(list)
    for task, own in by_task.items():
        keys = {key for key in _telling(own) if _is_environment(key) and key not in NAMES_THE_TASK}
        for run in own:
            result[task + _suffix(_compared(run), keys)].append(run)
    return result


def _curve_names(tasks: Sequence[Sequence[RunRecord]]) -> list[list[str]]:
    """For each run of each task its curve's name. A key that differs among an algorithm's runs of one task is named in
    all tasks, so that a curve is called the same everywhere; so is the host where there are two, and the label of
    those that would have the same name."""
    hosts = {_host(run) for own in tasks for run in own}
    differing: dict[str, set[str]] = defaultdict(set)
    for own in tasks:
        for algorithm in {run.algorithm for run in own}:
            telling = _telling([run for run in own if run.algorithm == algorithm])
            differing[algorithm] |= {key for key in telling if not _is_environment(key)}
            differing[algorithm] |= {"host"} if len(hosts) > 1 else set()
    names = [[run.algorithm + _suffix(_compared(run), differing[run.algorithm]) for run in own] for own in tasks]
    labels: dict[str, set[str]] = defaultdict(set)
    for run, name in zip(chain(*tasks), chain(*names), strict=True):
        labels[name].add(run.algorithm)
    return [
        [name if len(labels[name]) == 1 else f"{name} (label {run.algorithm})" for run, name in zip(*pair, strict=True)]
        for pair in zip(tasks, names, strict=True)
    ]


def _notes(task: Task) -> list[str]:
    notes = []
    lengths: dict[str, list[str]] = defaultdict(list)
    for curve in task.curves:
        lengths[_thousands(curve.runs[0].config.get("t_max", 0))].append(curve.name)
    runs = [(curve.name, run) for curve in task.curves for run in curve.runs]
    for package in sorted(_differing([run.versions for _, run in runs])):
        said = _by_value((name, run.versions.get(package, ABSENT)) for name, run in runs)
        notes.append(f"{task.title}: the runs were made with different versions of {package}: {said}.")
    changed = [(name, run.seed) for name, run in runs if any(", " in commit for commit in run.commits)]
    if changed:
        which = "; ".join(f"{name}, seed {seed}" for name, seed in changed)
        notes.append(
            f"{task.title}: files differed from the commit, in a way that is not recorded, so that these may be of "
            f"different code: {which}."
        )
    if len({commit for _, run in runs for commit in run.commits}) > 1:
        said = _by_value((name, _short(commit)) for name, run in runs for commit in run.commits)
        notes.append(f"{task.title}: the runs were made at different commits: {said}.")
    for name, run in runs:
        if len(run.commits) > 1:
            said = ", then ".join(map(_short, run.commits))
            notes.append(f"{task.title}: {name}, seed {run.seed}, went on at another commit: {said}.")
        if others := dict.fromkeys(other for start in run.resumed for other in start.others):
            notes.append(
                f"{task.title}: {name}, seed {run.seed}, began otherwise and went on with {', '.join(others)}."
            )
    if len(lengths) > 1:
        said = "; ".join(f"t_max={length}: {', '.join(names)}" for length, names in lengths.items())
        notes.append(f"{task.title}: lengths differ ({said}). Scores cover only the steps that all curves share.")
    hosts = {(run.host.get("machine", ""), run.host.get("cpu", "")) for _, run in runs}
    hosts |= {(start.machine, start.cpu) for _, run in runs for start in run.resumed}
    threads = {shown(run.config.get("torch_threads")) for curve in task.curves for run in curve.runs}
    devices = {run.host.get("device", "cpu") for curve in task.curves for run in curve.runs}
    if max(len(hosts), len(threads), len(devices)) > 1:
        notes.append(f"{task.title}: machines, devices or threads differ, so wall-clock times do not compare.")
    return notes


def _thousands(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else shown(value)


def _short(commit: str) -> str:
    """The first ten digits, and whether files were changed."""
    digits, *changed = commit.split(", ")
    return ", ".join([digits[:10], *changed]) or "not recorded"


def _by_value(named: Iterable[tuple[str, str]]) -> str:
    """(curve, value) -> "value 1: curves; value 2: curves"."""
    curves: dict[str, set[str]] = defaultdict(set)
    for name, value in named:
        curves[value].add(name)
    return "; ".join(f"{value}: {', '.join(sorted(names))}" for value, names in sorted(curves.items()))
