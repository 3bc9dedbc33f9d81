"""Runs that kept their last checkpoint (keep_finished=True), as they stood when it was written."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "plugins")]


class Trained(NamedTuple):
    args: SimpleNamespace
    runner: Any  # its next episode is the one that would have come next
    buffer: Any  # with the newest of the remembered episodes
    learner: Any


def configuration(folder: Path) -> dict[str, Any]:
    """The run's, as a run of today would have it."""
    from utils.config import ConfigError
    from utils.schema import as_today
    from utils.untrusted import read

    try:
        return as_today(read(folder / "config.json"))
    except ConfigError as error:
        raise SystemExit(str(error)) from None


def begin(config: dict[str, Any]) -> Trained:
    """An untrained one."""
    import run
    from utils.logging import Logger

    args = run.make_args(config | {"pipeline": False})
    logger = Logger(logging.getLogger(__name__))
    runner = run.make_runner(args, logger)
    return Trained(args, runner, *run.build(args, runner, logger))


def load(folder: Path, **changes: Any) -> Trained:
    """The run in `folder`, with `changes` of its configuration; with a smaller `buffer_size` it remembers the newest
    episodes alone. SystemExit where it has no checkpoint."""
    import mmsa
    import run
    from utils.checkpoints import Checkpoints

    mmsa.register()
    recorded = configuration(folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    saved, problems = checkpoints.newest()
    if saved is None:
        raise SystemExit(f"{folder}: no whole checkpoint, run it with keep_finished=True {'; '.join(problems)}")
    args, runner, buffer, learner = trained = begin(recorded | changes)
    run.keeper(args, run.Loop(args), runner, buffer, learner, runner.logger, checkpoints, saved)
    return trained
