"""benchmarks/hosts.py: which runs count as finished, and what is refused before anything is run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import fake_epymarl

ROOT = Path(__file__).resolve().parents[2]


def hosts(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "benchmarks/hosts.py", *words], capture_output=True, text=True)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    done = hosts("--epymarl", str(tmp_path / "nowhere"), "--runs", str(tmp_path))
    assert done.returncode == 2 and "there is no such folder" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("status", "t_max", "missing"), [("COMPLETED", 300, 8), ("FAILED", 300, 9), ("COMPLETED", 99, 0)]
)
def test_a_finished_run_of_these_settings_is_not_repeated(
    tmp_path: Path, status: str, t_max: int, missing: int
) -> None:
    checkout = fake_epymarl.make(tmp_path / "epymarl")
    words = ["--epymarl", str(checkout), "--runs", str(tmp_path / "runs"), "--seeds", "1", "--t-max", "300"]
    first, *others = hosts(*words, "--dry-run").stdout.splitlines()
    assert len(others) == 8 and "--config=mmsa" in first
    record = tmp_path / "runs/embedded/MMSA/seed1/sacred/mmsa/game/1"
    record.mkdir(parents=True)
    (record / "run.json").write_text(json.dumps({"status": status}))
    config = {"seed": 1, "t_max": t_max, "test_interval": 10000, "test_nepisode": 50, "use_cuda": False}
    config |= {"env_steps_per_update": "episode", "td_lambda": 0.0, "use_rnn": True, "epsilon_anneal_time": 50000}
    (record / "config.json").write_text(json.dumps(config | {"label": "MMSA embedded"}))
    again = hosts(*words, "--dry-run")
    if missing:
        assert again.returncode == 0 and len(again.stdout.splitlines()) == missing
    else:
        assert again.returncode == 2 and "a run with t_max=99, not 300: name another --runs" in again.stderr
