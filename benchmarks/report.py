"""Speed of the report: 80 synthetic runs (4 algorithms, 4 tasks, 5 seeds) of 200 tests each, read and reported.

python benchmarks/report.py                  the times; 60 seconds are allowed
python benchmarks/report.py --keep FOLDER    leaves the runs and the page there
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "plugins"), str(ROOT / "tests")]
ALLOWED = 60.0  # seconds
SPEED = {"mmsa": 1.6, "qmix": 1.0, "vdn": 0.8, "mappo": 0.6}
OTHER = ("loss", "grad_norm", "td_error_abs", "q_taken_mean", "target_mean", "return_mean", "return_std", "epsilon")


def metrics(name: str, task: int, rng: np.random.Generator) -> dict[str, Any]:
    """A curve that rises to 1 with noise, and as many points of everything else that a run logs."""
    steps = np.arange(200) * 5000 + rng.integers(0, 50, 200)
    rise = 1 - np.exp(-steps / 1e6 * 3 * SPEED[name] / (1 + 0.4 * task) * rng.uniform(0.7, 1.3))
    result = {"test_return_mean": np.clip(rise + rng.normal(0, 0.03, 200), 0, 1), "updates": steps // 50}
    result |= {key: rng.normal(size=200) for key in OTHER}
    if name == "mmsa":
        for k in range(1, 11):
            result[f"mmsa_open_loop_{k}"] = 0.05 * k * (1 + 3 * np.exp(-steps / 2e5)) * rng.uniform(0.9, 1.1, 200)
            result[f"mmsa_no_change_{k}"] = 0.4 * (1 - 0.8**k) * rng.uniform(0.95, 1.05, 200)
        for key in ("loss_kl", "loss_sale", "sale_over_no_change", "zs_spread", "reward_imagined", "reward_real"):
            result[f"mmsa_{key}"] = 1 + np.exp(-steps / 2e5) + rng.normal(0, 0.05, 200)
        result["mmsa_reward_correlation"] = np.clip(rise + rng.normal(0, 0.05, 200), -1, 1)
    return {key: (steps.tolist(), values.tolist()) for key, values in result.items()}


def lay(folder: Path) -> None:
    from support import sacred_runs as sr

    rng = np.random.default_rng(0)
    for task in range(4):
        for name in SPEED:
            for seed in range(1, 6):
                config = sr.configuration(
                    name, seed, t_max=995_000, test_interval=5000, env_args={"key": f"Task-{task}"}
                )
                sr.write(folder / name / f"{task}-{seed}", sr.record(config, metrics(name, task, rng)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="an empty or new folder for the runs and the report")
    options = parser.parse_args()
    from reports.report import write_report
    from reports.runs import load_runs

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        lay(folder / "runs")
        start = time.perf_counter()
        runs = load_runs([str(folder / "runs")])
        read = time.perf_counter()
        page = write_report(runs, folder / "report", title="80 synthetic runs")
        end = time.perf_counter()
        print(f"{len(runs)} runs: read in {read - start:.1f} s, reported in {end - read:.1f} s")
        print(f"page: {page.stat().st_size / 1e6:.1f} MB" + (f", {page}" if options.keep else ""))
    return int(end - start > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
