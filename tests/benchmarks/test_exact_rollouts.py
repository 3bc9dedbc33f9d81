"""The game's rules in benchmarks/exact_rollouts.py, beside lbforaging itself, and the learner that rolls them out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def exact(benchmarks):
    import exact_rollouts

    return exact_rollouts


@pytest.mark.parametrize("task", ["2s-8x8-2p-2f-coop", "2s-10x10-3p-3f", "10x10-3p-5f", "5x5-4p-1f"])
def test_rules_are_those_of_lbforaging(exact, task: str) -> None:
    env = exact.BoardEnv(key=f"Foraging-{task}-v3", seed=3)
    game, rules, rng = env._env.unwrapped, env.rules, np.random.default_rng(3)
    eaten = loaded_together = 0
    for _ in range(60):
        env.reset()
        board = rules.board(game)[None]
        while True:
            np.testing.assert_array_equal(rules.observe(board)[0], np.stack(env.get_obs()))
            # All load every other step, else in larger fields nobody ever eats
            actions = np.full(env.n_agents, 5) if rng.random() < 0.5 else rng.integers(0, 6, env.n_agents)
            rewards, on = rules.step(board, actions[None])
            _, reward, terminated, truncated, _ = env.step(actions.tolist())
            assert rewards[0] == pytest.approx(reward, abs=1e-6)
            assert bool(on[0]) != (terminated or truncated)
            eaten += reward > 0
            loaded_together += sum(player.reward > 0 for player in game.players) > 1
            if terminated or truncated:
                break
        ended = board.copy()
        assert rules.step(board, actions[None])[0] == 0
        np.testing.assert_array_equal(board, ended)  # a game that is over stays as it is
    assert eaten > 0 and (loaded_together > 0 or "coop" not in task)


def test_roll_outs_are_what_greedy_agents_come_to(exact) -> None:
    """A new run's learner, in a process of its own since the module changes registries."""
    code = """
import logging, sys
sys.path[:0] = ["src", "plugins", "benchmarks"]
import exact_rollouts, mmsa, run, torch as th
from utils.config import compose
from utils.logging import Logger
exact_rollouts.register()
mmsa.register()
words = ["env_args.key=Foraging-5x5-2p-1f-v3", "seed=1", "epsilon_start=0.3", "epsilon_finish=0.3"]
args = run.make_args(compose("mmsa", "gymma", [*words, "standardise_rewards=False"]))
logger = Logger(logging.getLogger("test"))
runner = run.make_runner(args, logger)
buffer, learner = run.build(args, runner, logger)
for _ in range(6):
    buffer.insert_episode_batch(runner.run())
batch = buffer.sample(6)
losses, stats, seen = learner.losses(batch)
obs, data, exact = seen.data.obs, seen.data, stats["states"]
width = obs.shape[2]
assert data.state.shape[1] == 2 * width and "kl" not in losses
assert th.equal(exact[0, ..., :width], obs)
greedy = (stats["preferred"] == data.actions).all(1)
steps = 0
for k in range(1, 4):
    one_episode = [not seen.rows.first[r + 1 : r + k + 1].any() for r in range(len(obs) - k)]
    rows = th.tensor([r for r, same in enumerate(one_episode) if same and greedy[r : r + k].all()])
    steps += len(rows)
    assert th.equal(exact[k, rows][..., :width], obs[rows + k]), k
    reward = data.reward[rows + k - 1]
    assert th.allclose(exact[k, rows][:, 0, width], exact_rollouts.REWARD_SCALE * reward)
    assert th.equal(exact[k, rows][:, 0, width + 1] == 0, (data.terminated[rows + k - 1] > 0))
assert steps > 50, steps
th.manual_seed(0)
learner.train(batch, 1000, 0)
assert learner.training_steps == 1
for key, changed in ("scale_inputs", vars(args)), ("action_masks", args.env_args):
    changed[key] = True
    try:
        run.build(args, runner, logger)
    except ValueError as error:
        assert f"{key}=False" in str(error)
    else:
        raise SystemExit(f"{key} would be passed over")
    changed[key] = False
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
