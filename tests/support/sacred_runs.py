"""Small run folders as Sacred's FileStorageObserver and the host write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

START = datetime(2026, 1, 2, 3, 4, 5)
LBF = "Foraging-5x5-2p-1f-v3"
SECONDS = 0.01  # for one environment step
Series = tuple[Sequence[float], Sequence[float]]  # steps, values


def configuration(name: str = "qmix", seed: int | None = 1, env: str = "gymma", **changes: Any) -> dict[str, Any]:
    """A part of a run's configuration; key__inner=value sets an inner key."""
    config: dict[str, Any] = {
        "name": name,
        "label": "",
        "seed": seed,
        "t_max": 1000,
        "test_interval": 100,
        "lr": 0.0005,
    }
    config |= {"env": env, "common_reward": True, "local_results_path": "results", "torch_threads": 1}
    config["env_args"] = {"key": LBF} if env == "gymma" else {"map_name": "protoss_5_vs_5"}
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        if inner:
            config.setdefault(outer, {})[inner] = value
        else:
            config[key] = value
    return config


def record(
    config: Mapping[str, Any],
    metrics: Mapping[str, Series],
    status: str = "COMPLETED",
    backend: str = "lbforaging 2.0.0",
    start: datetime = START,
    **info: Any,
) -> dict[str, dict[str, Any]]:
    """The files of a run, name -> content."""
    stop = start + timedelta(seconds=20)
    run = {
        "status": status,
        "start_time": start.isoformat(),
        "stop_time": stop.isoformat() if status in ("COMPLETED", "FAILED") else None,
        "heartbeat": stop.isoformat(),
        "command": "main",
        "experiment": {"repositories": [{"commit": "0123456789abcdef", "dirty": False, "url": ""}]},
        "host": {"hostname": "box", "cpu": "Some CPU", "os": ["Linux", "Linux-6"], "python_version": "3.11.7"},
    }
    if status == "FAILED":
        run["fail_trace"] = ["Traceback (most recent call last):\n", '  File "x.py"\n', "ValueError: a bad value\n"]
    facts = {"versions": {"torch": "2.13.0", "lbforaging": "2.0.0"}} | ({"backend": backend} if backend else {})
    for key, (steps, values) in metrics.items():
        facts |= {key: list(values), f"{key}_T": list(steps)}
    series = {
        key: {
            "steps": list(steps),
            "values": list(values),
            "timestamps": [(start + timedelta(seconds=SECONDS * t)).isoformat() for t in steps],
        }
        for key, (steps, values) in metrics.items()
    }
    return {"run": run, "config": dict(config), "info": facts | info, "metrics": series}


def write(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "cout.txt").write_text("")
    return folder


def tests(end: float, steps: Sequence[float] = (0, 250, 500, 750, 1000), metric: str = "test_return_mean") -> Any:
    """Metrics of a run that learns in a straight line from 0 to `end`, with its updates."""
    last = steps[-1]
    return {metric: (steps, [end * t / last for t in steps]), "updates": (steps, [t / 10 for t in steps])}


def world_model(steps: Sequence[float] = (0, 500, 1000)) -> Any:
    """MMSA's own metrics."""
    open_loop = {f"mmsa_open_loop_{k}": (steps, [1.0, 0.5 * k, 0.1 * k]) for k in range(1, 11)}
    no_change = {f"mmsa_no_change_{k}": (steps, [0.3 * k] * 3) for k in range(1, 11)}
    names = ("loss_kl", "loss_sale", "sale_over_no_change", "zs_spread", "reward_imagined", "reward_real")
    rest = {f"mmsa_{name}": (steps, [3.0, 2.0, 1.0]) for name in (*names, "reward_correlation")}
    return open_loop | no_change | rest
