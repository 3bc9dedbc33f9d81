"""Episodes kept as rows of bytes, in blocks, are what a dict of them would hold, in few tensors."""

from __future__ import annotations

import gc

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from components.episode_store import EpisodeStore, RowLayout

# --- fields side by side ---
FIELDS = {
    "flag": ((1,), th.bool),
    "obs": ((3, 2), th.float32),
    "actions": ((3, 1), th.uint8),
    "wide": ((1,), th.int16),
    "count": ((2,), th.int64),
}


@pytest.mark.parametrize("n_rows", [1, 5])
def test_rows_come_back_as_they_were(n_rows: int) -> None:
    layout = RowLayout(FIELDS)
    assert layout.width == 1 + 3 * 2 * 4 + 3 + 2 + 2 * 8
    values = {
        "flag": th.rand(n_rows, 1) < 0.5,
        "obs": th.randn(n_rows, 3, 2),
        "actions": th.randint(256, (n_rows, 3, 1)),  # long, as batches have them
        "wide": th.randint(-(2**15), 2**15, (n_rows, 1)),
        "count": th.randint(-(2**62), 2**62, (n_rows, 2)),
    }
    rows = layout.pack(values)
    assert rows.shape == (n_rows, layout.width) and rows.dtype == th.uint8
    back = layout.unpack(rows)
    assert list(back) == list(FIELDS)
    for key, (shape, dtype) in FIELDS.items():
        assert back[key].dtype == dtype and back[key].shape == (n_rows, *shape)
        assert th.equal(back[key], values[key].to(dtype))


def test_more_dimensions_and_padding() -> None:
    layout = RowLayout(FIELDS)
    found = layout.unpack(th.zeros(4, 7, layout.width, dtype=th.uint8))
    for key, (shape, _) in FIELDS.items():
        assert found[key].shape == (4, 7, *shape) and not found[key].any()


# --- episodes by number ---
def episode(number: int, length: int) -> th.Tensor:
    return th.arange(length * 3).view(length, 3) + 1000 * number


def assert_holds(store: EpisodeStore, number: int, length: int) -> None:
    for start, stop in ((0, length), (1, length), (0, 1), (1, 2)):
        assert th.equal(store.rows(number, start, stop), episode(number, length)[start:stop])


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 400),
    lengths=st.lists(st.integers(2, 6), min_size=1, max_size=900),
    begin=st.integers(0, 1000),
)
def test_the_last_episodes_are_there(capacity: int, lengths: list[int], begin: int) -> None:
    """From number 0, and from where a restored buffer would begin."""
    for first in (0, begin):
        store = EpisodeStore(capacity)
        for k, length in enumerate(lengths):
            store.put(first + k, episode(first + k, length), oldest=max(first, first + k + 1 - capacity))
        held = range(max(0, len(lengths) - capacity), len(lengths))
        for k in {held[0], held[len(held) // 2], held[-1]}:
            assert_holds(store, first + k, lengths[k])


def test_the_order_of_a_restored_block_does_not_matter() -> None:
    store = EpisodeStore(100)  # blocks of 2
    for number in (8, 5, 7, 6):
        store.put(number, episode(number, number), oldest=5)
    for number in (5, 6, 7, 8):
        assert_holds(store, number, number)


def holds(store: EpisodeStore, number: int) -> bool:
    try:
        store.rows(number, 0, 2)
    except KeyError:
        return False
    return True


@pytest.mark.parametrize("capacity", [1, 49, 100, 3000])
def test_at_most_a_fiftieth_too_many_is_held(capacity: int) -> None:
    store, most = EpisodeStore(capacity), 0
    for number in range(capacity + 300):
        first = oldest = max(0, number + 1 - capacity)
        store.put(number, episode(number, 2), oldest)
        while first > 0 and holds(store, first - 1):
            first -= 1
        most = max(most, number + 1 - first)
    assert most <= capacity * 1.02


def live_tensors() -> int:
    gc.collect()
    return sum(type(one) is th.Tensor for one in gc.get_objects())


def test_few_tensors_and_few_episodes_too_many() -> None:
    before = live_tensors()
    store = EpisodeStore(5000)
    for number in range(12_000):
        store.put(number, episode(number, 2), oldest=max(0, number - 4999))
    assert len(store._blocks) <= 5000 // 64 + 2
    assert live_tensors() - before <= len(store._blocks) + 64
    oldest = 12_000 - 5000
    with pytest.raises(KeyError):
        store.rows(oldest - 65, 0, 2)
    store.clear()
    assert live_tensors() - before == 0
