from __future__ import annotations

import json
import shlex
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import sacred_runs as sr

from experiments import records
from reports.runs import JOURNAL, Planned, load_runs
from utils.commands import rebuilt_command
from utils.config import ConfigError, compose
from utils.mongo import without_credentials

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_folder(tmp_path: Path) -> None:
    folder = sr.write(tmp_path / "sacred/qmix/x/1", sr.record(sr.configuration(seed=7), sr.tests(0.8)))
    problems: list[str] = []
    (run,) = load_runs([str(tmp_path)], problems)
    assert problems == [] and run.source == str(folder)
    assert (run.algorithm, run.seed, run.status) == ("qmix", 7, "COMPLETED")
    assert run.task == f"{sr.LBF}, lbforaging 2.0.0" and run.task_name == sr.LBF
    series = run.metrics["test_return_mean"]
    assert series.steps.tolist() == [0, 250, 500, 750, 1000]
    assert np.allclose(series.values, [0, 0.2, 0.4, 0.6, 0.8]) and np.allclose(series.seconds, [0, 2.5, 5, 7.5, 10])
    assert run.host == {"machine": "box", "cpu": "Some CPU", "system": "Linux-6", "python": "3.11.7"}
    assert run.versions["torch"] == "2.13.0" and run.commit == "0123456789abcdef"
    assert (run.started, run.stopped) == ("2026-01-02T03:04:05", "2026-01-02T03:04:25")


def test_simulators_and_versions_are_different_tasks(tmp_path: Path) -> None:
    for number, (env, backend) in enumerate(
        [
            ("smax", "SMAX (jaxmarl 0.2.0)"),
            ("sc2v2", "SMAX (jaxmarl 0.3.0), not StarCraft II"),
            ("sc2v2", "StarCraft II 4.10"),
        ]
    ):
        sr.write(tmp_path / str(number), sr.record(sr.configuration(env=env), sr.tests(1), backend=backend))
    tasks = [run.task for run in load_runs([str(tmp_path)])]
    assert len(set(tasks)) == 3
    assert tasks[0] == "protoss_5_vs_5-SMAX, SMAX (jaxmarl 0.2.0), not StarCraft II"


def test_label_comes_before_name(tmp_path: Path) -> None:
    sr.write(tmp_path / "1", sr.record(sr.configuration(label="MMSA, no model"), sr.tests(1)))
    assert load_runs([str(tmp_path)])[0].algorithm == "MMSA, no model"
    plan = Planned.of(sr.configuration("vdn", seed=3))
    assert (plan.algorithm, plan.task, plan.seed) == ("vdn", sr.LBF, 3)


def test_a_run_of_upstream(tmp_path: Path) -> None:
    """Its default label says nothing, and the record names the host."""
    files = sr.record(sr.configuration("qmix", label="default_label"), sr.tests(1))
    files["info"]["host"] = "upstream EPyMARL cbc38c0 at /home/me/epymarl"
    sr.write(tmp_path / "1", files)
    (run,) = load_runs([str(tmp_path)])
    assert run.algorithm == "qmix" and run.host["program"] == "upstream EPyMARL cbc38c0 at /home/me/epymarl"


def test_a_crashed_run_says_why(tmp_path: Path) -> None:
    sr.write(tmp_path / "1", sr.record(sr.configuration(), {}, status="FAILED", backend=""))
    (run,) = load_runs([str(tmp_path)])
    assert run.status == "FAILED" and run.error == "ValueError: a bad value" and run.metrics == {}
    assert run.task == f"{sr.LBF}, backend not recorded"


@pytest.mark.parametrize(
    ("raise_it", "error"),
    [
        ("raise RuntimeError('simulator crashed')", "RuntimeError: simulator crashed; in environment 0, step 12"),
        ("raise KeyError('x')", "KeyError: 'x'; in environment 0, step 12"),
        ("raise ValueError('two\\nlines')", "ValueError: two; in environment 0, step 12"),
        ("try: 1 / 0\n    except ZeroDivisionError: raise OSError", "OSError; in environment 0, step 12"),
    ],
)
def test_the_error_of_a_run_and_what_was_noted_to_it(tmp_path: Path, raise_it: str, error: str) -> None:
    record = sr.record(sr.configuration(), {}, status="FAILED")
    folder = sr.write(tmp_path / "qmix/1", record)
    try:
        exec(f"def step():\n    {raise_it}\nstep()")
    except Exception as raised:
        raised.add_note("in environment 0, step 12")
        trace = traceback.format_exception(raised)
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"fail_trace": trace}))
    (read,) = load_runs([str(folder)])
    assert read.error == error


def test_each_run_is_read_once(tmp_path: Path) -> None:
    sr.write(tmp_path / "a/1", sr.record(sr.configuration(), sr.tests(1)))
    assert len(load_runs([str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/../a/1")])) == 1


def test_runs_behind_symbolic_links_are_read_once(tmp_path: Path) -> None:
    """As of a folder that was moved to another disk and linked; a link may also lead back up."""
    moved = sr.write(tmp_path / "scratch/qmix/1", sr.record(sr.configuration(), sr.tests(1)))
    runs = tmp_path / "runs"
    sr.write(runs / "vdn/1", sr.record(sr.configuration(name="vdn"), sr.tests(1)))
    (runs / "qmix").symlink_to(moved.parent)
    (runs / "again").symlink_to(moved.parent)
    (runs / "vdn/up").symlink_to(runs)
    assert [run.algorithm for run in load_runs([str(runs)])] == ["qmix", "vdn"]


def test_a_resumed_runs_repeated_steps_count_once(tmp_path: Path) -> None:
    metrics = {"test_return_mean": ([0, 250, 500, 250, 500, 1000], [0, 1, 2, 3, 4, 5])}
    sr.write(tmp_path / "1", sr.record(sr.configuration(), metrics))
    series = load_runs([str(tmp_path)])[0].metrics["test_return_mean"]
    assert series.steps.tolist() == [0, 250, 500, 1000] and series.values.tolist() == [0, 3, 4, 5]


def test_a_pause_is_no_time_of_training(tmp_path: Path) -> None:
    """Points come after 0, 2.5, 5, 7.5 and 10 seconds; the run stood still from 3 to 6 and from 9 on."""

    def at(seconds: float) -> str:
        return (sr.START + timedelta(seconds=seconds)).isoformat()

    notes = [
        {"stopped": at(3), "resumed": at(6)},
        {"stopped": None, "resumed": at(7)},
        {"stopped": at(9), "resumed": at(12)},
    ]
    folder = sr.write(tmp_path / "1", sr.record(sr.configuration(), sr.tests(1), resumed=notes))
    (run,) = load_runs([str(tmp_path)])
    assert run.metrics["test_return_mean"].seconds.tolist() == [0, 2.5, 3, 4.5, 6]
    assert records.record(folder).seconds == 20 - 6


# --- damage ---
@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", '{"status": "COMP', "run.json cannot be read"),
        ("config.json", "[1, 2]", "config.json holds no mapping"),
        ("config.json", None, "config.json is missing"),
        ("config.json", '{"seed": 1}', "no name and no env"),
        ("config.json", '{"name": "x", "env": "y", "env_args": [1]}', "this is no record of a run (AttributeError: "),
        ("run.json", '{"status": "FAILED", "fail_trace": 3}', "this is no record of a run (TypeError: "),
        ("run.json", None, "run.json is missing"),
    ],
)
def test_damaged_folders_are_reported(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    sr.write(tmp_path / "good", sr.record(sr.configuration(), sr.tests(1)))
    bad = sr.write(tmp_path / "bad", sr.record(sr.configuration(), sr.tests(1)))
    (bad / file).unlink() if content is None else (bad / file).write_text(content)
    problems: list[str] = []
    assert [Path(run.source).name for run in load_runs([str(tmp_path)], problems)] == ["good"]
    assert len(problems) == 1 and message in problems[0] and str(bad) in problems[0]
    with pytest.warns(UserWarning, match="left out"):
        load_runs([str(tmp_path)])


def test_a_source_of_damaged_runs_alone_does_not_lose_the_others(tmp_path: Path) -> None:
    good, bad = (sr.write(tmp_path / name, sr.record(sr.configuration(), sr.tests(1))) for name in ("good", "bad"))
    (bad / "run.json").write_text("{")
    problems: list[str] = []
    assert [run.source for run in load_runs([str(bad), str(good)], problems)] == [str(good)]
    assert len(problems) == 1 and "run.json cannot be read" in problems[0] and str(bad) in problems[0]
    with pytest.raises(ConfigError, match="no run is recorded there.*run.json cannot be read"):
        load_runs([str(bad)])


def test_without_metrics_json_the_curves_come_from_info(tmp_path: Path) -> None:
    folder = sr.write(tmp_path / "1", sr.record(sr.configuration(), sr.tests(1)))
    (folder / "metrics.json").write_text("{")
    problems: list[str] = []
    series = load_runs([str(tmp_path)], problems)[0].metrics["test_return_mean"]
    assert series.values[-1] == 1 and np.isnan(series.seconds).all() and "without times" in problems[0]


@pytest.mark.parametrize("line", ["null", "[1]", '{"x": 3}', '{"x": {"steps": [1], "values": [2]}}'])
def test_a_strange_line_of_a_journal_ends_no_report(tmp_path: Path, line: str) -> None:
    folder = sr.write(tmp_path / "1", sr.record(sr.configuration(), sr.tests(1), status="RUNNING"))
    (folder / JOURNAL).write_text(f"{line}\n")
    problems: list[str] = []
    (run,) = load_runs([str(tmp_path)], problems)
    assert run.metrics["test_return_mean"].values[-1] == 1
    (problem,) = problems
    assert f"{JOURNAL} has a line that is none of a run's: {line!r}" in problem and "read from info.json" in problem


def test_a_run_that_ends_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its journal is gone, metrics.json is whole."""
    folder = sr.write(tmp_path / "1", sr.record(sr.configuration(), sr.tests(1)))
    (folder / JOURNAL).touch()
    read = Path.read_text

    def ending(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.name == JOURNAL:
            path.unlink()
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", ending)
    (run,) = load_runs([str(tmp_path)])
    assert np.isfinite(run.metrics["test_return_mean"].seconds).all()


def test_one_damaged_metric_does_not_lose_the_others(tmp_path: Path) -> None:
    files = sr.record(sr.configuration(), sr.tests(1) | {"loss": ([0, 1], [1, 2])})
    files["metrics"]["loss"]["steps"].append(9)
    sr.write(tmp_path / "1", files)
    problems: list[str] = []
    (run,) = load_runs([str(tmp_path)], problems)
    assert "test_return_mean" in run.metrics and "loss" not in run.metrics and "loss is damaged" in problems[0]


def test_a_source_without_runs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as error:
        load_runs([str(tmp_path / "nowhere"), str(tmp_path / "empty")])
    first, second = error.value.problems
    assert "nowhere: there is no such folder" in first and "empty: no run is recorded there" in second
    with pytest.raises(ConfigError, match="no source"):
        load_runs([])


def test_neither_torch_nor_pymongo_is_imported() -> None:
    code = "import sys, reports.report; sys.exit(int('torch' in sys.modules or 'pymongo' in sys.modules))"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT / "src").returncode == 0


# --- commands ---
def test_a_rebuilt_command_makes_the_same_configuration() -> None:
    words = ["env_args.key=" + sr.LBF, "seed=3", "lr=0.001", "td_lambda=0.3", "label=two words", "use_rnn=False"]
    config = compose("qmix", "gymma", words)
    command = shlex.split(rebuilt_command(config))
    assert command[:4] == ["python", "src/main.py", "--config=qmix", "--env-config=gymma"]
    assert sorted(command[5:]) == sorted(words)
    assert compose("qmix", "gymma", command[5:]) == config


def test_a_rebuilt_command_names_what_an_older_run_did(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose("qmix", "matrix")
    monkeypatch.setattr("utils.schema.LATER", {"gamma": 0.5})
    del config["gamma"]
    assert "gamma=0.5" in rebuilt_command(config).split()


def test_a_rebuilt_command_keeps_words_words() -> None:
    config = compose("qmix", "gymma", ["env_args.key=" + sr.LBF, "label='3'"])
    assert compose("qmix", "gymma", shlex.split(rebuilt_command(config))[5:])["label"] == "3"


def test_a_recorded_command_is_taken(tmp_path: Path) -> None:
    sr.write(tmp_path / "1", sr.record(sr.configuration(), sr.tests(1), command="python src/main.py --config=qmix"))
    sr.write(tmp_path / "2", sr.record(sr.configuration("unheard_of"), sr.tests(1)))
    first, second = load_runs([str(tmp_path)])
    assert first.command == "python src/main.py --config=qmix" and not first.command_rebuilt
    assert second.command == "" and not second.command_rebuilt


# --- MongoDB ---
@pytest.fixture
def mongo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """pymongo's client is mongomock's, all of them with one store."""
    pymongo = pytest.importorskip("pymongo", reason="pymongo is not installed: pip install -e '.[mongo]'")
    mongomock = pytest.importorskip("mongomock", reason="mongomock is not installed: pip install -e '.[dev]'")
    from mongomock.gridfs import enable_gridfs_integration

    enable_gridfs_integration()  # Sacred opens GridFS for sources and artifacts
    store = mongomock.store.ServerStore()

    class Client(mongomock.MongoClient):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, _store=store, **kwargs)

    monkeypatch.setattr(pymongo, "MongoClient", Client)
    return Client


def test_runs_that_sacred_wrote_to_mongo(mongo: Any) -> None:
    from sacred import Experiment
    from sacred.observers import MongoObserver

    experiment = Experiment("test", save_git_info=False)
    experiment.add_config(sr.configuration("vdn", seed=4))
    experiment.observers.append(MongoObserver(client=mongo(), db_name="lab"))

    @experiment.main
    def main(_run: Any) -> None:
        _run.info["backend"] = "lbforaging 2.0.0"
        for step, value in ((0, 0.0), (500, 0.25), (1000, 0.5)):
            _run.log_scalar("test_return_mean", value, step)

    experiment.run()
    (run,) = load_runs(["mongodb://user:secret@host:27017/lab?authSource=admin"])
    assert (run.algorithm, run.seed, run.status) == ("vdn", 4, "COMPLETED")
    assert run.task == f"{sr.LBF}, lbforaging 2.0.0" and run.source == "mongodb://host:27017/lab run 1"
    series = run.metrics["test_return_mean"]
    assert series.steps.tolist() == [0, 500, 1000] and series.values.tolist() == [0, 0.25, 0.5]
    assert (series.seconds >= 0).all() and (series.seconds < 60).all()
    assert run.started and run.host["machine"]


def test_an_empty_database_is_an_error(mongo: Any) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        load_runs(["mongodb://user:secret@host/none"])


def test_a_damaged_document_is_reported(mongo: Any) -> None:
    mongo()["lab"]["runs"].insert_many([{"_id": 1, "status": "COMPLETED"}, {"_id": 2, "config": sr.configuration()}])
    problems: list[str] = []
    assert len(load_runs(["mongodb://host/lab"], problems)) == 1
    assert problems == ["mongodb://host/lab run 1: it has no configuration"]


@pytest.mark.parametrize(
    ("password", "shown"),
    [("secret", "host:1/lab"), ("sec%40ret", "host:1/lab"), ("se:cret@x", "host:1/lab"), ("sec/ret", "***")],
)
def test_credentials_are_never_shown(password: str, shown: str) -> None:
    url = f"mongodb://user:{password}@host:1/lab?tlsCertificateKeyFilePassword=secret"
    assert without_credentials(url) == f"mongodb://{shown}"


@pytest.mark.parametrize(
    "url", ["mongodb://user:s3cret@", "mongodb://user:s3cret@[bad/lab", "mongodb://u:s3%cret@h:x/l"]
)
def test_wrong_addresses(url: str) -> None:
    pytest.importorskip("pymongo", reason="pymongo is not installed: pip install -e '.[mongo]'")
    with pytest.raises(ConfigError) as error:
        load_runs([url])
    assert "mongodb://" in str(error.value) and "cret" not in str(error.value) and error.value.__cause__ is None


def test_a_server_that_does_not_answer() -> None:
    pytest.importorskip("pymongo", reason="pymongo is not installed: pip install -e '.[mongo]'")
    with pytest.raises(ConfigError) as error:
        load_runs(["mongodb://user:s3cret@127.0.0.1:1/lab?serverSelectionTimeoutMS=100"])
    assert "127.0.0.1:1/lab: the database cannot be read" in str(error.value) and "s3cret" not in str(error.value)


def test_an_error_that_quotes_the_password_is_not_passed_on(mongo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymongo.errors import OperationFailure

    def fail(self: Any, name: str) -> Any:
        raise OperationFailure("s3cret is wrong")

    monkeypatch.setattr(mongo, "__getitem__", fail)
    with pytest.raises(ConfigError) as error:
        load_runs(["mongodb://user:s3cret@host/lab"])
    assert "OperationFailure" in str(error.value) and "s3cret" not in str(error.value)
    assert error.value.__context__ is None and error.value.__cause__ is None


def test_without_pymongo_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymongo", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[mongo\]'"):
        load_runs(["mongodb://host/lab"])


def test_configurations_are_plain_json(tmp_path: Path) -> None:
    """A pickled object in a record stays text."""
    files = sr.record(sr.configuration(extra={"py/object": "os.system"}), sr.tests(1))
    sr.write(tmp_path / "1", json.loads(json.dumps(files)))
    assert load_runs([str(tmp_path)])[0].config["extra"] == {"py/object": "os.system"}
