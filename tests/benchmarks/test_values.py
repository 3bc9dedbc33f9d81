"""What benchmarks/values.py says of learners whose values are known, and of trained runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch as th

from utils.config import compose

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def values(benchmarks):
    import values

    return values


def test_what_is_said_of_known_values(values) -> None:
    """Values that are 1 too high, of returns 0, 2, 4, 6; their own targets are 2 below."""
    after = th.tensor([0.0, 2.0, 4.0, 6.0])
    args = SimpleNamespace(td_lambda=0.6)

    def losses(batch):
        goal = after if args.td_lambda == 1 else after - 1
        return {}, {"q_tot": after + 1, "goal": goal}, None

    trained = SimpleNamespace(args=args, buffer=SimpleNamespace(sample=range), learner=SimpleNamespace(losses=losses))
    assert values.measure(trained, 4) == [2, 4, 3, 1] and args.td_lambda == 0.6


@pytest.mark.parametrize("algorithm", ["qmix", "mmsa"])
def test_trained_runs(values, tmp_path: Path, algorithm: str) -> None:
    """Penalty is a game of one step: returns are rewards, and targets are returns."""
    words = ["env_args.key=penalty", "seed=1", "t_max=400", "keep_finished=True", "batch_size=8", "hidden_dim=8"]
    words += ["standardise_rewards=True", f"local_results_path={tmp_path}"]
    train = ["src/main.py", f"--config={algorithm}", "--env-config=matrix", "with", *words]
    subprocess.run([sys.executable, *train], cwd=ROOT, check=True, capture_output=True)
    (run,) = (tmp_path / "sacred" / algorithm).glob("*/1")
    measure = ["benchmarks/values.py", str(run), "--episodes", "50"]
    done = subprocess.run([sys.executable, *measure], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.match(rf"{re.escape(str(run))}: step 40\d, \d+ updates\n", done.stdout)
    rows = re.findall(r"^  (remembered|fresh) +([\d.]+) +([-\d.]+) +([-\d.]+) +([-\d.]+)$", done.stdout, re.M)
    assert [row[0] for row in rows] == ["remembered", "fresh"]
    assert rows[0][1:] != rows[1][1:], "the same episodes twice"
    loaded = values.load(run, buffer_size=50)
    assert loaded.runner.env.episode >= 400 and loaded.buffer.episodes_in_buffer == 50, "it begins anew"


def test_runs_without_values(values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(compose("mappo", "matrix", [])))
    monkeypatch.setattr(sys, "argv", ["values.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="learns no Q_tot"):
        values.main()
