"""Puts runs side by side: a table on the terminal, one CSV row for each test, and a figure.

    python results/curves.py results/sacred --out results/lbf_coop

Runs whose configurations differ in nothing but the seed are one curve: the mean over seeds, the band from the lowest to
the highest seed. Each task and backend has a figure of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

NOT_COMPARED = {"seed", "label", "local_results_path"}
METRICS = ("test_battle_won_mean", "test_return_mean", "test_total_return_mean")  # the first that a run has


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif prefix or key not in NOT_COMPARED:
            yield prefix + key, json.dumps(value)


def read(folders: list[Path]) -> list[dict[str, Any]]:
    """Every finished run below the folders."""
    runs = []
    for path in sorted(p for folder in folders for p in folder.rglob("run.json")):
        record, config = json.loads(path.read_text()), json.loads((path.parent / "config.json").read_text())
        info = json.loads((path.parent / "info.json").read_text())
        metric = next((m for m in METRICS if m in info), None)
        if record["status"] != "COMPLETED" or metric is None:
            print(f"left out: {path.parent} ({record['status']})")
            continue
        task = config["env_args"].get("map_name") or config["env_args"].get("key") or config["env"]
        steps, values = np.array(info[f"{metric}_T"]), np.array(info[metric])
        runs.append(
            {"task": f"{task}, {info['backend']}", "metric": metric, "seed": config["seed"], "steps": steps}
            | {"values": values, "config": dict(flat(config)), "name": config["name"]}
        )
    return runs


def label(config: Mapping[str, str], name: str, differing: set[str]) -> str:
    return " ".join([name, *(f"{key}={config[key]}" for key in sorted(differing) if key in config)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with Sacred runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the CSV and the figures")
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in read(options.folders):
        tasks[run["task"]].append(run)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "algorithm", "seed", "metric", "step", "value"])
        for task, runs in sorted(tasks.items()):
            by_algorithm: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for run in runs:
                by_algorithm[run["name"]].append(run)
            groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for name, own in by_algorithm.items():
                keys = {key for run in own for key in run["config"]}
                differing = {key for key in keys if len({run["config"].get(key) for run in own}) > 1}
                for run in own:
                    groups[label(run["config"], name, differing)].append(run)
            figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
            print(f"\n{task}\n{'':<50} seeds  over the curve   last two tests  each seed over the curve")
            for group, own in sorted(groups.items()):
                n = min(len(run["values"]) for run in own)
                values, steps = np.stack([run["values"][:n] for run in own]), own[0]["steps"][:n]
                means = values.mean(1)
                each = " ".join(f"{m:.3f}" for m in means)
                print(f"{group:<50} {len(own):5d} {means.mean():15.3f} {values[:, -2:].mean():16.3f}  {each}")
                legend = f"{group} ({len(own)} seed{'s' if len(own) > 1 else ''})"
                (line,) = axes.plot(steps, values.mean(0), label=legend)
                axes.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, lw=0)
                for run in own:
                    rows = zip(run["steps"], run["values"], strict=True)
                    writer.writerows([task, group, run["seed"], run["metric"], t, f"{v:.4f}"] for t, v in rows)
            axes.set(title=task, xlabel="environment steps", ylabel=runs[0]["metric"])
            axes.legend(fontsize="small")
            axes.grid(alpha=0.3)
            name = "".join(c if c.isalnum() or c in "-_." else "_" for c in task)  # the backend included
            figure.savefig(options.out / f"{name}.png", dpi=110)
            plt.close(figure)


if __name__ == "__main__":
    main()
