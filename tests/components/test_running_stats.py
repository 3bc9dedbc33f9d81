from __future__ import annotations

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from components.running_stats import RunningStats


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 2**31), st.sampled_from([0.0, 1e4]))
def test_pieces_merge_to_the_whole(sizes: list[int], seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=(n, 3)) * [1, 10, 0.1] + offset for n in sizes]
    masks = [rng.random(n) < 0.7 for n in sizes]
    stats = RunningStats((3,))
    for value, mask in zip(values, masks, strict=True):
        stats.update(th.tensor(value), th.tensor(mask))
    kept = np.concatenate([v[m] for v, m in zip(values, masks, strict=True)])
    assert stats.count == len(kept)
    if len(kept):
        np.testing.assert_allclose(stats.mean, kept.mean(0), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(stats.var, kept.var(0), rtol=1e-6, atol=1e-9)


def test_leading_dimensions_and_masks_with_a_last_one() -> None:
    values = th.randn(4, 5, 2)
    mask = (th.rand(4, 5, 1) < 0.5).float()
    stats = RunningStats((2,))
    stats.update(values, mask)
    kept = values[mask[..., 0].bool()].double().numpy()
    np.testing.assert_allclose(stats.mean, kept.mean(0))
    np.testing.assert_allclose(stats.std, kept.std(0))


def test_before_the_first_value_nothing_changes() -> None:
    stats, x = RunningStats((2,)), th.randn(3, 2)
    stats.update(x, th.zeros(3))
    assert stats.count == 0
    assert th.equal(stats.normalise(x), x) and th.equal(stats.denormalise(x), x)


def test_normalise_and_back() -> None:
    stats, x = RunningStats((1,)), 3 + 7 * th.randn(100, 1)
    stats.update(x)
    there = stats.normalise(x)
    assert there.dtype == th.float32
    assert there.mean().item() == pytest.approx(0, abs=1e-5) and there.std(correction=0).item() == pytest.approx(1)
    th.testing.assert_close(stats.denormalise(there), x)


def test_state_goes_on_in_another_object() -> None:
    stats, other = RunningStats((1,)), RunningStats((1,))
    stats.update(th.randn(9, 1))
    state = stats.state_dict()
    other.load_state_dict(state)
    x = th.randn(5, 1)
    stats.update(x)
    other.update(x)
    assert stats.count == other.count and th.equal(stats.mean, other.mean) and th.equal(stats.var, other.var)
    assert state["count"] == 9


def test_a_mask_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="mask"):
        RunningStats((2,)).update(th.randn(4, 2), th.ones(5))
