"""What is published of a run: all that a report reads, little else, and nothing that names a machine or a person."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import sacred_runs as sr

from experiments import records
from experiments.planning import Run
from reports.grouping import METRICS
from reports.runs import Series, load_runs
from utils import config, identity
from utils.config import ConfigError

pytest.importorskip("rliable", reason="rliable is not installed: pip install -e '.[report]'")
from experiments.publish import publish_run  # noqa: E402
from reports.report import SERIES, write_report  # noqa: E402
from utils.sacred_run import results_folder  # noqa: E402

RECORD = "sacred/mmsa/task/4"
RESUMED = {"step": 500, "host": "box", "commit": "4567", "dirty": True, "cpu": "New CPU", "path": "/home/me"}
RESUMED |= {"versions": {"torch": "2.14.0"}, "backend": "lbforaging 2.0.1", "device": "cuda", "cores": 16}


def finished(folder: Path, seed: int = 1, **files: Any) -> tuple[Run, Path]:
    """A run and the folder of its record, which has more than any report reads."""
    own = folder / f"seed{seed}"
    values = sr.configuration("mmsa", seed, local_results_path="/home/me/runs", wandb_team="secret team", label="M")
    curve = [0.1 * seed, 1 / 3, 0.5, 0.75, 1.0]
    steps = (0, 250, 500, 750, 1000)
    metrics = sr.tests(0.8 + 0.01 * seed) | sr.world_model() | {"loss": (steps, curve), "return_mean": (steps, curve)}
    metrics |= {name: (steps, curve) for name in ("test_ep_length_mean", "mmsa_td_other_rollout", "mmsa_loss_td")}
    files = sr.record(values, metrics, command="python src/main.py --config=mmsa", resumed=[RESUMED]) | files
    files["run"]["host"]["ENV"] = {"TOKEN": "s3cret"}
    files["run"]["experiment"] |= {"base_dir": "/home/me/code"}
    files["run"]["experiment"]["repositories"][0]["url"] = "https://me@host/fork"
    run = Run("M", "t", seed, own, folder / "published" / own.name, values, ())
    return run, sr.write(own / RECORD, files)


class Read(dict[str, Series]):
    """The metrics of a run, and which of them were asked for."""

    def __init__(self, metrics: Mapping[str, Series]) -> None:
        super().__init__(metrics)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Series:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def test_a_published_run_counts_whatever_its_task_is_called(tmp_path: Path) -> None:
    """Of a name with / in it, as VMAS has, the folder has another one."""
    values = sr.configuration("mmsa", env="vmas", env_args={"key": "mpe/simple_spread"})
    run = Run("M", "t", 1, tmp_path / "seed1", tmp_path / "published" / "seed1", values, ())
    name = results_folder({**values, "local_results_path": str(tmp_path)}).name
    folder = sr.write(run.folder / "sacred/mmsa" / name / "1", sr.record(values, sr.tests(0.8)))
    assert records.published(run).finished is None
    assert publish_run(run, records.record(folder)) == records.published(run).finished.folder  # type: ignore[union-attr]


def test_what_a_report_reads_is_published(tmp_path: Path) -> None:
    """All of it, with its times, and nothing else but tests."""
    run, folder = finished(tmp_path)
    (whole,), (slim,) = load_runs([str(folder)]), load_runs([str(publish_run(run, records.record(folder)))])
    metrics = Read(whole.metrics)
    write_report([replace(whole, metrics=metrics)], tmp_path / "report")
    assert metrics.names | set(METRICS) == SERIES, "of METRICS a task's first one is read"
    assert set(slim.metrics) == {name for name in whole.metrics if name in SERIES or name.startswith("test_")}
    for name, series in slim.metrics.items():
        assert np.array_equal(series.steps, whole.metrics[name].steps)
        assert np.allclose(series.values, whole.metrics[name].values, rtol=1e-6, atol=0)
        assert not name.startswith("test_") or np.array_equal(series.seconds, whole.metrics[name].seconds)
    for name in ("algorithm", "task", "seed", "status", "versions", "command", "commits", "started", "stopped"):
        assert getattr(slim, name) == getattr(whole, name), name
    assert slim.resumed[0].machine == slim.host["machine"] and slim.resumed[0].cpu == "New CPU"
    assert (
        slim.resumed[0].others == whole.resumed[0].others == ("backend lbforaging 2.0.1", "device cuda", "torch 2.14.0")
    )
    assert slim.host.keys() == whole.host.keys() and slim.host["cpu"] == "Some CPU"


def change(file: Path, **values: Any) -> None:
    """Puts these values into a file of the record."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_it_is_small_and_names_no_one(tmp_path: Path) -> None:
    run, folder = finished(tmp_path)
    made = publish_run(run, records.record(folder))
    files = {path.name: path.read_text() for path in made.iterdir()}
    assert set(files) == {"config.json", "info.json", "metrics.json", "run.json"}
    text = "".join(files.values())
    assert not any(word in text for word in ("/home", "secret", "s3cret", "box", "me@host", "Linux-6"))
    metrics = json.loads(files["metrics.json"])
    assert {"test_return_mean", "test_ep_length_mean", "updates"} <= set(metrics)
    assert not {"loss", "return_mean", "mmsa_loss_td"} & set(metrics)
    assert metrics["mmsa_td_other_rollout"] == {
        "steps": [0, 250, 500, 750, 1000],
        "values": [0.1, 0.3333333, 0.5, 0.75, 1],
    }
    facts = json.loads(files["run.json"])
    assert facts["experiment"]["repositories"] == [{"commit": "0123456789abcdef", "dirty": False}]
    assert {"cpu": "Some CPU", "python_version": "3.11.7"}.items() <= facts["host"].items()
    assert json.loads(files["info.json"])["versions"]["torch"] == "2.13.0"


def test_its_command_has_neither_paths_nor_how_it_was_recorded(tmp_path: Path) -> None:
    run, folder = finished(tmp_path)
    words = [
        "python",
        "src/main.py",
        "--config=mmsa",
        f"--env-config={config.ROOT / 'examples' / 'my_env.yaml'}",
        "with",
    ]
    words += ["lr=0.001", "label=two words", "wandb_team=secret team", "wandb_project=mine", "save_model=True"]
    change(folder / "info.json", command=shlex.join(words))
    (published,) = load_runs([str(publish_run(run, records.record(folder)))])
    said = "python src/main.py --config=mmsa --env-config=examples/my_env.yaml with lr=0.001 'label=two words'"
    assert published.command == said


def test_no_word_with_is_left_over(tmp_path: Path) -> None:
    run, folder = finished(tmp_path)
    change(folder / "info.json", command="python src/main.py with save_model=True")
    (published,) = load_runs([str(publish_run(run, records.record(folder)))])
    assert published.command == "python src/main.py"


@pytest.mark.parametrize(
    ("changes", "command", "said"),
    [
        ({"env_module": "/home/me/my_env.py"}, "", "env_module = '/home/me/my_env.py': a path of this machine alone"),
        ({"checkpoint_path": "/home/me/models"}, "", "checkpoint_path = '/home/me/models'"),
        ({"env_args": {"key": "x", "files": ["a", "/home/me/b"]}}, "", "env_args.files = '/home/me/b'"),
        ({"env_module": "../mine/my_env.py"}, "", "env_module = '../mine/my_env.py': a path of this machine alone"),
        ({}, "python src/main.py with checkpoint_path=results/../../nets", "checkpoint_path = 'results/../../nets'"),
        ({}, "python 'src", "command = \"python 'src\" in the record's info.json cannot be read"),
        ({}, "python src/main.py '--env-config=/home/me/my env.yaml'", "--env-config = '/home/me/my env.yaml'"),
    ],
)
def test_a_path_of_one_machine_is_not_published(
    tmp_path: Path, changes: dict[str, Any], command: str, said: str
) -> None:
    run, folder = finished(tmp_path)
    change(folder / "config.json", **changes)
    change(folder / "info.json", command=command)
    with pytest.raises(ConfigError) as error:
        publish_run(run, records.record(folder))
    assert [said in problem for problem in error.value.problems] == [True]
    assert not run.published.exists()


def test_the_configuration_stays_the_same_one(tmp_path: Path) -> None:
    run, folder = finished(tmp_path)
    made = records.record(publish_run(run, records.record(folder)))
    assert made.status == records.COMPLETED and made.config["label"] == "M" and made.seconds == 20
    assert identity.differences(made.config, run.config) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    """A published run of another configuration has the same place; the new one goes beside it."""
    run, folder = finished(tmp_path)
    there = sr.write(run.published / RECORD, sr.record(run.config | {"t_max": 7}, sr.tests(1)))
    before = {path: path.read_bytes() for path in there.iterdir()}
    assert publish_run(run, records.record(folder)) == there.with_name("5")
    assert {path: path.read_bytes() for path in there.iterdir()} == before


def test_a_damaged_record_is_not_published(tmp_path: Path) -> None:
    run, folder = finished(tmp_path)
    (folder / "metrics.json").write_text("{")
    with pytest.raises(ConfigError, match="metrics.json cannot be read"):
        publish_run(run, records.record(folder))
    assert not run.published.exists()


def test_a_run_that_no_report_averages_is_not_published(tmp_path: Path) -> None:
    run, folder = finished(tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["test_return_mean"]["values"][2] = float("nan")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ConfigError, match="no finite number; no report averages it"):
        publish_run(run, records.record(folder))
    assert not run.published.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    run, folder = finished(tmp_path)
    run.published.parent.write_text("no folder")
    with pytest.raises(ConfigError, match="the run cannot be written there"):
        publish_run(run, records.record(folder))
