"""QMIX's two-step game (Rashid et al. 2018) through the real run loop: MMSA and QMIX coordinate, VDN cannot.

Play is uniform (epsilon 1) and targets are one-step: with lambda 0.6 the coordinated branch would look worse than the
safe one (test_returns.py).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from support.settings import RecordingLogger

import run
from utils.config import compose

GAME = {
    "t_max": 4400,
    "test_interval": 400,
    "test_nepisode": 1,
    "runner": "parallel",
    "batch_size_run": 16,
    "env_steps_per_update": 16,
    "batch_size": 32,
    "buffer_size": 500,
    "td_lambda": 0.0,
    "epsilon_start": 1.0,
    "epsilon_finish": 1.0,
    "lr": 0.003,
    "target_update_interval_or_tau": 20,
    "hidden_dim": 32,
    "use_cuda": False,
}
SMALL = {  # of MMSA
    "sale.dim": 16,
    "sale.hidden_dim": 32,
    "head.hidden_dim": 32,
    "world_model.hidden_dim": 32,
    "world_model.state_embed_dim": 16,
    "imagination.embed_dim": 16,
}


def greedy_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str, **changes: Any) -> list[float]:
    """Of the last two tests of a run: that the answer is known, and kept."""
    logs: list[RecordingLogger] = []

    def logger(console_logger: Any) -> RecordingLogger:
        logs.append(RecordingLogger(console_logger))
        return logs[-1]

    monkeypatch.setattr(run, "Logger", logger)
    settings = GAME | (SMALL if algorithm == "mmsa" else {}) | changes | {"local_results_path": str(tmp_path)}
    config = compose(algorithm, "matrix", [f"{key}={value}" for key, value in settings.items()])
    run.run(None, config, logging.getLogger("test"))
    return [value for _, value in logs[0].stats["test_return_mean"][-2:]]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("algorithm", "expected"), [("mmsa", 8.0), ("qmix", 8.0), ("vdn", 7.0)])
def test_greedy_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str, expected: float, seed: int
) -> None:
    assert greedy_returns(tmp_path, monkeypatch, algorithm, seed=seed) == [expected] * 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {"sale.enabled": False},
        {"world_model.enabled": False},
        {"sale.enabled": False, "world_model.enabled": False},
        {"sale.scope": "joint", "imagination.grad": "full", "imagination.target": "copy"},
        {"sale.input": "hidden", "imagination.zs": "encode"},
        {"mixer_state": False},
    ],
    ids=str,
)
def test_the_ablations_coordinate_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], seed: int
) -> None:
    assert greedy_returns(tmp_path, monkeypatch, "mmsa", seed=seed, **changes)[-1] == 8.0
