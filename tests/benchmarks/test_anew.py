"""benchmarks/anew.py: learners that begin anew, on what a run remembers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GAME = ["--env-config=matrix", "with", "env_args.key=climbing", "batch_size=8", "hidden_dim=8"]


@pytest.fixture(scope="module")
def remembered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that only ever explored: its first update would come after all that it played."""
    folder = tmp_path_factory.mktemp("runs")
    words = [*GAME, "env_steps_per_update=1000", "seed=1", "t_max=600", "keep_finished=True"]
    train = [sys.executable, "src/main.py", "--config=iql", *words, f"local_results_path={folder}"]
    subprocess.run(train, cwd=ROOT, check=True, capture_output=True)
    (run,) = (folder / "sacred/iql").glob("*/1")
    return run


def anew(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/anew.py", "--episodes", "5", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("algorithm", ["qmix", "mmsa"])
def test_it_learns_from_them_alone(remembered: Path, algorithm: str) -> None:
    done = anew(str(remembered), "--updates", "400", "--seeds", "1", f"--config={algorithm}", *GAME)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, *rows = done.stdout.splitlines()
    rows, own = rows[:4], rows[4:]
    said = r"step 60\d, 0 updates, 60\d episodes remembered with a mean return of -?\d+\.\d{3}; tested -?\d+\.\d{3}"
    assert re.fullmatch(rf"{re.escape(str(remembered))}: {said}", first)
    assert second == f"  {algorithm}, seed 1: updates, return"
    found = [row.split() for row in rows]
    assert [row[0] for row in found] == ["100", "200", "300", "400"]
    assert float(found[-1][1]) >= 5, "a game whose safe actions pay 5 and more"
    assert own[0] == "  the run's own learner: updates, return"
    assert [row.split()[0] for row in own[1:]] == ["100", "200", "300", "400"], "it had made none"
    assert float(own[-1].split()[1]) >= 5


def test_episodes_of_another_environment(remembered: Path) -> None:
    done = anew(str(remembered), "--config=qmix", *(word.replace("climbing", "two_step") for word in GAME))
    assert done.returncode == 1 and "its episodes are of another environment" in done.stderr


def test_a_wrong_key_is_named(remembered: Path) -> None:
    done = anew(str(remembered), "--config=qmix", *GAME, "gama=0.9")
    assert done.returncode == 1 and "did you mean gamma?" in done.stderr
