"""What benchmarks/imagination.py measures, on a game whose every outcome is known, and the runs that it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def imagination(benchmarks):
    import imagination

    return imagination


def test_after_is_the_same_episodes_later_step(imagination) -> None:
    episode = th.tensor([0, 0, 0, 1, 1])
    x = th.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert imagination.after(x, episode, 1).tolist() == [2.0, 3.0, 0.0, 5.0, 0.0]
    assert imagination.after(x, episode, 2).tolist() == [3.0, 0.0, 0.0, 0.0, 0.0]
    assert imagination.after(x, th.zeros(5), 4).tolist() == [5.0, 0.0, 0.0, 0.0, 0.0]  # no row wraps round
    assert imagination.returned(x, episode, 0.5).tolist() == [2.75, 3.5, 3.0, 6.5, 5.0]


def test_share_of_the_variance_explained(imagination) -> None:
    th.manual_seed(3)
    x, noise = th.randn(6000, 3), th.randn(6000)
    parts = th.arange(4000), th.arange(4000, 5000), th.arange(5000, 6000)
    plain = x[:, 0] * x[:, 1].sign()
    assert imagination.explained(x, plain, parts, seed=0) > 0.9
    assert imagination.explained(x, plain + noise, parts, seed=0) == pytest.approx(0.5, abs=0.06)
    assert abs(imagination.explained(x, noise, parts, seed=0)) < 0.03


def test_copies_of_the_game_play_on_while_it_stays_where_it_is(imagination) -> None:
    from envs.matrix_game import MatrixGame

    both_second = np.array([[0.0, 1.0], [0.0, 1.0]])  # greedy agents take the second action, which leads to 8
    player = SimpleNamespace(player=lambda: lambda x, h: (both_second, h), hidden_dim=1)
    mac = SimpleNamespace(agent=player, inputs=lambda obs, last: obs)
    env = imagination.Foreseeing(MatrixGame(key="two_step"), mac)
    env.new_episode(1)
    assert env.step([0, 0])[1] == 0 and env.step([0, 1])[1] == 7  # the game itself goes its own way
    first, second = np.eye(3, dtype=np.float32)[:2]
    states, rewards = env.seen[np.stack([first, second]).tobytes()]
    assert rewards[0, :3].tolist() == [0, 8, 0] and rewards[1, :3].tolist() == [7, 0, 0]
    assert states[0, 0].tolist() == [0, 0, 1] and not states[0, 2:].any()


def test_a_run_of_mmsa_is_measured(tmp_path: Path) -> None:
    words = ["env_args.key=two_step", "seed=1", "t_max=300", "keep_finished=True", "batch_size=8", "hidden_dim=8"]
    train = ["src/main.py", "--config=mmsa", "--env-config=matrix", "with", *words, f"local_results_path={tmp_path}"]
    subprocess.run([sys.executable, *train], cwd=ROOT, check=True, capture_output=True)
    (run,) = (tmp_path / "sacred" / "mmsa").glob("*/1")
    measure = ["benchmarks/imagination.py", str(run), "--episodes", "300", "--seeds", "1"]
    done = subprocess.run([sys.executable, *measure], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    shares = dict(re.findall(r"^  (\S.*?) +(-?\d\.\d+)$", done.stdout, re.MULTILINE))
    assert float(shares["+ 10 real rewards"]) > 0.98  # they are the return itself
    assert float(shares["+ 3 imagined states"]) < 0.98  # what is unknown yet, at most in part
    assert [line.split()[0] for line in done.stdout.split("\n")[-3:-1]] == ["1", "2"]  # episodes have two steps


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scale_inputs": True}, "scale_inputs=True"),
        ({"learner": "q_learner", "name": "qmix"}, "a run of qmix, not of MMSA"),
        ({}, "keep_finished=True"),
    ],
)
def test_runs_that_cannot_be_measured(imagination, tmp_path: Path, changed: dict, message: str) -> None:
    from utils.config import compose

    (tmp_path / "config.json").write_text(json.dumps(compose("mmsa", "matrix", []) | changed))
    with pytest.raises(SystemExit, match=message):
        imagination.played(tmp_path, 10)
