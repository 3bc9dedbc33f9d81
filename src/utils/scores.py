"""The numbers of a report: bands of learning curves, scores with intervals, comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from utils import statistics as st
from utils.grouping import Curve, Task
from utils.runs import RunRecord, Series

AXES = {"steps": "environment steps", "updates": "gradient updates", "seconds": "wall-clock, minutes"}
LEVELS = (0.5, 0.9)  # of the way from the worst beginning to the best end, for steps to reach a score


class Estimate(NamedTuple):
    """An interquartile mean, and its interval where there are enough seeds."""

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
    finals: np.ndarray  # (N,) or (N, M)
    areas: np.ndarray
    rows: np.ndarray  # (N, T) on the grid


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


class Efficiency(NamedTuple):
    """Steps to reach a score: infinite where it is never reached within the `limit` of steps that were run."""

    task: str
    reference: str
    baseline: str
    share: float
    level: float
    steps: float
    limit: float
    baseline_steps: float
    baseline_limit: float
    ratio: float


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
    updates = run.metrics.get("updates")
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
    bounds = st.interval(lambda c: st.iqm(c, axes=2), curves)
    low, high = bounds or (None, None)
    return Band(grid, st.iqm(curves, axes=2), low, high, len(curves))


def estimate(scores: np.ndarray) -> Estimate:
    """(N,) or (N, M) -> the interquartile mean over all of it, with its interval."""
    matrix = scores.reshape(len(scores), -1)
    bounds = st.interval(lambda s: st.iqm(s, axes=2), matrix)
    value = float(st.iqm(matrix, axes=2))
    return _estimate(value, bounds, len(scores))


def _estimate(value: float, bounds: tuple[np.ndarray, np.ndarray] | None, runs: int) -> Estimate:
    return Estimate(value, float(bounds[0][0]), float(bounds[1][0]), runs) if bounds else Estimate(value, runs=runs)


# --- scores ---
def score_task(task: Task) -> TaskScores:
    curves = {curve: [_tests(run, task.metric) for run in curve.runs] for curve in task.curves}
    grid = st.common_grid([x for own in curves.values() for x, _ in own])
    if not len(grid):
        return TaskScores(task, grid, ())
    return TaskScores(task, grid, tuple(_score(curve, grid, st.align(own, grid)) for curve, own in curves.items()))


def _tests(run: RunRecord, metric: str) -> tuple[np.ndarray, np.ndarray]:
    series = run.metrics[metric]
    return series.steps, series.values


def _score(curve: Curve, grid: np.ndarray, rows: np.ndarray) -> Score:
    finals, areas = st.final_score(rows), st.area_under_curve(grid, rows)
    return Score(curve.name, curve.algorithm, estimate(finals), estimate(areas), finals, areas, rows)


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
        finals = st.stack_tasks([(s.finals - low) / (high - low) for s, (low, high) in zip(own, scales, strict=True)])
        areas = st.stack_tasks([(s.areas - low) / (high - low) for s, (low, high) in zip(own, scales, strict=True)])
        runs = [next(curve.runs for curve in task.task.curves if curve.name == name) for task in tasks]
        for axis in AXES if len(tasks) > 1 else ():
            bands[axis][name] = _band_of_tasks(runs, metric, axis, scales)
        scores.append(Score(name, names[name], estimate(finals), estimate(areas), finals, areas, np.empty(0)))
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


class Improvement(NamedTuple):
    """The probability that a run of one curve beats one of another, over the tasks that both were run on."""

    reference: str
    baseline: str
    kind: str  # finals or areas
    chance: Estimate
    tasks: tuple[str, ...]


def improvements(tasks: Sequence[TaskScores], reference: str) -> list[Improvement]:
    """Each curve of the reference against each other one, over final scores and areas."""
    by_name: dict[str, dict[str, Score]] = {}
    for task in tasks:
        for score in task.scores:
            by_name.setdefault(score.name, {})[task.task.title] = score
    own = {name for name, of in by_name.items() if is_reference(next(iter(of.values())).algorithm, reference)}
    rows = []
    for kind in ("finals", "areas"):
        for a in sorted(own):
            for b in sorted(set(by_name) - own):
                both = [title for title in by_name[a] if title in by_name[b]]
                if both:
                    x, y = (st.stack_tasks([getattr(by_name[name][title], kind) for title in both]) for name in (a, b))
                    rows.append(Improvement(a, b, kind, improvement(x, y), tuple(both)))
    return rows


def improvement(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Probability that a run of X (N_x, M) beats one of Y (N_y, M)."""
    bounds = st.interval(st.probability_of_improvement, x, y)
    return _estimate(st.probability_of_improvement(x, y), bounds, min(len(x), len(y)))


def is_reference(algorithm: str, reference: str) -> bool:
    return algorithm.lower() == reference.lower()


def efficiency(task: TaskScores, reference: str, bands: dict[str, Band | None]) -> list[Efficiency]:
    """Steps that the reference and each other curve need for the LEVELS. bands: of each curve against steps, whole."""
    drawn = {name: band for name, band in bands.items() if band is not None}
    if not task.scores or not drawn:
        return []
    low = min(float(band.mid[0]) for band in drawn.values())
    high = max(score.final.value for score in task.scores)
    own = {score.name for score in task.scores if is_reference(score.algorithm, reference)}
    rows = []
    for name in sorted(own & set(drawn)):
        for other in sorted(set(drawn) - own):
            for share in LEVELS if high > low else ():
                level = low + share * (high - low)
                a, b = drawn[name], drawn[other]
                steps, others = st.first_reach(a.x, a.mid, level), st.first_reach(b.x, b.mid, level)
                ratio = st.efficiency_ratio(steps, others)
                rows.append(
                    Efficiency(task.task.title, name, other, share, level, steps, a.x[-1], others, b.x[-1], ratio)
                )
    return rows


def ratio_words(row: Efficiency) -> str:
    """The ratio, or the bound that the lengths of the runs give where one of the two never arrives."""
    if math.isnan(row.ratio):
        return "neither reaches it" if math.isinf(row.steps) else "both begin there"
    if math.isinf(row.ratio):
        return f"> {row.baseline_limit / row.steps:.2f}" if row.steps else "the reference begins there"
    if row.ratio == 0 and math.isinf(row.steps):
        return f"< {row.baseline_steps / row.limit:.2f}"
    return f"{row.ratio:.2f}"
