from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import random_batch
from support.settings import args, scheme_of

from components.episode_buffer import EpisodeBatch, ReplayBuffer


def empty(n_episodes: int = 4, n_steps: int = 7, **changes: Any) -> EpisodeBatch:
    scheme, groups, preprocess = scheme_of(args(**changes))
    return EpisodeBatch(scheme, groups, n_episodes, n_steps, preprocess=preprocess)


def make_buffer(
    size: int = 10, n_steps: int = 7, changes: dict[str, Any] | None = None, **options: Any
) -> ReplayBuffer:
    scheme, groups, preprocess = scheme_of(args(**(changes or {})))
    return ReplayBuffer(scheme, groups, size, n_steps, preprocess, **({"seed": 1} | options))


# --- EpisodeBatch ---
def test_fields_have_their_shapes_and_types() -> None:
    batch = empty()
    expected = {
        "state": ((4, 7, 8), th.float32),
        "obs": ((4, 7, 3, 6), th.float32),
        "actions": ((4, 7, 3, 1), th.int64),
        "actions_onehot": ((4, 7, 3, 5), th.float32),
        "avail_actions": ((4, 7, 3, 5), th.uint8),
        "reward": ((4, 7, 1), th.float32),
        "terminated": ((4, 7, 1), th.uint8),
        "filled": ((4, 7, 1), th.int64),
    }
    assert {key: (tuple(batch[key].shape), batch[key].dtype) for key in batch.scheme} == expected
    assert batch["obs"] is batch["obs"]
    assert not any(batch[key].any() for key in expected if key != "actions_onehot")


def test_the_callers_scheme_is_left_alone() -> None:
    scheme, groups, preprocess = scheme_of(args())
    keys = list(scheme)
    EpisodeBatch(scheme, groups, 2, 3, preprocess=preprocess)
    ReplayBuffer(scheme, groups, 2, 3, preprocess, standardise_rewards=True, sequence_length=2)
    assert list(scheme) == keys and "standardised" not in scheme["reward"]


def test_derived_fields_follow_their_source() -> None:
    batch = empty()
    batch["actions"][1, 2, 0] = 3
    assert batch["actions_onehot"][1, 2, 0].tolist() == [0, 0, 0, 1, 0]
    part = batch[1, 2]
    assert part["actions_onehot"].shape == (1, 1, 3, 5) and part["actions_onehot"][0, 0, 0, 3] == 1
    assert batch["actions_onehot", "reward"]["actions_onehot"][1, 2, 0, 3] == 1


def test_unknown_field_is_named() -> None:
    with pytest.raises(KeyError, match="rewards.*reward"):
        empty()["rewards"]
    with pytest.raises(KeyError, match="rewards"):
        empty().update({"rewards": 1})
    with pytest.raises(KeyError, match="no field 'filled'; it has obs, reward"):
        empty()["obs", "reward"]["filled"]


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        (1, (1, 7)),
        (-1, (1, 7)),
        (slice(1, 3), (2, 7)),
        (slice(None, None, 2), (2, 7)),
        ([0, 2, 2], (3, 7)),
        (np.array([3, 0]), (2, 7)),
        (th.tensor([3]), (1, 7)),
        ((slice(None), slice(0, 5)), (4, 5)),
        ((slice(None), 3), (4, 1)),
        (([1, 3], slice(2, 4)), (2, 2)),
        ((2, -1), (1, 1)),
    ],
)
def test_cutting(index: Any, shape: tuple[int, int]) -> None:
    batch = random_batch(args(), [6, 4, 2, 1], [True] * 4)
    part = batch[index]
    assert (part.batch_size, part.max_seq_length) == shape
    rows = np.arange(4 * 7).reshape(4, 7)
    both = index if isinstance(index, tuple) else (index, slice(None))
    bs, ts = (slice(i, i + 1 or None) if isinstance(i, int) else i for i in both)
    wanted = rows[np.asarray(bs) if isinstance(bs, (list, th.Tensor)) else bs][:, ts].ravel()
    for key in batch.scheme:
        assert part[key].shape[:2] == shape
        assert th.equal(part[key].flatten(0, 1), batch[key].flatten(0, 1)[wanted]), key


def test_wrong_indices() -> None:
    batch = empty()
    with pytest.raises(IndexError, match="steps"):
        batch[0, [1, 2]]
    with pytest.raises(IndexError, match="out of range"):
        batch[4]
    with pytest.raises(IndexError, match="not by a mask"):
        batch[th.tensor([True, False, True, False])]


def test_slices_share_memory() -> None:
    batch = empty()
    batch[1:3, 2:4]["obs"][:] = 7
    assert batch["obs"].sum() == 7 * 2 * 2 * 3 * 6 and batch["obs"][1, 2, 0, 0] == 7


def test_update_writes_and_marks() -> None:
    batch = empty()
    batch.update({"obs": np.ones((4, 3, 6)), "state": [[2.0] * 8] * 4}, ts=3)
    assert batch["obs"][:, 3].eq(1).all() and batch["state"][:, 3].eq(2).all()
    assert batch["obs"].sum() == 4 * 3 * 6
    assert batch["filled"].squeeze(-1).tolist() == [[0, 0, 0, 1, 0, 0, 0]] * 4
    batch.update({"actions": th.tensor([[1, 2, 3], [4, 0, 1]])}, bs=[0, 2], ts=slice(0, 1), mark_filled=False)
    assert batch["actions"][2, 0].flatten().tolist() == [4, 0, 1] and batch["filled"][:, 0].sum() == 0
    batch.update({"reward": [[(0.5,)]]}, bs=th.tensor([1]), ts=6)
    assert batch["reward"][1, 6] == 0.5 and batch.max_t_filled() == 2


def test_update_refuses_a_shape_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="obs"):
        empty().update({"obs": np.ones((4, 6, 3))}, ts=0)


def test_numpy_views_share_memory() -> None:
    batch = empty()
    batch.numpy("obs")[2, 1] = 5
    assert batch["obs"][2, 1].eq(5).all() and batch.numpy("obs") is batch.numpy("obs")


@pytest.mark.usefixtures("gpu")
def test_to_moves_in_place() -> None:
    batch = random_batch(args(), [3, 2], [True, True])
    assert batch.to("cuda") is batch and batch["obs"].is_cuda and batch["actions_onehot"].is_cuda
    assert batch[0].device == "cuda"


# --- ReplayBuffer ---
def episodes_of(a: Any, seed: int, count: int = 4) -> EpisodeBatch:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 7, count).tolist()
    return random_batch(a, lengths, [bool(x) for x in rng.integers(0, 2, count)], seed=seed, n_steps=7)


def test_sampled_episodes_are_those_inserted() -> None:
    a = args()
    batch = random_batch(a, [4, 2, 1, 3], [True, False, True, False], n_steps=7)
    buffer = make_buffer()
    buffer.insert_episode_batch(batch)
    sample = buffer.sample(4)
    assert sample.max_seq_length == 5 == sample.max_t_filled()
    order = [next(b for b in range(4) if th.equal(batch["obs"][b, 0], sample["obs"][i, 0])) for i in range(4)]
    assert sorted(order) == [0, 1, 2, 3]
    for key in sample.scheme:
        assert sample[key].dtype == batch[key].dtype
        filled = sample["filled"].bool().view(4, 5, *[1] * (batch[key].dim() - 2))
        if key != "actions_onehot":
            assert th.equal(sample[key], batch[key][order, :5] * filled), key


def test_inserted_episodes_are_copies() -> None:
    batch = random_batch(args(), [4, 2], [True, True], n_steps=7)
    buffer = make_buffer()
    buffer.insert_episode_batch(batch)
    before = buffer.sample(2)["obs"].clone().sort(0)[0]
    batch["obs"][:] = 9
    assert th.equal(before, buffer.sample(2)["obs"].sort(0)[0])


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 7), counts=st.lists(st.integers(1, 9), max_size=8))
def test_the_buffer_holds_what_a_list_would(size: int, counts: list[int]) -> None:
    a = args()
    scheme, groups, preprocess = scheme_of(a)
    buffer, model, number = make_buffer(size), [], 0
    for count in counts:
        batch = EpisodeBatch(scheme, groups, count, 7, preprocess=preprocess)
        for b in range(count):
            number += 1
            batch.update({"state": np.full((1 + number % 6 + 1, 8), number)}, b, slice(0, 1 + number % 6 + 1))
            model.append(number)
        buffer.insert_episode_batch(batch)
        model = model[-size:]
        assert buffer.episodes_in_buffer == len(model)
        assert buffer.can_sample(len(model)) and not buffer.can_sample(len(model) + 1)
        sample = buffer.sample(len(model))
        assert sorted(sample["state"][:, 0, 0].tolist()) == sorted(model)
        assert sample["filled"].sum((1, 2)).tolist() == [2 + n % 6 for n in sample["state"][:, 0, 0].int().tolist()]
        assert buffer.nbytes == sum(t.nbytes for piece in buffer.pieces(0, 1) for t in piece["fields"].values())


def test_episodes_without_a_transition_are_passed_over() -> None:
    batch = random_batch(args(), [4, 2], [True, True])
    batch["filled"][0] = 0
    batch["filled"][1, 1:] = 0
    buffer = make_buffer()
    buffer.insert_episode_batch(batch)
    assert buffer.episodes_in_buffer == 0


def test_sampling_is_uniform_without_repetition_and_seeded() -> None:
    a = args()
    buffers = [make_buffer(12, seed=seed) for seed in (3, 3, 4)]
    for buffer in buffers:
        for seed in range(3):
            buffer.insert_episode_batch(episodes_of(a, seed))
    draws = []
    for k in range(600):
        np.random.seed(k)  # numpy's global stream plays no part
        firsts = [buffer.sample(4)["obs"][:, 0, 0, 0].tolist() for buffer in buffers]
        assert firsts[0] == firsts[1] and len(set(firsts[0])) == 4
        draws.append(firsts)
    assert any(first[0] != first[2] for first in draws)
    counts = np.unique([x for first in draws for x in first[0]], return_counts=True)[1]
    assert len(counts) == 12 and abs(counts - 200).max() < 60  # 5 standard deviations of a binomial


def test_too_many_asked_for() -> None:
    with pytest.raises(ValueError, match="3 episodes.*holds 0"):
        make_buffer().sample(3)


TYPES = {5: th.uint8, 256: th.uint8, 257: th.int16, 2**15: th.int16, 2**15 + 1: th.int32, 70_000: th.int32}


def test_storage_is_small_and_wide_enough() -> None:
    for n_actions, dtype in TYPES.items():
        buffer = make_buffer(changes={"n_actions": n_actions})
        stored = {key: kind for key, (_, kind) in buffer._layout.fields.items()}
        assert stored["actions"] == dtype and stored["avail_actions"] == th.uint8
    a = args(n_actions=300)
    scheme, groups, preprocess = scheme_of(a)
    batch = random_batch(a, [3], [True])
    batch["actions"][0, :3] = 299
    buffer = ReplayBuffer(scheme, groups, 2, 7, preprocess)
    buffer.insert_episode_batch(batch)
    assert buffer.sample(1)["actions"].max() == 299


def test_size_in_bytes() -> None:
    buffer = make_buffer(size=3)
    row = 8 * 4 + 3 * 6 * 4 + 3 * 1 + 3 * 5 * 1 + 4 + 1  # state, obs, actions, masks, reward, terminated
    assert buffer.capacity_bytes == 3 * 7 * row and buffer.nbytes == 0
    for seed in range(3):
        batch = random_batch(args(), [6, 2, 4], [True] * 3, seed=seed)
        buffer.insert_episode_batch(batch)
        assert buffer.nbytes == (7 + 3 + 5) * row


def test_memory_goal() -> None:
    """5000 episodes of 60 steps at SMACv2 10_vs_11 size, limit 200, in 3 GB: by the size of 20 of them."""
    a = args(n_agents=10, obs_shape=192, state_shape=320, n_actions=16, episode_limit=200)
    scheme, groups, preprocess = scheme_of(a)
    buffer = ReplayBuffer(scheme, groups, 5000, 201, preprocess)
    batch = EpisodeBatch(scheme, groups, 20, 201, preprocess=preprocess)
    batch["filled"][:, :61] = 1
    buffer.insert_episode_batch(batch)
    overhead = 20 * 6 * 512  # a tensor's own, generously
    assert 250 * (buffer.nbytes + overhead) < 3e9
    storages = {t.data_ptr(): t for t in (buffer._store.rows(k, 0, 1).untyped_storage() for k in range(20))}
    assert sum(t.nbytes() for t in storages.values()) == buffer.nbytes  # nothing held besides


# --- reward standardisation ---
def test_rewards_are_standardised_by_all_real_rewards_each_once() -> None:
    a = args()
    buffer = make_buffer(4, standardise_rewards=True)
    assert buffer.scheme["reward"]["standardised"] is True
    real = []
    for seed in range(3):  # the buffer forgets episodes, the statistics do not
        batch = episodes_of(a, seed)
        buffer.insert_episode_batch(batch)
        for b in range(4):
            real += batch["reward"][b, : int(batch["filled"][b].sum()) - 1, 0].tolist()
        for _ in range(5):
            sample = buffer.sample(3)  # drawing counts nothing
    assert buffer.reward_stats.count == len(real)
    mean, std = np.mean(real), np.std(real)
    assert sample.scheme["reward"]["standardised"] is True
    for i in range(3):
        b = next(b for b in range(4) if th.equal(batch["obs"][b, 0], sample["obs"][i, 0]))
        n = int(sample["filled"][i].sum()) - 1
        np.testing.assert_allclose(sample["reward"][i, :n, 0], (batch["reward"][b, :n, 0] - mean) / std, rtol=1e-4)
        assert not sample["reward"][i, n:].any()


def test_rewards_that_are_all_equal_become_zero() -> None:
    for value in (0.0, 0.1):
        batch = random_batch(args(), [4, 2, 5], [True] * 3)
        batch["reward"][:] = value
        buffer = make_buffer(standardise_rewards=True)
        buffer.insert_episode_batch(batch)
        assert not buffer.sample(3)["reward"].any()


def test_individual_rewards_are_standardised_one_by_one() -> None:
    a = args(common_reward=False)
    batch = random_batch(a, [6, 6], [True, True])
    batch["reward"].mul_(th.tensor([1.0, 10.0, 100.0]))
    buffer = make_buffer(changes={"common_reward": False}, standardise_rewards=True)
    buffer.insert_episode_batch(batch)
    rewards = buffer.sample(2)["reward"][:, :6].flatten(0, 1)
    np.testing.assert_allclose(rewards.mean(0), [0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rewards.std(0, correction=0), [1, 1, 1], rtol=1e-5)


def test_without_standardisation_rewards_are_raw_and_unflagged() -> None:
    buffer = make_buffer()
    batch = random_batch(args(), [6], [True])
    buffer.insert_episode_batch(batch)
    assert "standardised" not in buffer.scheme["reward"]
    assert th.equal(buffer.sample(1)["reward"], batch["reward"])


# --- stretches ---
def stretches(length: int, size: int, burn_in: int, draws: int) -> list[EpisodeBatch]:
    a = args(episode_limit=20)
    scheme, groups, preprocess = scheme_of(a)
    batch = random_batch(a, [length], [True])
    batch["state"][0, :, 0] = th.arange(length + 1)
    buffer = ReplayBuffer(scheme, groups, 2, 21, preprocess, seed=1, sequence_length=size, burn_in=burn_in)
    buffer.insert_episode_batch(batch)
    return [buffer.sample(1) for _ in range(draws)]


def test_stretches_are_contiguous_with_their_bootstrap_row_and_burn_in() -> None:
    for sample in stretches(length=12, size=4, burn_in=3, draws=200):
        rows = sample["state"][0, :, 0]
        assert th.equal(rows, rows[0] + th.arange(len(rows))) and sample["filled"].all()
        burn_in = sample["burn_in"][0, :, 0]
        n_burn, counted = int(burn_in.sum()), len(rows) - 1 - int(burn_in.sum())
        assert burn_in[:n_burn].all() and burn_in.dtype == th.uint8
        first = int(rows[0]) + n_burn  # the first transition in the loss
        assert n_burn == min(3, first)
        assert counted == min(4, 12 - first) if first > 0 else 1 <= counted <= 4
        assert bool(sample["terminated"][0, :-1].any()) == (rows[-1] == 12)


def test_each_transition_is_equally_likely_in_a_stretch() -> None:
    counts = np.zeros(12)
    for sample in stretches(length=12, size=4, burn_in=2, draws=6000):
        inside = sample["burn_in"][0, :-1, 0] == 0
        counts[sample["state"][0, :-1, 0][inside].int().numpy()] += 1
    share = 6000 * 4 / 15  # 4 of the 15 windows
    assert abs(counts - share).max() < 5 * np.sqrt(share)


def test_short_episodes_are_whole() -> None:
    for sample in stretches(length=4, size=4, burn_in=3, draws=5):
        assert sample["state"][0, :, 0].tolist() == [0, 1, 2, 3, 4] and not sample["burn_in"].any()


def test_whole_episodes_have_no_burn_in_field() -> None:
    assert "burn_in" not in make_buffer().scheme


# --- against a model of plain lists ---
@st.composite
def writes(draw: Any) -> tuple[Any, Any, str, int]:
    """Where (episodes, steps), which field, and a value, of a batch of 4 episodes and 7 steps."""
    some = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True)
    rows = draw(
        st.one_of(st.integers(-4, 3), some, st.just(slice(None)), st.builds(slice, st.integers(0, 3), st.just(4)))
    )
    first = draw(st.integers(0, 6))
    steps = draw(
        st.one_of(st.integers(-7, 6), st.just(slice(None)), st.just(slice(first, 7)), st.just(slice(first, None, 2)))
    )
    return rows, steps, draw(st.sampled_from(["obs", "state", "reward", "actions"])), draw(st.integers(1, 4))


def chosen(index: Any, size: int) -> list[int]:
    """The numbers that an index stands for."""
    if isinstance(index, int):
        return [index % size]
    return list(range(size))[index] if isinstance(index, slice) else list(index)


@settings(max_examples=60, deadline=None)
@given(todo=st.lists(writes(), max_size=6), cut=writes())
def test_a_batch_holds_what_lists_would(todo: list[tuple[Any, Any, str, int]], cut: tuple[Any, Any, str, int]) -> None:
    keys = ("obs", "state", "reward", "actions", "filled")
    batch, model = empty(), {key: [[0.0] * 7 for _ in range(4)] for key in keys}
    for rows, steps, key, value in todo:
        shape = (len(chosen(rows, 4)), len(chosen(steps, 7)), *batch[key].shape[2:])
        batch.update({key: np.full(shape, value)}, rows, steps)
        for b in chosen(rows, 4):
            for t in chosen(steps, 7):
                model[key][b][t], model["filled"][b][t] = value, 1
    rows, steps, *_ = cut
    for part, bs, ts in ((batch, range(4), range(7)), (batch[rows, steps], chosen(rows, 4), chosen(steps, 7))):
        assert (part.batch_size, part.max_seq_length) == (len(bs), len(ts))
        for key in keys:
            wanted = th.tensor([[model[key][b][t] for t in ts] for b in bs])
            seen = part[key].float().flatten(2)
            assert th.equal(seen, wanted.unsqueeze(2).expand_as(seen)), key
    assert batch.max_t_filled() == max(sum(map(int, row)) for row in model["filled"])


def contents(buffer: ReplayBuffer) -> list[tuple[int, dict[str, Any]]]:
    """(number, what is stored) of each episode, the oldest first."""
    held = []
    for piece in buffer.pieces(0, 1):  # one episode each
        assert len(piece["lengths"]) == 1
        held.append((piece["first"], {key: value.tolist() for key, value in piece["fields"].items()}))
    return held


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 6),
    batches=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=4), max_size=6),
    at=st.integers(0, 6),
    piece=st.integers(1, 4000),
)
def test_a_buffer_keeps_its_last_episodes_and_comes_back_whole(
    size: int, batches: list[list[int]], at: int, piece: int
) -> None:
    """Episodes of 0 to 7 filled steps; after `at` batches, the buffer is saved and restored in pieces."""
    a = args()
    options = {"standardise_rewards": True}
    buffer, model, number = make_buffer(size, **options), [], 0
    for k, lengths in enumerate(batches):
        if k == at:
            restored = make_buffer(size, seed=9, **options)
            restored.load_state_dict(buffer.state_dict())
            assert restored.complete == (buffer.episodes_in_buffer == 0)
            for one in buffer.pieces(0, piece):
                restored.load_piece(one)
            assert restored.complete and contents(restored) == contents(buffer) and restored.nbytes == buffer.nbytes
            if model:
                first, second = buffer.sample(len(model)), restored.sample(len(model))
                assert all(th.equal(first[key], second[key]) for key in first.scheme), "another draw"
            buffer = restored
        full = random_batch(a, [6] * len(lengths), [True] * len(lengths), seed=k)
        for b, length in enumerate(lengths):
            full["filled"][b, length:] = 0
            if length >= 2:
                rows = {key: full[key][b, :length].tolist() for key in buffer._layout.fields}
                model = [*model, (number, rows)][-size:]
                number += 1
        buffer.insert_episode_batch(full)
        assert buffer.inserted == number and buffer.episodes_in_buffer == len(model)
        assert contents(buffer) == model


def test_pieces_that_do_not_fit_are_refused() -> None:
    buffer = make_buffer(3)
    buffer.insert_episode_batch(random_batch(args(), [4, 2], [True, True], n_steps=7))
    (piece,) = buffer.pieces(0, 10**9)
    empty_one = make_buffer(3)
    empty_one.load_state_dict(buffer.state_dict())
    fields = piece["fields"]
    for wrong, said in (
        ({"fields": {**fields, "more": fields["obs"]}}, "the fields"),
        ({"fields": {**fields, "obs": fields["obs"][:-1]}}, "obs: "),
        ({"fields": {**fields, "actions": fields["actions"].long()}}, "actions: .*expected.*uint8"),
        ({"lengths": [5, 30]}, "an episode has 2 to 7 steps"),
    ):
        with pytest.raises(ValueError, match=said):
            empty_one.load_piece(piece | wrong)
    assert not empty_one.complete
    empty_one.load_piece(piece | {"first": 10})  # episodes that it does not hold
    assert not empty_one.complete
