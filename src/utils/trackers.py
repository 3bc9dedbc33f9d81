"""TensorBoard and Weights & Biases: the same metrics under the same names as in Sacred's record. Off by default."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from utils.identity import NOT_COMPARED
from utils.naming import algorithm_of, task_of
from utils.schema import as_before

STEP = "env_step"  # W&B's axis: environment steps


class Tracker(Protocol):
    """A place for metrics."""

    def log(self, key: str, value: float, t: int) -> None:
        """Value of metric `key` at environment step t."""

    def flush(self) -> None:
        """Everything up to now is written."""

    def close(self) -> None:
        """Everything is written. Twice is fine."""


def open_trackers(config: Mapping[str, Any], name: str, log: Any, resumed_at: int | None = None) -> list[Tracker]:
    """Those that the configuration asks for. One that cannot be opened is left out with a warning: the run goes on.

    :param resumed_at: the environment step from which the run of this name goes on, None for a new one.
    """
    trackers: list[Tracker] = []
    for key, kind in (("use_tensorboard", TensorBoard), ("use_wandb", WandB)):
        if config[key]:
            try:
                trackers.append(kind(config, name, resumed_at))
            except Exception as error:  # no login, no network, a full disk
                log.warning("%s: this run is recorded without it: %s: %s", key, type(error).__name__, error)
    return trackers


class TensorBoard:
    """Event files in local_results_path/tb_logs/NAME. A resumed run hides what was there after the step it goes on
    from."""

    def __init__(self, config: Mapping[str, Any], name: str, resumed_at: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resumed_at is None else resumed_at + 1
        self.writer = SummaryWriter(str(Path(config["local_results_path"]) / "tb_logs" / name), purge_step=purge)

    def log(self, key: str, value: float, t: int) -> None:
        self.writer.add_scalar(key, value, t)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of W&B, on disk in local_results_path/wandb, and on the service with wandb_mode=online.

    A resumed run has the same id there, so that it goes on; the steps that it repeats are there twice.
    """

    def __init__(self, config: Mapping[str, Any], name: str, resumed_at: int | None = None) -> None:
        import wandb

        folder = Path(config["local_results_path"])
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            config=dict(config),
            dir=str(folder),
            entity=config["wandb_team"],
            project=config["wandb_project"],
            mode=config["wandb_mode"],
            group=group_name(config),
            name=name,
            id=hashlib.sha256(name.encode()).hexdigest()[:16],
            resume=None if resumed_at is None else "allow",
            tags=[config["label"]] if config["label"] else [],
            settings=wandb.Settings(console="off", silent=True),
        )
        self.run.define_metric("*", step_metric=STEP)
        self.row: dict[str, float] = {}

    def log(self, key: str, value: float, t: int) -> None:
        """Metrics of one step, each once, become one row: W&B's cost is by the row."""
        if self.row and (self.row[STEP] != t or key in self.row):
            self._send()
        self.row |= {STEP: t, key: value}

    def _send(self) -> None:
        if self.row:
            self.run.log(self.row)
        self.row = {}

    def flush(self) -> None:
        self._send()

    def close(self) -> None:
        self._send()
        self.run.finish(exit_code=int(sys.exc_info()[0] is not None))  # a run that crashes is "failed" there, too


def group_name(config: Mapping[str, Any]) -> str:
    """Algorithm, task with its simulator, and a hash of what the report compares: one for the runs of a curve."""
    compared = {key: value for key, value in as_before(config).items() if key not in NOT_COMPARED}
    digest = hashlib.sha256(json.dumps(compared, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{algorithm_of(config)} {task_of(config)}"[:119] + f" {digest}"
