"""Episodes kept in blocks are what a dict of them would hold, in few tensors."""

from __future__ import annotations

import gc

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from components.episode_store import EpisodeStore


def episode(number: int, length: int) -> dict[str, th.Tensor]:
    values = th.arange(length * 3, dtype=th.float32).view(length, 3) + 1000 * number
    return {"task": th.full((1, 2), number), "obs": values, "done": values[:, :1] > 5}


def assert_holds(store: EpisodeStore, number: int, length: int) -> None:
    expected = episode(number, length)
    for start, stop in ((0, length), (1, length), (0, 1), (1, 2)):
        for key in ("obs", "done"):
            assert th.equal(store.rows(number, key, start, stop), expected[key][start:stop])
    assert store.rows(number, "task", 0, 1).tolist() == [[number, number]]


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 400),
    lengths=st.lists(st.integers(2, 6), min_size=1, max_size=900),
    begin=st.integers(0, 1000),
)
def test_the_last_episodes_are_there(capacity: int, lengths: list[int], begin: int) -> None:
    """From number 0, and from where a restored buffer would begin."""
    for first in (0, begin):
        store = EpisodeStore(capacity, {"task"})
        for k, length in enumerate(lengths):
            store.put(first + k, episode(first + k, length), oldest=max(first, first + k + 1 - capacity))
        held = range(max(0, len(lengths) - capacity), len(lengths))
        for k in {held[0], held[len(held) // 2], held[-1]}:
            assert_holds(store, first + k, lengths[k])


def test_the_order_of_a_restored_block_does_not_matter() -> None:
    store = EpisodeStore(100, {"task"})  # blocks of 2
    for number in (8, 5, 7, 6):
        store.put(number, episode(number, number), oldest=5)
    for number in (5, 6, 7, 8):
        assert_holds(store, number, number)


def live_tensors() -> int:
    gc.collect()
    return sum(type(one) is th.Tensor for one in gc.get_objects())


def test_few_tensors_and_few_episodes_too_many() -> None:
    before = live_tensors()
    store = EpisodeStore(5000, {"task"})
    for number in range(12_000):
        store.put(number, episode(number, 2), oldest=max(0, number - 4999))
    assert len(store._blocks) <= 5000 // 64 + 2
    assert live_tensors() - before <= 3 * (len(store._blocks) + 64)
    oldest = 12_000 - 5000
    with pytest.raises(KeyError):
        store.rows(oldest - 65, "obs", 0, 2)
    store.clear()
    assert live_tensors() - before == 0
