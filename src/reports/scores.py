"""The numbers of a report: bands of learning curves, scores with intervals, comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reports import statistics as st
from reports.grouping import Task
from reports.runs import RunRecord

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
    bands: dict[str, dict[str, Band | None]]  # curve -> axis -> over all tasks, scaled; none of a single task
    missing: dict[str, list[str]]  # curve -> tasks it was not run on; such curves are in no score of the suite

    @property
    def scaled(self) -> bool:
        return any(scale != (0, 1) for scale in self.scales)


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
def bands(
    tasks: Sequence[Sequence[RunRecord]], metric: str, scales: Sequence[tuple[float, float]] = ()
) -> dict[str, Band | None]:
    """Axis -> the interquartile mean of all runs on all tasks at their tests' steps, as far as all of them go.

    Against updates and minutes it is drawn where the runs were at these steps on average, so that the end of the
    fastest run cuts nothing off. None where the runs share no steps, or one of them has not recorded the axis.

    :param tasks: a curve's runs on each task.
    :param scales: of each task: what becomes 0 and 1; without them values stay as they are.
    """
    curves = [[along(run, metric) for run in runs] for runs in tasks]
    known = [[curve for curve in own if curve is not None] for own in curves]
    grid = st.drawn_grid([steps for own in known for steps, _ in own])
    if any(len(a) < len(b) for a, b in zip(known, curves, strict=True)) or not len(grid):
        return dict.fromkeys(AXES)
    rows = [
        (st.align(own, grid) - low) / (high - low)
        for own, (low, high) in zip(known, scales or [(0, 1)] * len(tasks), strict=True)
    ]
    drawn = _band(grid, st.stack_tasks(rows))
    return {
        axis: _moved(drawn, st.stack_tasks([np.stack([_x(run, metric, axis, grid) for run in runs]) for runs in tasks]))
        for axis in AXES
    }


def along(run: RunRecord, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(steps, values) of a run's metric; None where it has recorded none."""
    series = run.metrics.get(metric)
    if series is None:
        return None
    known = np.isfinite(series.values)
    return (series.steps[known], series.values[known]) if known.any() else None


def _x(run: RunRecord, metric: str, axis: str, steps: np.ndarray) -> np.ndarray:
    """(T,) where the run was on the axis at these steps; NaN where it has not recorded that."""
    if axis == "steps":
        return steps
    if axis == "updates":
        return updates_at(run, steps)
    return _between(steps, run.metrics[metric].steps, run.metrics[metric].seconds / 60)


def updates_at(run: RunRecord, steps: np.ndarray) -> np.ndarray:
    """(T,) optimiser steps until each of these environment steps; NaN where the run has not recorded them."""
    updates = run.metrics.get(UPDATES)
    return np.full(len(steps), np.nan) if updates is None else _between(steps, updates.steps, updates.values)


def _between(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """y, known at x, at other x; NaN where that is before or after all that is known."""
    known = np.isfinite(y)
    return np.interp(at, x[known], y[known], np.nan, np.nan) if known.any() else np.full(len(at), np.nan)


def _moved(band: Band, x: np.ndarray) -> Band | None:
    """The band at the mean x of its runs, (N, M, T). Of several points before the first update the last one stays."""
    mean = x.mean((0, 1))
    kept = np.flatnonzero(np.isfinite(mean))
    kept = kept[np.diff(mean[kept], append=np.inf) > 0]
    _, mid, low, high, runs = band
    if not len(kept):
        return None
    return Band(mean[kept], mid[kept], None if low is None else low[kept], None if high is None else high[kept], runs)


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
    """Tasks of the same backend and metric together; curves that were not run on all of them are named, not scored.

    Where no curve was run on all of them, they are no suite.
    """
    by_kind: dict[tuple[str, str], list[TaskScores]] = {}
    for task in tasks:
        if task.scores:
            by_kind.setdefault((task.task.backend, task.task.metric), []).append(task)
    found = [_suite(backend, metric, own) for (backend, metric), own in by_kind.items()]
    return [suite for suite in found if suite.scores]


def _suite(backend: str, metric: str, tasks: list[TaskScores]) -> Suite:
    scales = [st.scale([score.rows for score in task.scores]) for task in tasks]
    names = {score.name: score.algorithm for task in tasks for score in task.scores}
    lacking = {n: [t.task.title for t in tasks if n not in {s.name for s in t.scores}] for n in names}
    missing = {name: titles for name, titles in lacking.items() if titles}
    grid = st.common_grid([task.grid for task in tasks])
    scores = []
    drawn: dict[str, dict[str, Band | None]] = {}
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
        if len(tasks) > 1:
            drawn[name] = bands(runs, metric, scales)
        scores.append(_score(name, names[name], finals, areas, rows))
    return Suite(backend, metric, tuple(tasks), tuple(scales), grid, tuple(scores), drawn, missing)


# --- comparisons ---
def profile(scores: np.ndarray, taus: np.ndarray) -> Band:
    """(N, M) -> the performance profile over taus."""
    bounds = st.interval(lambda s: st.performance_profile(s, taus), scores)
    low, high = bounds or (None, None)
    return Band(taus, st.performance_profile(scores, taus), low, high, len(scores))


def comparisons(scored: TaskScores | Suite, reference: str) -> list[Comparison]:
    """Each curve of the reference, or the one that it names, against each other one."""
    own, others = list[Score](), list[Score]()
    for score in scored.scores:
        (own if is_reference(score.name, score.algorithm, reference) else others).append(score)
    rows = [_compare(a, b, scored.grid) for a in own for b in others]
    if isinstance(scored, Suite) and scored.scaled:  # where the scale has its 0 depends on who is in the report
        rows = [row._replace(area=Estimate(math.nan, runs=row.area.runs)) for row in rows]
    return rows


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


def is_reference(curve: str, algorithm: str, reference: str) -> bool:
    """Whether the reference is the curve's algorithm, or the curve alone, in any case of letters."""
    return reference.lower() in (curve.lower(), algorithm.lower())


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
