"""The numbers of a report: bands of learning curves, scores with intervals, comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from utils import statistics as st
from utils.grouping import Task
from utils.runs import RunRecord, Series

AXES = {"steps": "environment steps", "updates": "gradient updates", "seconds": "wall-clock, minutes"}
UPDATES = "updates"  # the metric
SHARE = 0.9  # of the way from another curve's beginning to its final score, for the steps to get as far
NEVER = 1e15  # steps, for bootstraps: percentiles of infinite numbers are none


class Estimate(NamedTuple):
    """An interquartile mean or a comparison, and its interval where there are enough seeds."""

    value: float
    low: float | None = None
    high: float | None = None
    runs: int = 0


class Band(NamedTuple):
    """A curve to draw: arrays (T,); low and high are None where there are too few seeds for an interval."""

    x: np.ndarray
    mid: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    runs: int


@dataclass(frozen=True)
class Score:
    """One curve on one task (or on all tasks of a suite)."""

    name: str
    algorithm: str
    final: Estimate
    area: Estimate
    mean_area: Estimate  # the plain mean: every task counts as much, the easiest and the hardest one, too
    finals: np.ndarray  # (N, M)
    areas: np.ndarray
    rows: np.ndarray  # (N, M, T) on the grid


@dataclass(frozen=True)
class TaskScores:
    """Scores of one task. `grid`: (T,) environment steps that all its curves share, empty where there are none."""

    task: Task
    grid: np.ndarray
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Suite:
    """All tasks in one version of one environment with one metric, together."""

    backend: str
    metric: str
    tasks: tuple[TaskScores, ...]
    scales: tuple[tuple[float, float], ...]  # of each task: what became 0 and 1
    grid: np.ndarray
    scores: tuple[Score, ...]  # finals and areas (N, M), scaled
    bands: dict[str, dict[str, Band | None]]  # axis -> curve -> over all tasks, scaled; None where a run lacks the axis
    missing: dict[str, list[str]]  # curve -> tasks it was not run on; such curves are in no score of the suite


class Comparison(NamedTuple):
    """A curve of the reference against another one, on one task or on all tasks of a suite."""

    reference: str
    baseline: str
    area: Estimate  # mean area under curve over the other's; NaN where that is not above 0
    chance_area: Estimate  # the probability that a run has a larger area than one of the other's on the same task
    chance_final: Estimate  # the same of final scores
    level: float  # SHARE of the way from the other's beginning to its final score; NaN where it never rises
    steps: float  # until the mean curve is there; infinite where it never is within the steps that both cover
    baseline_steps: float
    limit: float
    ratio: Estimate  # steps over the other's


# --- curves ---
def along(run: RunRecord, metric: str, axis: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(x, values) of a run's metric against steps, updates or minutes; None where the run has not recorded x."""
    series = run.metrics.get(metric)
    if series is None or not len(series.steps):
        return None
    x, values = _x(run, series, axis), series.values
    known = np.isfinite(x) & np.isfinite(values)
    x, values = x[known], values[known]
    if not len(x) or (np.diff(x) < 0).any():
        return None
    last = np.append(np.diff(x) > 0, True)  # several tests before the first update: the last one counts
    return x[last], values[last]


def _x(run: RunRecord, series: Series, axis: str) -> np.ndarray:
    if axis == "steps":
        return series.steps
    if axis == "seconds":
        return series.seconds / 60
    return updates_at(run, series)


def updates_at(run: RunRecord, series: Series) -> np.ndarray:
    """(T,) optimiser steps until each of the series' points; NaN where the run has not recorded them."""
    updates = run.metrics.get(UPDATES)
    if updates is None or not len(updates.steps):
        return np.full(len(series.steps), np.nan)
    return np.interp(series.steps, updates.steps, updates.values, left=np.nan, right=np.nan)


def band(runs: Iterable[RunRecord], metric: str, axis: str = "steps") -> Band | None:
    """The runs' interquartile mean at each x that all of them cover; None where there is none or a run lacks x."""
    curves = [along(run, metric, axis) for run in runs]
    known = [curve for curve in curves if curve is not None]
    grid = st.common_grid([x for x, _ in known])
    if len(known) < len(curves) or not len(grid):
        return None
    return _band(grid, st.align(known, grid)[:, None])


def _band(grid: np.ndarray, curves: np.ndarray) -> Band:
    """curves: (N, M, T)"""
    bounds = st.interval(_middle, curves)
    low, high = bounds or (None, None)
    return Band(grid, _middle(curves), low, high, len(curves))


def estimate(statistic: Callable[..., Any], *scores: np.ndarray) -> Estimate:
    """A statistic of (N, M, ...) arrays, with its interval."""
    bounds = st.interval(statistic, *scores)
    low, high = (float(bound[0]) for bound in bounds) if bounds else (None, None)
    if low is not None and math.isnan(low):  # a ratio to what is 0 in some of the samples
        low = high = None
    return Estimate(float(statistic(*scores)), low, high, min(len(array) for array in scores))


# --- scores ---
def score_task(task: Task) -> TaskScores:
    curves = {curve: [_tests(run, task.metric) for run in curve.runs] for curve in task.curves}
    grid = st.common_grid([x for own in curves.values() for x, _ in own])
    if not len(grid):
        return TaskScores(task, grid, ())
    scored = []
    for curve, own in curves.items():
        rows = st.align(own, grid)[:, None]
        finals, areas = st.final_score(rows), st.area_under_curve(grid, rows)
        scored.append(_score(curve.name, curve.algorithm, finals, areas, rows))
    return TaskScores(task, grid, tuple(scored))


def _tests(run: RunRecord, metric: str) -> tuple[np.ndarray, np.ndarray]:
    series = run.metrics[metric]
    return series.steps, series.values


def _score(name: str, algorithm: str, finals: np.ndarray, areas: np.ndarray, rows: np.ndarray) -> Score:
    final, area, mean_area = estimate(_middle, finals), estimate(_middle, areas), estimate(np.mean, areas)
    return Score(name, algorithm, final, area, mean_area, finals, areas, rows)


def _middle(scores: np.ndarray) -> np.ndarray:
    """(N, M, ...) -> the interquartile mean over all runs on all tasks."""
    return st.iqm(scores, axes=2)


def suites(tasks: Sequence[TaskScores]) -> list[Suite]:
    """Tasks of the same backend and metric together; curves that were not run on all of them are named, not scored."""
    by_kind: dict[tuple[str, str], list[TaskScores]] = {}
    for task in tasks:
        if task.scores:
            by_kind.setdefault((task.task.backend, task.task.metric), []).append(task)
    return [_suite(backend, metric, own) for (backend, metric), own in by_kind.items()]


def _suite(backend: str, metric: str, tasks: list[TaskScores]) -> Suite:
    scales = [st.scale([score.rows for score in task.scores]) for task in tasks]
    names = {score.name: score.algorithm for task in tasks for score in task.scores}
    lacking = {n: [t.task.title for t in tasks if n not in {s.name for s in t.scores}] for n in names}
    missing = {name: titles for name, titles in lacking.items() if titles}
    grid = st.common_grid([task.grid for task in tasks])
    scores = []
    bands: dict[str, dict[str, Band | None]] = {axis: {} for axis in AXES}
    for name in sorted(set(names) - set(missing)):
        own = [next(score for score in task.scores if score.name == name) for task in tasks]
        runs = [next(curve.runs for curve in task.task.curves if curve.name == name) for task in tasks]
        finals, areas, rows = (
            st.stack_tasks([(values - low) / (high - low) for values, (low, high) in zip(column, scales, strict=True)])
            for column in (
                [score.finals[:, 0] for score in own],
                [score.areas[:, 0] for score in own],
                [st.align([_tests(run, metric) for run in of], grid) for of in runs],
            )
        )
        for axis in AXES if len(tasks) > 1 else ():
            bands[axis][name] = _band_of_tasks(runs, metric, axis, scales)
        scores.append(_score(name, names[name], finals, areas, rows))
    return Suite(backend, metric, tuple(tasks), tuple(scales), grid, tuple(scores), bands, missing)


def _band_of_tasks(
    tasks: Sequence[Sequence[RunRecord]], metric: str, axis: str, scales: Sequence[tuple[float, float]]
) -> Band | None:
    """One curve over all tasks, at each x that all runs on all tasks cover. tasks: the runs on each."""
    curves = [[along(run, metric, axis) for run in runs] for runs in tasks]
    known = [[curve for curve in own if curve is not None] for own in curves]
    grid = st.common_grid([x for own in known for x, _ in own])
    if any(len(a) < len(b) for a, b in zip(known, curves, strict=True)) or not len(grid):
        return None
    rows = [(st.align(own, grid) - low) / (high - low) for own, (low, high) in zip(known, scales, strict=True)]
    return _band(grid, st.stack_tasks(rows))


# --- comparisons ---
def profile(scores: np.ndarray, taus: np.ndarray) -> Band:
    """(N, M) -> the performance profile over taus."""
    bounds = st.interval(lambda s: st.performance_profile(s, taus), scores)
    low, high = bounds or (None, None)
    return Band(taus, st.performance_profile(scores, taus), low, high, len(scores))


def comparisons(scored: TaskScores | Suite, reference: str) -> list[Comparison]:
    """Each curve of the reference against each other one."""
    own = [score for score in scored.scores if is_reference(score.algorithm, reference)]
    others = [score for score in scored.scores if not is_reference(score.algorithm, reference)]
    return [_compare(a, b, scored.grid) for a in own for b in others]


def _compare(a: Score, b: Score, grid: np.ndarray) -> Comparison:
    area = estimate(st.ratio_of_means, a.areas, b.areas)
    chance_area = estimate(st.probability_of_improvement, a.areas, b.areas)
    chance_final = estimate(st.probability_of_improvement, a.finals, b.finals)
    level = steps = others = math.nan
    ratio = Estimate(math.nan, runs=area.runs)
    if len(grid):
        level, steps, others = st.steps_to_share(grid, a.rows, b.rows, SHARE)

        def steps_over_steps(x: np.ndarray, y: np.ndarray) -> float:
            _, own, other = st.steps_to_share(grid, x, y, SHARE)
            return min(own, NEVER) / other if other > 0 else math.nan

        ratio = estimate(steps_over_steps, a.rows, b.rows)
    limit = float(grid[-1]) if len(grid) else math.nan
    return Comparison(a.name, b.name, area, chance_area, chance_final, level, steps, others, limit, ratio)


def is_reference(algorithm: str, reference: str) -> bool:
    return algorithm.lower() == reference.lower()


def steps_words(row: Comparison) -> str:
    """The ratio of the steps with its interval, or the bound that the length of the runs gives."""
    if math.isnan(row.ratio.value):
        return "–"
    if math.isinf(row.steps):
        return f"> {row.limit / row.baseline_steps:.2f}"
    if row.ratio.low is None or row.ratio.high is None:
        return f"{row.ratio.value:.2f}"
    # beyond `limit`, a ratio that no two numbers of steps have, the resampled curve never got there
    low, high = (f"{bound:.2f}" if bound <= row.limit else "never" for bound in (row.ratio.low, row.ratio.high))
    return f"{row.ratio.value:.2f} [{low}, {high}]"
