"""The same algorithms in both hosts, our own core and an unedited EPyMARL checkout, on one task, settings alike.

    python benchmarks/hosts.py --epymarl PATH --dry-run      the command line of every run that is missing
    python benchmarks/hosts.py --epymarl PATH --jobs 2       runs them, then writes figure, table and CSV
    python benchmarks/hosts.py --out results/hosts           figure, table and CSV of what has been run, as published

Runs lie in results/runs/hosts, one folder each, and are read from Sacred's records; a finished one of the same settings
is not repeated. The report lies beside them where --out names no other place.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "plugins")]

import numpy as np  # noqa: E402

from mmsa.checkout import UpstreamError, find_checkout  # noqa: E402
from reports.runs import RunRecord, load_runs  # noqa: E402
from reports.statistics import align, area_under_curve, common_grid, final_score  # noqa: E402
from utils.config import ConfigError, parse_override  # noqa: E402
from utils.untrusted import read  # noqa: E402

TASK = "lbforaging:Foraging-8x8-2p-3f-v3"
METRIC = "test_return_mean"
# The embedded host again, but returns bootstrap from LBF's last observation, as upstream's PPO does.
CUT_OFF = "cut-off"
HOSTS = {"embedded": [], "upstream": [], CUT_OFF: ["env_args.time_limit=50"]}
EVERY = ["test_interval=10000", "test_nepisode=50", "use_cuda=False"]
# One update an episode and one-step targets are upstream's only mode; a GRU, since MMSA has one.
VALUES = ["env_steps_per_update=episode", "td_lambda=0.0", "use_rnn=True", "epsilon_anneal_time=50000"]
ALGORITHMS = {"MMSA": VALUES, "QMIX": VALUES, "VDN": VALUES, "MAPPO": []}
COLOURS = {"embedded": "#e4572e", "upstream": "#3d8bd4", CUT_OFF: "#8a5fb0"}


class Job(NamedTuple):
    algorithm: str
    host: str
    seed: int
    folder: Path
    command: list[str]

    @property
    def finished(self) -> bool:
        """Whether there is a whole run of these settings; ConfigError where there is one of others."""
        words = self.command[self.command.index("with") + 1 :]
        wanted = {path[0]: value for path, value in map(parse_override, words) if len(path) == 1}
        del wanted["local_results_path"]
        for path in self.folder.rglob("run.json"):
            if read(path)["status"] != "COMPLETED":
                continue
            config = read(path.with_name("config.json"))
            for key, value in wanted.items():
                if config.get(key) != value:
                    raise ConfigError(
                        f"{path.parent}: a run with {key}={config.get(key)}, not {value}: name another --runs"
                    )
            return True
        return False


def plan(options: argparse.Namespace) -> list[Job]:
    """The runs, a seed of everything before the next seed."""
    jobs = []
    for seed in range(1, options.seeds + 1):
        for algorithm, settings in ALGORITHMS.items():
            for host, more in HOSTS.items():
                if host == CUT_OFF and algorithm != "MAPPO":
                    continue
                folder = options.runs / host / algorithm / f"seed{seed}"
                words = ["--config=" + algorithm.lower(), "--env-config=gymma", "with", f"env_args.key={TASK}"]
                words += [
                    f"seed={seed}",
                    f"t_max={options.t_max}",
                    *EVERY,
                    *settings,
                    *more,
                    f"label={algorithm} {host}",
                ]
                words.append(f"local_results_path={folder}")
                checkout = [f"--epymarl={options.epymarl}"] if host == "upstream" else []
                command = [sys.executable, str(ROOT / "src" / "main.py"), *checkout, *words]
                jobs.append(Job(algorithm, host, seed, folder, command))
    return jobs


def run(job: Job) -> bool:
    job.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (job.folder / "run.log").open("w") as log:
        status = subprocess.run(job.command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    outcome = f"failed, see {log.name}" if status else "done"
    print(f"{job.algorithm} {job.host} seed {job.seed}: {outcome}", flush=True)
    return status == 0


# --- the report ---
def curves(runs: list[RunRecord]) -> dict[tuple[str, str], dict[int, tuple[np.ndarray, np.ndarray]]]:
    """(algorithm, host) -> seed -> steps and values (T,) of the finished runs' tests."""
    found: dict[tuple[str, str], dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for record in runs:
        algorithm, _, host = record.algorithm.partition(" ")
        if record.status == "COMPLETED" and METRIC in record.metrics and host in HOSTS and record.seed is not None:
            series = record.metrics[METRIC]
            found.setdefault((algorithm, host), {})[record.seed] = (series.steps, series.values)
    return found


def report(options: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, MaxNLocator

    found = curves(load_runs([str(options.runs)]))
    options.out.mkdir(parents=True, exist_ok=True)
    names = [name for name in ALGORITHMS if any((name, host) in found for host in HOSTS)]
    figure, panels = plt.subplots(
        1, len(names), figsize=(4.2 * len(names), 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    lines = ["| algorithm | host | seeds | area under curve: mean [lowest, highest] | each | last tenth | each |"]
    lines.append("|---|---|---|---|---|---|---|")
    rows: list[list[Any]] = []
    for panel, name in zip(panels[0], names, strict=True):
        for host in HOSTS:
            seeds = dict(sorted(found.get((name, host), {}).items()))
            if not seeds:
                continue
            grid = common_grid([steps for steps, _ in seeds.values()])
            values = align(list(seeds.values()), grid)  # (seeds, points)
            area, last = area_under_curve(grid, values), final_score(values)
            panel.plot(grid, values.T, color=COLOURS[host], alpha=0.25, linewidth=0.8)
            panel.plot(grid, values.mean(0), color=COLOURS[host], linewidth=2, label=f"{host} (n = {len(seeds)})")
            scores = " | ".join(f"{x.mean():.3f} [{x.min():.3f}, {x.max():.3f}] | {_each(x)}" for x in (area, last))
            lines.append(f"| {name} | {host} | {', '.join(map(str, seeds))} | {scores} |")
            for seed, (steps, tests) in seeds.items():
                rows += [[name, host, seed, f"{t:.0f}", f"{x:.6g}"] for t, x in zip(steps, tests, strict=True)]
        panel.set(title=name, xlabel="environment steps")
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    panels[0][0].set_ylabel("return in tests")
    figure.suptitle(f"{TASK.partition(':')[2]}: embedded host and upstream EPyMARL")
    figure.savefig(options.out / "hosts.png", dpi=130)
    (options.out / "table.md").write_text("\n".join(lines) + "\n")
    with (options.out / "results.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["algorithm", "host", "seed", "step", METRIC], *rows])
    print("\n".join(lines))


def _each(values: np.ndarray) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epymarl", metavar="PATH", help="the checkout; without it nothing is run")
    parser.add_argument("--seeds", type=int, default=5)
    # 200k and what upstream's tests, each due 10k steps after the last one, have fallen behind by then
    parser.add_argument("--t-max", type=int, default=202000, help="environment steps of a run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    parser.add_argument("--runs", type=Path, default=ROOT / "results" / "runs" / "hosts")
    parser.add_argument("--out", type=Path, help="folder of the report (report, beside the runs)")
    options = parser.parse_args()
    options.out = options.out or options.runs / "report"
    try:
        if options.epymarl:
            find_checkout(options.epymarl)
        missing = [job for job in plan(options) if not job.finished] if options.epymarl else []
        if options.dry_run:
            print("\n".join(shlex.join(job.command) for job in missing))
            return 0
        with ThreadPoolExecutor(options.jobs) as pool:
            done = list(pool.map(run, missing))
        report(options)
    except (ConfigError, UpstreamError) as error:
        parser.error(str(error))
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
