"""What runs are called."""

from __future__ import annotations

import pytest

from utils.naming import backend_note, task_name


@pytest.mark.parametrize(
    ("backend", "note"),
    [
        ("SMAX (jaxmarl 0.2.0)", "SMAX (jaxmarl 0.2.0), not StarCraft II"),
        ("SMAX (jaxmarl 0.2.0), not StarCraft II", "SMAX (jaxmarl 0.2.0), not StarCraft II"),
        ("lbforaging 2.0.0", "lbforaging 2.0.0"),
        ("StarCraft II", "StarCraft II"),
    ],
)
def test_backend_note(backend: str, note: str) -> None:
    assert backend_note(backend) == note


def test_task_name() -> None:
    assert task_name({"env": "sc2v2", "env_args": {"map_name": "protoss_5_vs_5"}}) == "protoss_5_vs_5"
    assert task_name({"env": "gymma", "env_args": {"key": "Foraging"}}) == "Foraging"
    assert task_name({"env": "matrix", "env_args": {}}) == "matrix"
