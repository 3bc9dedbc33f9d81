"""An algorithm from outside the tree: a YAML file that names what there is, with other values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import main
from experiments import planning
from utils import resume

SMALL = "seed=1 t_max=30 batch_size=4 env_steps_per_update=5 learner_log_interval=5 test_nepisode=1 hidden_dim=8"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, in the folder above the working directory."""
    path, work = tmp_path / "mine.yaml", tmp_path / "work"
    path.write_text("# QMIX with a narrow mixer\nname: mine\nmixer: qmix\nmixing_embed_dim: 4\n")
    work.mkdir()
    monkeypatch.chdir(work)
    return path


def test_it_trains_and_its_record_names_the_whole_path(own: Path) -> None:
    assert main.main(["--config=../mine.yaml", "--env-config=matrix", "with", *SMALL.split()]) == 0
    (record,) = Path("results/sacred/mine").glob("*/1")
    info, config = (json.loads((record / f"{name}.json").read_text()) for name in ("info", "config"))
    assert config["mixing_embed_dim"] == 4 and info["loss"]
    assert info["command"].startswith(f"python src/main.py --config={own} --env-config=matrix with ")
    assert resume._files(info) == (str(own), "matrix")


def test_an_experiment_finds_it(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.yaml").write_text(
        "algorithms: {Mine: {config: ../mine.yaml}}\ntasks: {t: {env_config: matrix}}\nseeds: [1]\nt_max: 30\n"
    )
    (run,) = planning.plan(planning.load_experiment("plan.yaml"), Path("out"))
    assert main.main([*run.words, "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == run.config and run.config["mixing_embed_dim"] == 4


def test_a_file_that_is_not_there(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--config=../mime.yaml", "--env-config=matrix"]) == 2
    assert "--config=../mime.yaml: there is no such file; available: ippo" in capsys.readouterr().err
