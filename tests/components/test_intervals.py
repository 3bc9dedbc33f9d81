from __future__ import annotations

from pathlib import Path

import pytest

from components.intervals import Every, UpdateSchedule
from components.saved_networks import find_checkpoint


def total_updates(rollouts: list[tuple[int, int]], per_update: int | str, ready_at: int) -> int:
    """Updates after rollouts of (steps, episodes); the buffer can be sampled from `ready_at` episodes on."""
    schedule, episodes, updates = UpdateSchedule(per_update, 32), 0, 0
    for steps, count in rollouts:
        episodes += count
        updates += schedule.due(steps, count, episodes >= ready_at)
    return updates


def test_the_ratio_is_the_same_for_one_and_eight_environments() -> None:
    lengths = [1 + (7 * i) % 50 for i in range(800)]
    one = [(length, 1) for length in lengths]
    eight = [(sum(lengths[i : i + 8]), 8) for i in range(0, 800, 8)]
    after = sum(lengths[32:])  # both can sample after 32 episodes
    for per_update in (1, 3, 50, 1000):
        assert total_updates(one, per_update, 32) == total_updates(eight, per_update, 32) == after // per_update


def test_updates_are_paid_right_after_the_rollout() -> None:
    schedule = UpdateSchedule(10, 32)
    assert [schedule.due(steps, 1, True) for steps in (500, 9, 1, 25, 4, 1, 100)] == [0, 0, 1, 2, 0, 1, 10]


def test_one_update_for_each_episode() -> None:
    assert total_updates([(50, 1)] * 100, "episode", 32) == 69  # as upstream: the 32nd episode is the first to pay
    assert total_updates([(400, 8)] * 10, "episode", 1) == 80


def test_new_batches_are_trained_on_once() -> None:
    one, five = UpdateSchedule("batch", 10), UpdateSchedule("batch", 10)
    assert [one.due(50, 1, True) for _ in range(25)] == ([0] * 9 + [1]) * 2 + [0] * 5
    assert [five.due(250, 5, ready) for ready in (False, True, True, True)] == [0, 1, 0, 1]
    assert str(one) == "one update for every 10 episodes, which are new"


def test_the_ratio_in_words() -> None:
    assert str(UpdateSchedule(50, 32)) == "one update for every 50 environment steps"
    assert str(UpdateSchedule("episode", 32)) == "one update for each episode"


def test_every() -> None:
    due, at_once = Every(100), Every(100, at_once=True)
    times = (3, 50, 99, 100, 130, 199, 205, 400, 420, 500)
    assert [t for t in times if due(t)] == [100, 205, 400, 500]
    assert [t for t in times if at_once(t)] == [3, 100, 205, 400, 500]


@pytest.mark.parametrize(("now", "times"), [(100, [500, 601]), (40, [450, 490, 520, 601]), (1000, [])])
def test_an_interval_may_be_another_one_when_a_run_goes_on(now: int, times: list[int]) -> None:
    before, after = Every(100), Every(now)
    assert before(410)
    after.load_state_dict(before.state_dict())
    assert [t for t in (410, 430, 450, 490, 500, 520, 601) if after(t)] == times


def test_the_nearest_checkpoint(tmp_path: Path) -> None:
    for name in ("100", "2000", "30000", "notes", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "99999").write_text("a file")
    steps = {load_step: find_checkpoint(str(tmp_path), load_step).name for load_step in (0, 1, 1500, 2000, 10**9)}
    assert steps == {0: "30000", 1: "100", 1500: "2000", 2000: "2000", 10**9: "30000"}


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        find_checkpoint(str(tmp_path / "nowhere"), 0)
    with pytest.raises(FileNotFoundError, match="no subfolder"):
        find_checkpoint(str(tmp_path), 0)
