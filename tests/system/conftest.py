from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from utils import config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the real default.yaml, one environment and one algorithm; the working directory."""
    for folder in ("config/algs", "config/envs"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "config" / "default.yaml", tmp_path / "config")
    (tmp_path / "config/envs/lbf.yaml").write_text(
        "# foraging\nenv: gymma\nenv_args: {key: Foraging-5x5-2p-1f-v3}\nstandardise_rewards: true\n"
    )
    (tmp_path / "config/algs/vdn.yaml").write_text("# sums of values\nname: vdn\nmixer: vdn\n")
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def compose(tree: Path) -> Callable[..., dict]:
    return lambda *overrides: config.compose("vdn", "lbf", overrides)


@pytest.fixture
def problems(tree: Path) -> Callable[..., list[str]]:
    """What is wrong with these overrides."""

    def find(*overrides: str) -> list[str]:
        with pytest.raises(config.ConfigError) as caught:
            config.compose("vdn", "lbf", overrides)
        return caught.value.problems

    return find
