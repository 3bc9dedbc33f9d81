"""The matrix games pay what their tables say."""

from __future__ import annotations

import itertools

import pytest
from pydantic import ValidationError

from envs.matrix_game import MatrixArgs, MatrixGame


def payoffs(key: str, **changes: float) -> dict[tuple[int, ...], float]:
    env, found = MatrixGame(key, **changes), {}
    n = env.get_total_actions()
    for actions in itertools.product(range(n), repeat=2):
        env.reset()
        _, found[actions], terminated, truncated, _ = env.step(actions)
        assert terminated and not truncated
    return found


def test_two_step() -> None:
    env, found = MatrixGame("two_step"), {}
    for a, b, c, d in itertools.product(range(2), repeat=4):
        env.reset()
        assert env.get_state().tolist() == [1, 0, 0]
        _, reward, terminated, *_ = env.step([a, b])
        assert (reward, terminated) == (0.0, False)
        assert env.get_state().tolist() == [0, a == 0, a == 1]
        _, found[a, b, c, d], terminated, *_ = env.step([c, d])
        assert terminated
    assert {v for (a, *_), v in found.items() if a == 0} == {7.0}
    second = {(c, d): v for (a, _, c, d), v in found.items() if a == 1}
    assert second == {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 1.0, (1, 1): 8.0}


def test_one_step_games() -> None:
    climbing, penalty = payoffs("climbing"), payoffs("penalty", k=-7.0)
    assert max(climbing, key=climbing.get) == (0, 0) and climbing[0, 0] == 11 and climbing[0, 1] == -30
    assert penalty[0, 2] == penalty[2, 0] == 10 and penalty[1, 1] == 2 and penalty[0, 0] == penalty[2, 2] == -7
    with pytest.raises(ValidationError):
        MatrixArgs(key="penalty", k=1.0)


@pytest.mark.parametrize("k", [0, -25, -50, -75, -100])
def test_penalty_s_table(k: int) -> None:
    rows = [[k, 0, 10], [0, 2, 0], [10, 0, k]]
    assert payoffs("penalty", k=k) == {(i, j): rows[i][j] for i in range(3) for j in range(3)}
    assert MatrixArgs(key="penalty", k=k).k == k
