from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import trim_mean

from reports import statistics as st
from reports.report import FEW_SEEDS

rliable = pytest.importorskip("rliable", reason="rliable is not installed: pip install -e '.[report]'")
from rliable import library, metrics  # noqa: E402


@pytest.fixture
def scores() -> np.ndarray:
    """(N=5 runs, M=3 tasks)"""
    return np.random.default_rng(0).normal(size=(5, 3))


# --- curves on one grid ---
def test_grid_is_what_all_runs_cover() -> None:
    grid = st.common_grid([np.array([50.0, 100, 400]), np.array([0.0, 120, 250, 390])])
    assert grid[0] == 50 and grid[-1] == 390 and len(grid) == 4 and np.allclose(np.diff(grid), 340 / 3)
    assert len(st.common_grid([np.arange(1000.0)])) == st.MAX_POINTS
    assert st.common_grid([np.array([0.0, 9])], 4).tolist() == [0, 3, 6, 9]


def test_runs_that_share_nothing_have_no_grid() -> None:
    assert st.common_grid([np.array([0.0, 1]), np.array([2.0, 3])]).size == 0
    assert st.common_grid([]).size == 0 and st.common_grid([np.empty(0)]).size == 0
    assert st.common_grid([np.array([0.0, 1]), np.array([1.0, 3])]).tolist() == [1]


def test_a_drawn_grid_has_every_point_of_the_runs() -> None:
    runs = [np.array([0.0, 10, 400]), np.array([5.0, 120, 390])]
    assert st.drawn_grid(runs).tolist() == [5, 10, 120, 390]
    assert st.drawn_grid([np.arange(200.0), np.arange(0.5, 200)]).tolist() == np.linspace(0.5, 199, 200).tolist()
    assert st.drawn_grid([np.array([0.0, 1]), np.array([1.0, 3])]).tolist() == [1]
    assert st.drawn_grid([np.array([0.0, 1]), np.array([2.0, 3])]).size == st.drawn_grid([]).size == 0


def test_align_interpolates() -> None:
    runs = [(np.array([0.0, 10]), np.array([0.0, 1])), (np.array([0.0, 4, 10]), np.array([2.0, 2, 8]))]
    assert st.align(runs, np.array([0.0, 5, 10])).tolist() == [[0, 0.5, 1], [2, 3, 8]]


@pytest.mark.parametrize("grid", [[-1.0, 5], [5.0, 11]])
def test_align_never_extrapolates(grid: list[float]) -> None:
    with pytest.raises(ValueError, match="extrapolated"):
        st.align([(np.array([0.0, 10]), np.array([0.0, 1]))], np.array(grid))


# --- scores, by hand ---
def test_final_score_is_the_last_tenth() -> None:
    assert st.final_score(np.arange(20.0)) == 18.5  # two of twenty
    assert st.final_score(np.arange(10.0)) == 9 and st.final_score(np.arange(3.0)) == 2
    assert st.final_score(np.arange(11.0)) == 9.5  # rounded up
    assert st.final_score(np.array([[0.0, 1], [2, 3]])).tolist() == [1, 3]


def test_area_under_curve() -> None:
    grid = np.array([0.0, 1, 4])
    assert st.area_under_curve(grid, np.array([0.0, 2, 2])) == (1 + 6) / 4
    assert st.area_under_curve(grid, np.array([[3.0, 3, 3], [0, 0, 4]])).tolist() == [3, 6 / 4]
    assert st.area_under_curve(np.array([5.0]), np.array([[7.0]])).tolist() == [7]


def test_iqm_by_hand() -> None:
    assert st.iqm(np.array([9.0, 0, 2, 4])) == 3  # the lowest and the highest quarter are cut
    assert st.iqm(np.array([0.0, 3, 9])) == 4  # of three nothing is
    assert st.iqm(np.array([[0.0, 10], [9, 20], [2, 30], [4, 90]])).tolist() == [3, 25]


@pytest.mark.parametrize("runs", [1, 2, 3, 4, 5, 8, 10])
def test_iqm_is_that_of_rliable_and_scipy(runs: int) -> None:
    scores = np.random.default_rng(runs).normal(size=(runs, 3, 7))
    assert np.allclose(st.iqm(scores), trim_mean(scores, 0.25, axis=0))
    together = st.iqm(scores, axes=2)
    assert together.shape == (7,)
    assert np.allclose(together, [metrics.aggregate_iqm(scores[:, :, t]) for t in range(7)])


def test_probability_of_improvement_by_hand() -> None:
    x, y = np.array([[1.0], [3]]), np.array([[0.0], [1], [2]])
    assert st.probability_of_improvement(x, y) == pytest.approx((1.5 + 3) / 6)  # one tie
    assert st.probability_of_improvement(x, x) == 0.5
    assert st.probability_of_improvement(np.array([[1.0, 0]]), np.array([[0.0, 1]])) == 0.5  # one task each


def test_probability_of_improvement_is_that_of_rliable() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 4, (5, 3)).astype(float), rng.integers(0, 4, (7, 3)).astype(float)
    assert st.probability_of_improvement(x, y) == pytest.approx(metrics.probability_of_improvement(x, y))


def test_performance_profile(scores: np.ndarray) -> None:
    taus = np.array([-1.0, 0, 0.5, 9, scores[0, 0]])
    assert np.allclose(st.performance_profile(scores, taus), library.score_distributions(scores, taus))
    assert st.performance_profile(np.array([[0.0], [0.5], [0.5], [1]]), np.array([0.5]))[0] == 0.25


# --- intervals ---
def test_interval_is_that_of_rliable_on_the_same_draws(scores: np.ndarray) -> None:
    np.random.seed(7)
    _, theirs = library.get_interval_estimates(
        {"a": scores}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=200, confidence_interval_size=0.95
    )
    low, high = st.interval(lambda s: st.iqm(s, axes=2), scores, reps=200, seed=7) or ((), ())
    assert np.allclose([low, high], theirs["a"])


def test_interval_of_a_comparison_is_that_of_rliable(scores: np.ndarray) -> None:
    other = scores[:4] - 0.3
    np.random.seed(3)
    _, theirs = library.get_interval_estimates(
        {"a": [scores, other]}, lambda *s: np.array([metrics.probability_of_improvement(*s)]), reps=100
    )
    low, high = st.interval(st.probability_of_improvement, scores, other, reps=100, seed=3) or ((), ())
    assert np.allclose([low, high], theirs["a"])


def test_interval_by_hand() -> None:
    """Three runs, 27 equally likely samples, their means 0, 1, 2 and 3: 0 in 8/27 of them, 3 in 1/27."""
    low, high = st.interval(st.iqm, np.array([[0.0], [0], [3]]), reps=4000) or ((), ())
    assert low[0] == 0 and high[0] == 3
    bounds = st.interval(st.iqm, np.full((4, 1), 2.5))
    assert bounds is not None and bounds[0] == bounds[1] == 2.5


def test_interval_is_stratified() -> None:
    """Tasks are not mixed: where every task's runs agree, nothing is uncertain."""
    bounds = st.interval(lambda s: s.mean(), np.tile([[0.0, 10.0]], (4, 1)), reps=50)
    assert bounds is not None and bounds[0] == bounds[1] == 5


def test_interval_of_curves(scores: np.ndarray) -> None:
    low, high = st.interval(lambda s: st.iqm(s, axes=2), scores[:, :, None] + np.arange(6.0), reps=50) or ((), ())
    assert low.shape == high.shape == (6,) and (low <= high).all() and (np.diff(low) > 0).any()


def test_a_resampled_run_is_whole() -> None:
    """Of a curve with a shape, as steps_to_share reads it, the points must be one run's."""
    drawn: list[np.ndarray] = []

    def statistic(x: np.ndarray, y: np.ndarray) -> float:
        drawn.extend((x, y))
        return 0.0

    runs = np.arange(5.0)[:, None, None] + 10 * np.arange(2.0)[:, None]  # (N, M, 1): a number for each run and task
    st.interval(statistic, np.tile(runs, (1, 1, 7)), np.tile(runs[:3], (1, 1, 4)), reps=30)
    assert all((one == one[..., :1]).all() for one in drawn)
    assert all((one[:, 1, 0] - one[:, 0, 0] != 10).any() for one in drawn[-20:])  # tasks are drawn on their own


@pytest.mark.parametrize("runs", [0, 1, 2])
def test_no_interval_of_fewer_than_three_runs(runs: int) -> None:
    few, many = np.zeros((runs, 1)), np.zeros((5, 1))
    assert st.interval(st.iqm, few) is None
    assert st.interval(st.probability_of_improvement, many, few) is None


def test_intervals_repeat_and_leave_the_global_generator_alone(scores: np.ndarray) -> None:
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    first = st.interval(st.iqm, scores, reps=50)
    assert np.array_equal(np.random.random(3), expected)
    assert np.array_equal(first or 0, st.interval(st.iqm, scores, reps=50) or 1)
    assert not np.array_equal(first or 0, st.interval(st.iqm, scores, reps=50, seed=1) or 0)


# --- sample efficiency ---
def test_first_reach() -> None:
    grid, curve = np.array([0.0, 10, 20, 30]), np.array([0.0, 1, 0, 4])
    assert st.first_reach(grid, curve, 0.5) == 5 and st.first_reach(grid, curve, 2) == 25
    assert st.first_reach(grid, curve, 0) == 0 and st.first_reach(grid, curve, 4) == 30
    assert math.isinf(st.first_reach(grid, curve, 4.1))


def test_steps_to_a_share_of_the_others_final_score() -> None:
    """Y rises from -10 to 10, X twice as fast; 0.9 of the way is 8."""
    grid = np.linspace(0, 100, 11)
    y = np.linspace(-10, 10, 11)[None, None] + np.array([-1.0, 1])[:, None, None]  # two runs
    x = np.clip(np.linspace(-10, 30, 11), None, 12)[None, None]
    level, own, other = st.steps_to_share(grid, x, y, 0.9)
    final = (8 + 10) / 2  # the last tenth of eleven points are two
    assert level == pytest.approx(-10 + 0.9 * (final + 10))
    assert (own, other) == pytest.approx(((level + 10) / 0.4, (level + 10) / 0.2))
    assert math.isinf(st.steps_to_share(grid, y - 10, y, 0.9)[1])
    assert all(map(math.isnan, st.steps_to_share(grid, x, np.full_like(y, 3.0), 0.9)))


def test_ratio_of_means() -> None:
    x, y = np.array([[1.0, 3], [2, 2]]), np.array([[1.0, 1], [1, 1], [4, 1]])
    assert st.ratio_of_means(x, y) == pytest.approx(2 / 1.5)
    assert math.isnan(st.ratio_of_means(x, y - 1.5))


@pytest.mark.parametrize(("row", "statistic"), [(0, st.iqm), (1, lambda scores: scores.mean(0))])
@pytest.mark.parametrize(("column", "seeds"), [(0, 3), (1, 5), (2, 10)])
def test_how_often_intervals_of_few_seeds_hold_the_truth(
    row: int, statistic: Callable[[np.ndarray], np.ndarray], column: int, seeds: int
) -> None:
    """What the report says of them: simulated with Gaussian seeds and the percentile bootstrap."""
    said = re.findall(r"(\d+), (\d+) and (\d+) %", FEW_SEEDS)[row][column]
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(1000, seeds))
    samples = np.stack([statistic(own[rng.integers(seeds, size=(500, seeds))].T) for own in runs])
    bottom, top = np.percentile(samples, [2.5, 97.5], axis=1)
    assert ((bottom <= 0) & (0 <= top)).mean() == pytest.approx(int(said) / 100, abs=0.02)


# --- tasks together ---
def test_scale() -> None:
    assert st.scale([np.array([0.0, 0.4]), np.array([0.9])]) == (0, 1)
    assert st.scale([np.array([0.1, 1.00000002])]) == (0, 1), "LBF's rewards of an episode, summed in float32"
    assert st.scale([np.array([-3.0, 0.4]), np.array([7.0])]) == (-3, 7)
    assert st.scale([np.array([2.0, 2])]) == (2, 3)


def test_stack_tasks_takes_the_fewest_runs() -> None:
    stacked = st.stack_tasks([np.array([1.0, 2, 3]), np.array([4.0, 5])])
    assert stacked.tolist() == [[1, 4], [2, 5]]
