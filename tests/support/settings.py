"""Arguments and schemes for tests: the values of config/default.yaml, and small sizes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch as th
import yaml

from components.transforms import OneHot

DEFAULT = Path(__file__).parents[2] / "config" / "default.yaml"
SIZES = {"n_agents": 3, "n_actions": 5, "obs_shape": 6, "state_shape": 8, "episode_limit": 6}


def config(**changes: Any) -> dict[str, Any]:
    """The defaults of the configuration with these changes; a key that it does not have is an error."""
    values = yaml.safe_load(DEFAULT.read_text())
    unknown = set(changes) - set(values)
    assert not unknown, f"no such key: {unknown}"
    return values | {"seed": 1, "use_cuda": False} | changes


def args(**changes: Any) -> SimpleNamespace:
    """As after run.build: the configuration and the sizes."""
    sizes = {key: changes.pop(key, value) for key, value in SIZES.items()}
    return SimpleNamespace(**config(**changes), **sizes, device="cpu")


def scheme_of(a: SimpleNamespace) -> tuple[dict[str, Any], dict[str, int], dict[str, Any]]:
    """Scheme, groups and preprocess for these arguments."""
    scheme = {
        "state": {"vshape": a.state_shape},
        "obs": {"vshape": a.obs_shape, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": th.long},
        "avail_actions": {"vshape": (a.n_actions,), "group": "agents", "dtype": th.uint8},
        "reward": {"vshape": (1 if a.common_reward else a.n_agents,)},
        "terminated": {"vshape": (1,), "dtype": th.uint8},
    }
    return scheme, {"agents": a.n_agents}, {"actions": ("actions_onehot", [OneHot(a.n_actions)])}


class RecordingLogger:
    """The logger's part that learners, runners and the loop use; keeps everything."""

    def __init__(self, console_logger: Any = None) -> None:
        self.console_logger = console_logger
        self.stats: dict[str, list[tuple[int, float]]] = {}
        self.records: dict[str, Any] = {}
        self.progressed: list[tuple[int, int]] = []
        self.finished = False

    def log_stat(self, key: str, value: float, t: int, to_sacred: bool = True) -> None:
        self.stats.setdefault(key, []).append((t, value))

    def record(self, **entries: Any) -> None:
        self.records.update(entries)

    def record_start(self, **facts: Any) -> None:
        self.record(**facts)

    def setup_sacred(self, _run: Any) -> None:
        pass

    def setup_trackers(self, config: Any, name: str) -> None:
        pass

    def print_recent_stats(self) -> None:
        pass

    def progress(self, t_env: int, episode: int) -> None:
        self.progressed.append((t_env, episode))

    def finish(self) -> None:
        self.finished = True
