"""Statistics of runs, as Agarwal et al. 2021 (arXiv:2108.13264) recommend them, by their library rliable.

Shapes: N runs (seeds), M tasks, T points of a curve. Every bootstrap is seeded, so a report made twice is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

REPS = 2000  # bootstrap samples; what rliable takes for profiles
LEVEL = 0.95  # of the intervals
MIN_RUNS = 3  # with fewer seeds no interval is given: a bootstrap of two values knows nothing but these two
LAST = 0.1  # the share of a curve, at its end, whose mean is the final score
MAX_POINTS = 200  # of a grid


# --- curves on one grid ---
def common_grid(runs: Sequence[np.ndarray], points: int | None = None) -> np.ndarray:
    """Evenly spaced x that all runs cover, for scores: from the last of their beginnings to the first of their ends.

    :param runs: for each run its x, ascending, such as environment steps.
    :param points: by default as many as the longest run has, at most MAX_POINTS.
    :return: (T,); empty where there is no x that all runs cover, one point where they share only one.
    """
    if not len(runs) or any(len(x) == 0 for x in runs):
        return np.empty(0)
    low, high = max(x[0] for x in runs), min(x[-1] for x in runs)
    if low > high:
        return np.empty(0)
    if low == high:
        return np.array([low], float)
    return np.linspace(low, high, max(2, points or min(MAX_POINTS, max(len(x) for x in runs))))


def drawn_grid(runs: Sequence[np.ndarray]) -> np.ndarray:
    """Every x of any run that all runs cover, for curves that lose no extreme; above MAX_POINTS evenly spaced ones."""
    even = common_grid(runs, MAX_POINTS)
    if not len(even):
        return even
    own = np.unique(np.concatenate(runs))
    own = own[(even[0] <= own) & (own <= even[-1])]
    return own if len(own) <= MAX_POINTS else even


def align(runs: Sequence[tuple[np.ndarray, np.ndarray]], grid: np.ndarray) -> np.ndarray:
    """The (x, values) of every run at the grid's points, interpolated linearly.

    :return: (N, T).
    :raises ValueError: where a run does not reach over the whole grid: nothing is extrapolated.
    """
    for x, _ in runs:
        if len(grid) and (not len(x) or grid[0] < x[0] or grid[-1] > x[-1]):
            raise ValueError("the grid reaches beyond a run; nothing is extrapolated")
    rows = [np.interp(grid, x, values) for x, values in runs]
    return np.stack(rows) if rows else np.empty((0, len(grid)))


# --- scores ---
def final_score(curves: np.ndarray) -> np.ndarray:
    """Mean over the last tenth of the points, at least the last one: (..., T) -> (...)."""
    last = max(1, math.ceil(LAST * curves.shape[-1] - 1e-9))
    return curves[..., -last:].mean(-1)


def area_under_curve(grid: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Mean over the curve: its integral by the trapezoidal rule over the grid's length, (..., T) -> (...)."""
    if len(grid) == 1:
        return curves[..., 0]
    from scipy.integrate import trapezoid  # numpy calls it trapz before 2.0

    return trapezoid(curves, grid, axis=-1) / (grid[-1] - grid[0])


def iqm(scores: np.ndarray, axes: int = 1) -> np.ndarray:
    """Interquartile mean over the first `axes` axes together: the mean without the lowest and the highest quarter.

    rliable's aggregate_iqm, that is scipy's trim_mean at 0.25, for many points at once; of fewer than four values
    nothing is cut. (N, ...) -> (...), and with axes=2 (N, M, ...) -> (...).
    """
    pooled = np.sort(scores.reshape(-1, *scores.shape[axes:]), axis=0)
    cut = int(0.25 * len(pooled))
    return pooled[cut : len(pooled) - cut].mean(0)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> float:
    """The chance that a run of X beats one of Y on the same task, ties counted by half; mean over tasks.

    rliable's definition (Mann-Whitney's U over the number of pairs), for bootstraps in a fraction of its time.

    :param x: (N_x, M) and y: (N_y, M), scores.
    """
    larger, equal = x[:, None] > y[None], x[:, None] == y[None]  # (N_x, N_y, M)
    return float((larger + 0.5 * equal).mean())


def performance_profile(scores: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """The share of all runs on all tasks that score above each tau: (N, M), (P,) -> (P,). Agarwal et al. 2021, 4.2."""
    return 1 - np.searchsorted(np.sort(scores, axis=None), taus, side="right") / scores.size


# --- intervals ---
@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """numpy's global generator, seeded within and as before afterwards.

    rliable takes a random_state, but draws from the global generator whatever it is given.
    """
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def interval(
    statistic: Callable[..., Any], *scores: np.ndarray, reps: int = REPS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray] | None:
    """The percentile interval (95 %) of a statistic by rliable's bootstrap, stratified by task.

    :param statistic: of the scores, a number or an array.
    :param scores: (N, M, ...): one array, or several that are resampled independently, as for a comparison. A run of a
        task stays whole, whatever it has beyond (N, M).
    :return: (low, high) in the statistic's shape; None where an array has fewer than MIN_RUNS runs.
    """
    if any(len(array) < MIN_RUNS for array in scores):
        return None
    from rliable import library  # here: it takes seconds to import

    def function(*drawn: np.ndarray) -> np.ndarray:
        runs = zip(scores, drawn, strict=True)
        return np.atleast_1d(statistic(*(array[own, np.arange(own.shape[1])] for array, own in runs)))

    # Numbers of runs are resampled, not their scores: of a curve rliable would draw every point from another run.
    numbers = [np.repeat(np.arange(len(array))[:, None], array.shape[1], axis=1) for array in scores]
    given: Any = {"": numbers[0] if len(scores) == 1 else numbers}
    with seeded(seed):
        _, estimates = library.get_interval_estimates(given, function, reps=reps, confidence_interval_size=LEVEL)
    low, high = estimates[""]
    return low, high


# --- sample efficiency ---
def first_reach(grid: np.ndarray, curve: np.ndarray, level: float) -> float:
    """The x at which the curve first is at `level` or above, between points interpolated; inf where it never is."""
    above = np.flatnonzero(curve >= level)
    if not len(above):
        return math.inf
    i = int(above[0])
    if i == 0:
        return float(grid[0])
    share = (level - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(grid[i - 1] + share * (grid[i] - grid[i - 1]))


def steps_to_share(grid: np.ndarray, x: np.ndarray, y: np.ndarray, share: float) -> tuple[float, float, float]:
    """Steps until the mean curves of X and of Y first are `share` of the way from Y's beginning to Y's final score.

    :param grid: (T,); x: (N_x, M, T) and y: (N_y, M, T), the mean is over runs and tasks.
    :return: (that score, X's steps, Y's steps), steps infinite where it is not reached; NaN where Y never rises.
    """
    own, other = x.mean((0, 1)), y.mean((0, 1))
    begin, final = float(other[0]), float(final_score(other))
    if final <= begin:
        return math.nan, math.nan, math.nan
    level = begin + share * (final - begin)
    return level, first_reach(grid, own, level), first_reach(grid, other, level)


def ratio_of_means(x: np.ndarray, y: np.ndarray) -> float:
    """Mean of X over mean of Y, of all runs on all tasks; NaN where Y's is not above 0."""
    return float(x.mean() / y.mean()) if y.mean() > 0 else math.nan


# --- tasks together ---
def scale(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """(low, high) that brings a task's scores into 0..1: (0, 1) where all are there, as win rates are, else the lowest
    and the highest test of all algorithms (Gorsane et al. 2022, arXiv:2209.10485)."""
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    if 0 <= low and high <= 1 + 1e-6:  # float32 sums of LBF's rewards are 1.00000002
        return 0.0, 1.0
    return low, high if high > low else low + 1.0


def stack_tasks(scores: Sequence[np.ndarray]) -> np.ndarray:
    """One (N_task, ...) for each task -> (N, M, ...), the first N = the fewest runs of any task: rliable wants that."""
    fewest = min(len(array) for array in scores)
    return np.stack([array[:fewest] for array in scores], axis=1)
