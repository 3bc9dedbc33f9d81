"""TensorBoard and W&B, offline."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.settings import config

from utils.logging import Logger
from utils.schema import GONE, LATER, as_today
from utils.trackers import WandB, group_name, open_trackers

SRC = Path(__file__).parents[2] / "src"


def test_off_by_default() -> None:
    assert open_trackers(config(), "x", None) == []


def test_tensorboard_has_the_same_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install -e '.[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = Logger(logging.getLogger("test"))
    logger.setup_trackers(config(use_tensorboard=True, local_results_path=str(tmp_path)), "run")
    for t in (10, 20):
        logger.log_stat("test_return_mean", t / 8, t)
    logger.finish()
    logger.finish()
    events = EventAccumulator(str(tmp_path / "tb_logs" / "run"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("test_return_mean")] == [(10, 1.25), (20, 2.5)]


def test_wandb_offline(tmp_path: Path) -> None:
    """In a process of its own: W&B starts a service."""
    pytest.importorskip("wandb", reason="wandb is not installed: pip install -e '.[wandb]'")
    code = f"""
import sys
sys.path[:0] = [{str(SRC)!r}, {str(Path(__file__).parents[1] / "support")!r}]
from settings import config
from utils.trackers import open_trackers
import logging
(tracker,) = open_trackers(config(use_wandb=True, local_results_path={str(tmp_path)!r}), "run", logging.getLogger())
for t in (10, 20):
    tracker.log("loss", t / 8, t)
    tracker.log("return_mean", 1.0, t)
print("group:", tracker.run.group, "project:", tracker.run.project)
tracker.close()
tracker.close()
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "group: run gymma " in done.stdout and "project: epymarl-mmsa" in done.stdout
    (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert all(word in content for word in (b"loss", b"return_mean", b"env_step"))


def test_a_tracker_that_cannot_be_opened_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr("utils.trackers.TensorBoard", fails)
    assert open_trackers(config(use_tensorboard=True), "run", logging.getLogger("test")) == []
    assert "use_tensorboard" in caplog.text and "no space" in caplog.text


@pytest.mark.parametrize("method", ["log", "close"])
def test_a_tracker_that_fails_is_left_out(caplog: pytest.LogCaptureFixture, method: str) -> None:
    class Memory:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def log(self, *point: Any) -> None:
            self.seen.append(point)

        def close(self) -> None:
            self.seen.append("closed")

    class Failing(Memory):
        def fails(self, *args: Any) -> None:
            raise OSError("no space")

    failing, good = Failing(), Memory()
    setattr(failing, method, failing.fails)
    logger = Logger(logging.getLogger("test"))
    logger.trackers = [failing, good]
    for t in (1, 2):
        logger.log_stat("loss", 0.5, t)
    logger.finish()
    assert good.seen == [("loss", 0.5, 1), ("loss", 0.5, 2), "closed"]
    assert caplog.text.count("Failing: the run goes on without it: OSError: no space") == 1
    assert failing.seen == ([] if method == "log" else good.seen[:2])


def test_wandb_learns_that_a_run_has_failed() -> None:
    seen: list[int] = []
    tracker = WandB.__new__(WandB)
    tracker.run, tracker.row = SimpleNamespace(finish=lambda exit_code: seen.append(exit_code)), {}
    tracker.close()
    try:
        raise ValueError
    except ValueError:
        tracker.close()
    assert seen == [0, 1]


def test_wandb_has_a_row_for_each_step() -> None:
    rows: list[dict[str, float]] = []
    tracker = WandB.__new__(WandB)
    tracker.run, tracker.row = SimpleNamespace(log=rows.append), {}
    for key, t in (("loss", 1), ("return_mean", 1), ("test_return_mean", 2), ("test_return_mean", 2)):
        tracker.log(key, 0.5, t)
    tracker.flush()
    test = {"env_step": 2, "test_return_mean": 0.5}
    assert rows == [{"env_step": 1, "loss": 0.5, "return_mean": 0.5}, test, test]


@pytest.mark.parametrize(("resumed_at", "resume"), [(None, None), (10, "allow")])
def test_wandb_goes_on_with_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed_at: int | None, resume: str | None
) -> None:
    asked: list[dict[str, Any]] = []
    run = SimpleNamespace(define_metric=lambda *args, **rest: None)
    fake = SimpleNamespace(init=lambda **words: asked.append(words) or run, Settings=lambda **words: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    settings = config(use_wandb=True, local_results_path=str(tmp_path))
    WandB(settings, "run"), WandB(settings, "run", resumed_at)
    assert asked[0]["id"] == asked[1]["id"] and asked[1]["resume"] == resume


def test_the_group_is_that_of_a_curve() -> None:
    """What the report averages is one group, what it keeps apart are two."""
    settings = {"env": "gymma", "env_args": {"key": "Foraging"}}
    one = group_name(config(seed=1, **settings))
    assert one.startswith("run Foraging ")
    same = {"seed": 2, "local_results_path": "there", "use_wandb": True, "torch_threads": 4, "save_model": True}
    assert group_name(config(**same, **settings)) == one
    assert group_name(config(seed=1, lr=0.1, **settings)) != one
    assert group_name(as_today(config(**settings)) | GONE) == group_name(config(**LATER, **settings)) == one
    assert group_name(config(scale_inputs=True, **settings)) != one
    assert group_name(config(env="gymma", env_args={"key": "Foraging", "action_masks": True})) != one
    named = group_name(config(label="x" * 200, lr=0.1, **settings))
    assert len(named) == 128 and named != group_name(config(label="x" * 200, lr=0.2, **settings))


def test_the_group_names_the_simulator() -> None:
    assert group_name(config(env="smax", env_args={"map_name": "3m"})).startswith("run 3m-SMAX ")


def test_tensorboard_hides_what_a_resumed_run_logs_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install -e '.[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values = config(use_tensorboard=True, local_results_path=str(tmp_path))
    for resumed_at, steps in ((None, (10, 20, 30, 40)), (20, (30, 40, 50))):
        logger = Logger(logging.getLogger("test"))
        logger.setup_trackers(values, "run", resumed_at)
        for t in steps:
            logger.log_stat("loss", t + (resumed_at or 0), t)
        logger.flush()
        logger.finish()
    events = EventAccumulator(str(tmp_path / "tb_logs" / "run"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 10), (20, 20), (30, 50), (40, 60), (50, 70)]
