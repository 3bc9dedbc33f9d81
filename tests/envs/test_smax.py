"""SMAX: masks, ends, wins and time limits of battles. Each battle and number of environments compiles for seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from envs.smax import MAPS, SmaxArgs, SmaxVectorEnv, _compile, _import_jax, scenario

E = 8


@pytest.fixture(scope="module")
def battles() -> dict[str, Any]:
    """Four times E battles of 3m, each followed to its end: a row of arrays for each step."""
    vector = SmaxVectorEnv(scenario("3m", 16), list(range(E)))
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for _ in range(4):
        vector.reset()
        key, carried = vector._carry  # in every second battle the enemies are nearly dead, so that some are won
        health = np.array(carried.state.unit_health)
        health[::2, 3:] = 1.0
        vector._carry = (
            key,
            carried.replace(state=carried.state.replace(unit_health=_import_jax()[0].numpy.asarray(health))),
        )
        active = np.ones(E, bool)
        steps = np.zeros(E, int)
        while active.any():
            wish = np.r_[5.0, np.ones(4), 300, 200, 100]  # fire together, else mostly wait for the enemy
            before = vector.obs.copy()
            was = active.copy()
            actions = (vector.avail_actions * wish * rng.uniform(0.9, 1, vector.avail_actions.shape)).argmax(-1)
            ended = vector.step(actions, active)
            steps += active
            active[[i for i, _ in ended]] = False
            units = vector._carry[1].state
            rows.append(
                {
                    "active": was,
                    "before": before,
                    "obs": vector.obs.copy(),
                    "state": vector.state.copy(),
                    "avail": vector.avail_actions.copy(),
                    "reward": vector.reward.copy(),
                    "terminated": vector.terminated.copy(),
                    "truncated": vector.truncated.copy(),
                    "alive": np.asarray(units.unit_alive),
                    "ended": dict(ended),
                    "steps": steps.copy(),
                }
            )
    return {"rows": rows, "vector": vector}


def test_scenarios_are_jaxmarl_s() -> None:
    _import_jax()
    from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

    assert set(MAPS) == set(MAP_NAME_TO_SCENARIO)
    with pytest.raises(ValidationError, match="2s3z"):
        SmaxArgs(map_name="2s3zz")


def test_wins_defeats_and_time_limits(battles: dict[str, Any]) -> None:
    outcomes = []
    for row in battles["rows"]:
        ends = row["terminated"] | row["truncated"]
        assert set(row["ended"]) == set(np.flatnonzero(ends & row["active"]))
        for i, info in row["ended"].items():
            ally, enemy = row["alive"][i, :3].any(), row["alive"][i, 3:].any()
            assert info == {"battle_won": float(ally and not enemy)}
            assert row["terminated"][i] == (not (ally and enemy))
            assert row["truncated"][i] == (ally and enemy)
            if row["truncated"][i]:
                assert row["steps"][i] == 16, "the limit is not exact"
            else:
                assert (row["reward"][i] >= 1.0) == bool(info["battle_won"]), "jaxmarl's reward says otherwise"
            outcomes.append((info["battle_won"], bool(row["truncated"][i])))
    assert {(1.0, False), (0.0, False), (0.0, True)} <= set(outcomes), "a kind of end was not seen: play more"


def test_last_observation_is_of_the_ended_episode(battles: dict[str, Any]) -> None:
    seen = 0
    for row in battles["rows"]:
        for i in row["ended"]:
            if row["terminated"][i]:
                dead = ~row["alive"][i]
                features = row["state"][i][: 6 * 10].reshape(6, 10)  # 4 numbers and 6 unit types a unit
                assert (features[dead] == 0).all() and dead.any(), "a fresh battle would have all units alive"
                assert (row["obs"][i][dead[:3]] == 0).all()
                seen += 1
    assert seen


def test_the_state_is_scaled(battles: dict[str, Any]) -> None:
    """0..1 throughout, and of our own units the same numbers that their observations end with."""
    for row in battles["rows"]:
        state = row["state"]
        assert state.min() >= 0 and state.max() <= 1
        own = state[:, : 3 * 10].reshape(E, 3, 10)
        np.testing.assert_allclose(own, row["obs"][..., -10:], rtol=1e-6, atol=1e-6)
    assert max(row["state"][:, 3].max() for row in battles["rows"]) > 0.5, "no cooldown was seen"


def test_dead_units_have_the_no_op_only(battles: dict[str, Any]) -> None:
    dead_rows = 0
    for row in battles["rows"]:
        alive = row["alive"][:, :3]
        masks = row["avail"][row["active"]]
        alive = alive[row["active"]]
        assert masks.any(-1).all()
        assert (masks[~alive][:, 0] == 1).all() and (masks[~alive][:, 1:] == 0).all()
        assert (masks[alive][:, :5] == 1).all()
        dead_rows += (~alive).sum()
    assert dead_rows


def test_rows_of_ended_battles_stay(battles: dict[str, Any]) -> None:
    rows = battles["rows"]
    checked = 0
    for last, now in zip(rows[:-1], rows[1:], strict=True):
        for i in np.flatnonzero(~now["active"]):
            for name in ("obs", "state", "avail", "reward", "terminated", "truncated"):
                assert np.array_equal(last[name][i], now[name][i])
            checked += 1
    assert checked


def test_action_0_stands_still_and_1_to_4_move_apart() -> None:
    vector = SmaxVectorEnv(scenario("3m", 16), [5] * E)
    vector.reset()
    start = np.asarray(vector._carry[1].state.unit_positions)[:, 0]
    actions = np.zeros((E, 3), np.int64)
    actions[:5, 0] = range(5)
    vector.step(actions, np.ones(E, bool))
    moved = np.asarray(vector._carry[1].state.unit_positions)[:5, 0] - start[:5]
    assert np.linalg.norm(moved[0]) < 0.2  # but for a push by a neighbour
    assert (np.linalg.norm(moved[1:], axis=1) > 1.0).all()
    assert len({tuple(np.sign(np.round(m, 1))) for m in moved[1:]}) == 4
    with pytest.raises(RuntimeError, match="action"):
        vector.step(np.full((E, 3), vector.n_actions), np.ones(E, bool))


def test_step_is_compiled_once(battles: dict[str, Any]) -> None:
    assert _compile(scenario("3m", 16)).step._cache_size() == 1


def test_each_step_draws_anew() -> None:
    """The same moment of one battle, counted as other steps: how long weapons cool down is drawn, and differs."""
    vector = SmaxVectorEnv(scenario("3m", 16), [5] * E)
    vector.reset()
    distances = []
    for _ in range(8):
        actions = (vector.avail_actions * np.r_[5.0, np.ones(4), 300, 200, 100]).argmax(-1).astype(np.int32)
        key, carried = vector._carry
        counted = carried.state.step + np.repeat(np.arange(E // 2), 2).astype(np.int32)
        moment = carried.replace(state=carried.state.replace(step=counted))
        _, obs, *_ = vector._functions.step((key, moment), actions)
        distances.append(np.abs(np.asarray(obs) - np.asarray(obs)[0]).max(axis=(1, 2)))
        vector.step(actions, np.ones(E, bool))
    assert np.max(distances, axis=0)[:2].tolist() == [0, 0]
    assert (np.max(distances, axis=0)[2:] > 0).all()


def test_a_battle_that_nobody_survives_is_not_won() -> None:
    vector = SmaxVectorEnv(scenario("3m", 16), [5] * E)
    vector.reset()
    key, carried = vector._carry
    places = np.array([[x, y] for x in (15, 17) for y in (14, 15, 16)], np.float32)  # face to face
    changes = {"unit_positions": np.tile(places, (E, 1, 1)), "unit_health": np.ones((E, 6), np.float32)}
    state = carried.state.replace(**{name: _import_jax()[0].numpy.asarray(x) for name, x in changes.items()})
    vector._carry = key, carried.replace(state=state)
    ended = vector.step(np.tile([5, 6, 7], (E, 1)), np.ones(E, bool))
    assert not np.asarray(vector._carry[1].state.unit_alive).any() and vector.terminated.all()
    assert ended == [(i, {"battle_won": 0.0}) for i in range(E)] and (vector.reward < 1).all()
