"""What a run leaves in files and in MongoDB, through everything that can happen to the server."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sacred.observers import file_storage
from support.mongo_wire import Wire, server
from support.sacred_runs import configuration

from experiments import records
from reports.runs import JOURNAL, load_runs
from utils import mongo, recording
from utils.config import ConfigError
from utils.logging import Logger
from utils.mongo import Column, Snapshot, Store, address, run_uid
from utils.recording import Delivery, Heartbeat, ResumedFolder, RunFolder

START = datetime(2026, 1, 2, 3, 4, 5, 678901)
SECRET = "s3cret%40"
NEXT = {"repositories": [{"commit": "4567", "dirty": True, "url": ""}]}  # the code of a later start


@pytest.fixture
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with server(tmp_path_factory.mktemp("mongod")) as wire:
        yield wire


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "PAUSES", (0.01, 0.05))
    monkeypatch.setattr(recording, "LAST_PATIENCE", 0.2)


@pytest.fixture
def db(wire: Wire, tmp_path: Path) -> Iterator[Any]:
    """An empty database, seen by a way that has no faults; of a name of its own, since MONGO_URL may hold others."""
    import pymongo

    way = Wire(wire.backend)
    with pymongo.MongoClient(way.url, directConnection=True) as client:
        db = client[f"epymarl_test_{datetime.now(UTC):%H%M%S%f}"]
        yield db
        client.drop_database(db.name)
    way.stop()


class Experiment:
    """What Sacred's run does with its observers."""

    def __init__(self, folder: Path, where: str = "", url: str = "", **config: Any) -> None:
        self.files = RunFolder(folder)
        self.observers: list[Any] = [self.files]
        self.log = logging.getLogger("test_recording")
        self.info: dict[str, Any] = {"backend": "lbforaging 2.0.0"}
        self.config = configuration(**config)
        self.pending: dict[str, dict[str, list[Any]]] = {}
        self.t = 0
        if where:
            self.observers.append(Delivery(address(where), self.files, self.log))
        (folder.parent / "source.py").write_text("x = 1\n")
        experiment = {
            "base_dir": str(folder.parent),
            "name": "epymarl-mmsa",
            "sources": [["source.py", ""]],
            "dependencies": ["torch==2.13.0"],
            "repositories": [{"commit": "0123", "dirty": False, "url": url}],
            "mainfile": "source.py",
        }
        for observer in self.observers:
            host = {"hostname": "box", "os": ["Linux", "6"], "python_version": "3.11.7"}
            observer.started_event(experiment, "main", host, START, self.config, {}, None)

    def points(self, n: int, names: tuple[str, ...] = ("loss", "test_return_mean")) -> None:
        """n more points of each metric."""
        for _ in range(n):
            self.t += 1
            for name in names:
                entry = self.pending.setdefault(name, {"steps": [], "values": [], "timestamps": []})
                entry["steps"].append(self.t)
                entry["values"].append(self.t / 8)
                entry["timestamps"].append(START + timedelta(seconds=self.t))
                self.info.setdefault(name, []).append(self.t / 8)
                self.info.setdefault(f"{name}_T", []).append(self.t)

    def beat(self) -> None:
        new, self.pending = self.pending, {}
        for observer in self.observers:
            observer.log_metrics(new, self.info)
            observer.heartbeat_event(self.info, "", START + timedelta(seconds=self.t), None)

    def artifact(self, path: Path) -> None:
        for observer in self.observers:
            observer.artifact_event(path.name, str(path))

    def end(self) -> None:
        self.beat()
        for observer in self.observers:
            observer.completed_event(START + timedelta(seconds=self.t), None)
        for observer in self.observers:
            observer.join()

    @property
    def folder(self) -> Path:
        return self.files.path("")


def check(db: Any, experiment: Experiment, run_id: int = 1) -> dict[str, Any]:
    """The database has what the files have: each point once, in order."""
    files = json.loads((experiment.folder / "metrics.json").read_text())
    documents = list(db["metrics"].find({"run_id": run_id}))
    assert {entry["name"] for entry in documents} == set(files) and len(documents) == len(files)
    for entry in documents:
        assert entry["steps"] == files[entry["name"]]["steps"] == list(range(1, experiment.t + 1))
        assert entry["values"] == files[entry["name"]]["values"]
        times = [datetime.fromisoformat(time) for time in files[entry["name"]]["timestamps"]]
        off = [abs(a - b) for a, b in zip(entry["timestamps"], times, strict=True)]
        assert max(off) < timedelta(milliseconds=1)
    run = db["runs"].find_one({"_id": run_id})
    assert {(one["name"], one["id"]) for one in run["info"]["metrics"]} == {
        (d["name"], str(d["_id"])) for d in documents
    }
    assert run["status"] == json.loads((experiment.folder / "run.json").read_text())["status"]
    return run


# --- files ---
def test_files_have_sacreds_form(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "runs")
    experiment.points(3)
    experiment.beat()
    experiment.points(2)
    experiment.end()
    metrics, info = (json.loads((experiment.folder / f"{name}.json").read_text()) for name in ("metrics", "info"))
    assert metrics["loss"]["steps"] == info["loss_T"] == [1, 2, 3, 4, 5] and info["backend"] == "lbforaging 2.0.0"
    assert (
        metrics["loss"]["values"] == info["loss"] and metrics["loss"]["timestamps"][0] == "2026-01-02T03:04:06.678901"
    )
    assert not (experiment.folder / JOURNAL).exists() and not list(experiment.folder.glob("*.part"))


def test_tokens_of_git_stay_out_of_records_and_databases(tmp_path: Path) -> None:
    token, where = "ghp_0123", "https://github.com/me/mmsa.git"
    experiment = Experiment(tmp_path / "runs", url=f"https://ci-bot:{token}@github.com/me/mmsa.git")
    experiment.points(1)
    experiment.beat()
    kept = json.loads((experiment.folder / "run.json").read_text())
    assert kept["experiment"]["repositories"] == [{"commit": "0123", "dirty": False, "url": where}]
    assert not [path for path in experiment.folder.rglob("*.json") if token in path.read_text()]
    kept["experiment"]["repositories"][0]["url"] = f"https://{token}@github.com/me/mmsa.git"  # as older versions did
    assert mongo.document(kept, {}, {})["experiment"]["repositories"][0]["url"] == where
    (experiment.folder / "run.json").write_text(json.dumps(kept))
    assert resume(experiment, {"loss": 1}).files.run_entry["experiment"]["repositories"][0]["url"] == where
    assert token not in (experiment.folder / "run.json").read_text()
    kept["experiment"]["repositories"][0]["url"] = "git@github.com:me/mmsa.git"  # whose user is everybody's
    assert mongo.without_tokens(kept) == kept


def test_writing_grows_with_the_points_not_with_their_square(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording.RunFolder, "save_cout", lambda self: None)

    def written(beats: int) -> int:
        """Bytes that a run of so many heartbeats writes for its metrics."""
        (tmp_path / str(beats)).mkdir()
        experiment = Experiment(tmp_path / str(beats) / "runs")
        total = 0
        seen: dict[str, tuple[int, int]] = {}
        for _ in range(beats):
            experiment.points(1)
            experiment.beat()
            for name in ("info.json", "metrics.json", JOURNAL):
                path = experiment.folder / name
                now = (path.stat().st_ino, path.stat().st_size) if path.exists() else (0, 0)
                if now != seen.get(name, (0, 0)):
                    total += now[1] - (seen.get(name, (0, 0))[1] if name == JOURNAL else 0)
                    seen[name] = now
        experiment.end()
        return total

    small, large = written(100), written(800)
    assert large < 12 * small  # Sacred's own: 60 times


def test_a_run_that_goes_on_can_be_read_in_full(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "runs")
    for n in (100, 1):
        experiment.points(n)
        experiment.beat()
    assert len(json.loads((experiment.folder / "metrics.json").read_text())["loss"]["steps"]) == 100  # not yet written
    (run,) = load_runs([str(tmp_path / "runs")])
    assert run.metrics["loss"].steps.tolist() == list(range(1, 102)) and run.backend == "lbforaging 2.0.0"
    with (experiment.folder / JOURNAL).open("a") as file:  # killed in the middle of a line
        file.write('{"loss": {"steps": [102], "val')
    (run,) = load_runs([str(tmp_path / "runs")])
    assert len(run.metrics["loss"].steps) == 101
    experiment.end()
    assert len(load_runs([str(tmp_path / "runs")])[0].metrics["loss"].steps) == 101


def test_how_far_a_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the end of its journal, also where that is half a line; by info.json where it says nothing, and at the end."""
    experiment = Experiment(tmp_path / "runs")
    for n, steps in ((100, 100), (1, 101), (30, 131)):
        experiment.points(n)
        experiment.beat()
        assert records.record(experiment.folder).steps == steps
    assert json.loads((experiment.folder / "info.json").read_text())["loss_T"][-1] == 100
    with (experiment.folder / JOURNAL).open("a") as file:
        file.write('{"loss": {"steps": [132], "val')
    assert records.record(experiment.folder).steps == 131
    with monkeypatch.context() as patched:
        patched.setattr(records, "TAIL", 50)
        assert records.record(experiment.folder).steps == 100
    experiment.end()
    assert records.record(experiment.folder).steps == 131


def test_a_new_fact_is_written_at_the_next_heartbeat(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "runs")
    experiment.points(100)
    experiment.beat()
    experiment.info["checkpoint"] = ("a", "tuple")
    experiment.beat()
    path = experiment.folder / "info.json"
    assert "checkpoint" in json.loads(path.read_text())
    before = path.stat().st_ino
    experiment.beat()
    assert path.stat().st_ino == before  # nothing new, nothing written


def test_metrics_wait_while_the_record_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat's thread saves the record; a metric added meanwhile would break the saving."""
    experiment = Experiment(tmp_path / "runs")

    class Run:
        config: dict[str, Any] = {}
        info = experiment.info

        def log_scalar(self, key: str, value: float, t: int) -> None:
            pass

    logger = Logger(experiment.log)
    logger.setup_sacred(Run())
    metric = threading.Thread(target=logger.log_stat, args=("loss", 0.5, 1))
    seen: list[bool] = []

    def save_cout(self: Any) -> None:  # in the middle of the saving
        metric.start()
        metric.join(timeout=0.1)
        seen.append("loss" in experiment.info)

    monkeypatch.setattr(RunFolder, "save_cout", save_cout)
    experiment.beat()
    metric.join()
    assert seen == [False] and experiment.info["loss"] == [0.5]


# --- MongoDB ---
def test_a_run_in_the_database(tmp_path: Path, wire: Wire, db: Any) -> None:
    import gridfs

    experiment = Experiment(tmp_path / "runs", f"{wire.url}/{db.name}", label="a.b")
    experiment.points(3)
    experiment.beat()
    wire.wait(lambda: len((db["metrics"].find_one({"name": "loss"}) or {}).get("steps", [])) == 3)
    picture = experiment.folder / "learning_curve.png"
    picture.write_bytes(b"\x89PNG")
    experiment.artifact(picture)
    experiment.points(2)
    experiment.end()
    run = check(db, experiment)
    assert (
        run["status"] == "COMPLETED" and run["format"].startswith("MongoObserver") and run["config"]["label"] == "a.b"
    )
    assert run["start_time"] == START.replace(microsecond=678000) and run["heartbeat"] > run["start_time"]
    assert run["host"]["hostname"] == "box" and run["experiment"]["dependencies"] == ["torch==2.13.0"]
    assert run["experiment"]["repositories"][0]["commit"] == "0123" and run["info"]["backend"] == "lbforaging 2.0.0"
    assert "loss" not in run["info"] and run["captured_out"] == "" and run["resources"] == []
    files = gridfs.GridFS(db)
    ((name, source),) = run["experiment"]["sources"]
    assert name == "source.py" and files.get(source).read() == b"x = 1\n"
    (artifact,) = run["artifacts"]
    stored = files.get(artifact["file_id"])
    assert artifact["name"] == "learning_curve.png" and stored.read() == b"\x89PNG"
    assert stored.filename == "artifact://runs/1/learning_curve.png"
    assert db["fs.files"].find_one({"_id": artifact["file_id"]})["contentType"] == "image/png"
    (record,) = load_runs([f"{wire.url}/{db.name}"])
    (own,) = load_runs([str(tmp_path / "runs")])
    assert record.metrics["loss"].values.tolist() == own.metrics["loss"].values.tolist() and record.task == own.task


def test_runs_are_numbered_and_share_their_sources(tmp_path: Path, wire: Wire, db: Any) -> None:
    db["runs"].insert_one({"_id": 7, "config": {}})
    experiments = [Experiment(tmp_path / "runs", f"{wire.url}/{db.name}", seed=seed) for seed in (1, 2, 3)]
    for experiment in experiments:
        experiment.points(2)
    for experiment in experiments:
        experiment.end()
    runs = list(db["runs"].find({"run_uid": {"$exists": True}}))
    assert sorted(run["_id"] for run in runs) == [8, 9, 10] and {run["config"]["seed"] for run in runs} == {1, 2, 3}
    assert db["fs.files"].count_documents({}) == 1


@pytest.mark.parametrize("fault", ["stop", "lose_answers", "refusals", "everything"])
def test_twenty_outages_lose_and_double_nothing(
    tmp_path: Path, wire: Wire, db: Any, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    experiment = Experiment(tmp_path / "runs", f"{wire.url}/{db.name}")
    delivery = experiment.observers[1]
    for outage in range(20):
        experiment.points(1 + outage % 3)
        lost, commands = wire.lost, len(wire.commands)
        if fault in ("lose_answers", "everything"):
            wire.lose_answers = 1 + outage % 4
        if fault == "refusals":
            wire.refusals = 1 + outage % 4
        if fault in ("stop", "everything"):
            if fault == "everything":
                experiment.beat()
                wire.wait(lambda lost=lost: wire.lost > lost)
            wire.stop()
            experiment.points(1)
            experiment.beat()
            wait_for(delivery, away=True)
            wire.start()
        experiment.beat()
        wire.wait(lambda commands=commands: len(wire.commands) > commands)
    wire.lose_answers = wire.refusals = 0
    experiment.points(2)
    experiment.end()
    assert check(db, experiment)["status"] == "COMPLETED"
    assert db["runs"].count_documents({}) == 1 and db["fs.files"].count_documents({}) == 1
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 1 and "MongoDB is away" in warned[0].getMessage()
    assert len([record for record in caplog.records if "MongoDB is back" in record.getMessage()]) <= 1


def wait_for(delivery: Delivery, away: bool) -> None:
    """Until the thread has seen the server away (or back)."""
    reached = threading.Event()
    for _ in range(3000):
        if delivery.away == away:
            return
        reached.wait(0.01)
    raise AssertionError(f"away is not {away}")


def test_a_server_that_was_never_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    experiment = Experiment(tmp_path / "runs", f"mongodb://me:{SECRET}@127.0.0.1:1/lab?serverSelectionTimeoutMS=50")
    for _ in range(5):
        experiment.points(2)
        experiment.beat()
    experiment.end()
    assert len(load_runs([str(tmp_path / "runs")])[0].metrics["loss"].steps) == 10
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "MongoDB is away" in said[0] and f"track.py sync {experiment.folder}" in said[1]
    everything = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file()) + "".join(said)
    assert "s3cret" not in everything and "me:" not in everything


def test_pauses_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the shortest one on, and once more from there at the run's end, which is not to wait for a long one."""
    monkeypatch.setattr(recording, "LAST_PATIENCE", 60.0)
    monkeypatch.setattr(recording, "UPLOAD_PATIENCE", 1.0)
    enough = threading.Event()
    seen: list[float | None] = []
    last: list[float | None] = []

    class Pauses(threading.Event):
        def __init__(self, waits: list[float | None]) -> None:
            super().__init__()
            self.waits = waits

        def wait(self, timeout: float | None = None) -> bool:
            self.waits.append(timeout)
            if len(seen) == 5:
                enough.set()
            return super().wait(0.001)

    def started(self: Delivery, *args: Any, **kwargs: Any) -> None:
        self.ending, self.given_up = Pauses(seen), Pauses(last)
        begin(self, *args, **kwargs)

    begin = Delivery.started_event
    monkeypatch.setattr(Delivery, "started_event", started)
    experiment = Experiment(tmp_path / "runs", "mongodb://127.0.0.1:1/lab?serverSelectionTimeoutMS=10")
    assert enough.wait(60)
    experiment.end()
    assert seen[:5] == [0.01, 0.02, 0.04, 0.05, 0.05] and last[0] == 0.01


def test_heartbeats_do_not_overlap() -> None:
    """Else points could be in the journal in another order."""
    inside, most = [0], [0]

    def emit() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        inside[0] -= 1

    heartbeat = Heartbeat(SimpleNamespace(_emit_heartbeat=emit))
    threads = [threading.Thread(target=heartbeat.beat) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_an_empty_file_has_chunks_of_a_size(tmp_path: Path, wire: Wire, db: Any) -> None:
    """GridFS knows no chunks of 0 bytes."""
    (tmp_path / "empty.log").touch()
    artifacts = [("empty.log", tmp_path / "empty.log")]
    Store(db.client, db.name).save(Snapshot("uid", {"status": "RUNNING"}, {}, artifacts=artifacts))
    assert db["fs.files"].find_one()["chunkSize"] == 1


def test_a_wrong_password(tmp_path: Path, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    where = f"mongodb://me:{SECRET}@127.0.0.1:{wire.port}/lab"
    experiment = Experiment(tmp_path / "runs", where)
    experiment.points(1)
    experiment.end()
    assert "code 18" in caplog.text and "s3cret" not in caplog.text


def test_training_does_not_wait_for_a_slow_server(tmp_path: Path, wire: Wire, db: Any) -> None:
    """While one command is held back, heartbeats and metrics go on; stopping the server lets go of it."""
    experiment = Experiment(tmp_path / "runs", f"{wire.url}/{db.name}?socketTimeoutMS=600000")
    wire.wait(lambda: "update" in wire.commands)
    wire.delay = 3600.0
    before = len(wire.commands)
    for _ in range(50):
        experiment.points(1)
        experiment.beat()
    assert len(wire.commands) == before
    wire.delay = 0.0
    wire.stop()
    wire.start()
    experiment.end()
    check(db, experiment)


def delivered(folder: Path, wire: Wire, db: Any) -> Experiment:
    """A run whose first points have reached the database."""
    experiment = Experiment(folder, f"{wire.url}/{db.name}")
    experiment.points(5)
    experiment.beat()
    wire.wait(lambda: wire.commands.count("update") >= 2)
    return experiment


def test_a_server_that_comes_back_without_its_last_writes(tmp_path: Path, wire: Wire, db: Any) -> None:
    experiment = delivered(tmp_path / "runs", wire, db)
    db["metrics"].update_many({}, {"$pop": {"steps": 1, "values": 1, "timestamps": 1}})
    db["metrics"].delete_one({"name": "loss"})
    experiment.points(1)
    experiment.end()
    check(db, experiment)


def test_a_database_that_was_emptied(tmp_path: Path, wire: Wire, db: Any) -> None:
    experiment = delivered(tmp_path / "runs", wire, db)
    for name in ("runs", "metrics", "fs.files", "fs.chunks"):
        db[name].delete_many({})
    experiment.points(1)
    experiment.end()
    check(db, experiment)
    assert db["fs.files"].count_documents({}) == 1


def test_a_file_is_one_piece_and_written_again_where_it_was_cut_off(tmp_path: Path, wire: Wire, db: Any) -> None:
    """Omniboard hands out the first piece alone. A write that was cut off leaves pieces and no entry."""
    import gridfs

    path = tmp_path / "checkpoint.zip"
    path.write_bytes(bytes(range(256)) * 2000)  # twice as long as a usual piece
    run = {"uid": "uid", "document": {"status": "RUNNING"}, "metrics": {}, "artifacts": [(path.name, path)]}
    for _ in range(2):
        Store(db.client, db.name).save(Snapshot(**run))
        (artifact,) = db["runs"].find_one()["artifacts"]
        assert gridfs.GridFS(db).get(artifact["file_id"]).read() == path.read_bytes()
        assert db["fs.chunks"].count_documents({}) == 1
        db["fs.files"].delete_many({})
    Store(db.client, db.name).remove(1)
    assert all(db[name].count_documents({}) == 0 for name in ("fs.chunks", "fs.files", "runs"))


def test_a_run_that_went_on_from_earlier_takes_back_what_it_did_again(wire: Wire, db: Any) -> None:
    """It was uploaded, killed, went on from its checkpoint without a database, and was uploaded again."""

    def run(second_start: int, end: dict[str, Any], **later: list[int]) -> Snapshot:
        """At ten steps a second; second_start: when it went on from step 20, 0: it did not."""
        notes = {"resumed": [{"resumed": str(START)}]} if second_start else {}
        metrics = {}
        for name, steps in later.items():
            times = [START + timedelta(seconds=t / 10 + (second_start if t > 20 else 0)) for t in steps]
            metrics[name] = Column(steps, [t + second_start for t in steps], times)
        beat = START + timedelta(seconds=second_start)
        return Snapshot("uid", {"status": "RUNNING", "info": notes, "heartbeat": beat} | end, metrics)

    crash = {"status": "FAILED", "stop_time": START, "fail_trace": ["ValueError"]}
    first = run(0, crash, loss=[10, 20, 30, 40], late=[30])
    second = run(100, {}, loss=[10, 20, 31], late=[31, 41])
    third = run(100, {"status": "COMPLETED", "stop_time": START}, loss=[10, 20, 31, 41], late=[31, 41])
    for snapshot, loss, new in ((first, [10, 20, 30, 40], 5), (second, [10, 20, 31], 3), (third, [10, 20, 31, 41], 1)):
        assert Store(db.client, db.name).save(snapshot) == new
        assert Store(db.client, db.name).save(snapshot) == 0
        entry = db["metrics"].find_one({"name": "loss"})
        assert entry["steps"] == loss and len(entry["values"]) == len(entry["timestamps"]) == len(loss)
        document = db["runs"].find_one()
        assert ("fail_trace" in document, "stop_time" in document) == (snapshot is first, snapshot is not second)
    assert db["metrics"].find_one({"name": "late"})["steps"] == [31, 41]
    Store(db.client, db.name).save(first)  # read before it went on
    assert db["metrics"].find_one({"name": "loss"})["steps"] == [10, 20, 31, 41]


def test_a_damaged_time_says_nothing_about_what_was_done_again(wire: Wire, db: Any) -> None:
    """parse_time leaves what is none as it is."""
    for notes in ([], [{"resumed": str(START)}]):
        loss = Column([10, 20], [0.5, 0.6], ["damaged", START])  # type: ignore[list-item]
        Store(db.client, db.name).save(
            Snapshot("uid", {"status": "RUNNING", "info": {"resumed": notes}}, {"loss": loss})
        )
    assert db["metrics"].find_one({"name": "loss"})["steps"] == [10, 20]


def test_a_deleted_run_leaves_no_earlier_version_of_a_file(tmp_path: Path, wire: Wire, db: Any) -> None:
    path = tmp_path / "learning_curve.png"
    for content in (b"early", b"late"):
        path.write_bytes(content)
        Store(db.client, db.name).save(Snapshot("uid", {"status": "RUNNING"}, {}, artifacts=[(path.name, path)]))
    assert db["fs.files"].count_documents({}) == 2
    Store(db.client, db.name).remove(1)
    assert all(db[name].count_documents({}) == 0 for name in ("fs.chunks", "fs.files", "runs"))


def test_two_writers_of_one_run_double_nothing(wire: Wire, db: Any) -> None:
    """`track.py sync` beside a run that goes on: what one of them knows of the database is out of date."""
    run = Snapshot("uid", {"status": "RUNNING"}, {"loss": Column([], [], [])})
    stores = [Store(db.client, db.name) for _ in range(2)]
    for t in range(6):
        for values in run.metrics["loss"]:
            values.append(START if values is run.metrics["loss"].timestamps else t)  # type: ignore[arg-type]
        stores[t % 3 == 0].save(run)
        stores[t % 2].save(run)
    (entry,) = db["metrics"].find()
    assert entry["steps"] == entry["values"] == [0, 1, 2, 3, 4, 5] and len(entry["timestamps"]) == 6


@pytest.mark.parametrize("ended", [False, True])
def test_what_a_slow_sync_has_read_sets_no_run_back(wire: Wire, db: Any, ended: bool) -> None:
    """The run goes on, or ends, between the reading of its files and the last write of `track.py sync`."""
    old = Snapshot("uid", {"status": "RUNNING", "heartbeat": START}, {"loss": Column([1], [0.5], [START])})
    later: dict[str, Any] = {"status": "COMPLETED", "heartbeat": START, "stop_time": START}
    if not ended:
        later = {"status": "RUNNING", "heartbeat": START + timedelta(seconds=10)}
    new = Snapshot("uid", later, {"loss": Column([1, 2], [0.5, 0.6], [START, START])})
    for run in (old, new, old):
        Store(db.client, db.name).save(run)
    (entry,) = db["runs"].find()
    assert entry["status"] == later["status"] and later["heartbeat"] - entry["heartbeat"] < timedelta(milliseconds=1)
    assert db["metrics"].find_one()["steps"] == [1, 2]


@pytest.mark.parametrize("starts", [0, 1])
def test_a_copy_from_before_a_run_went_on_sets_it_back_by_nothing(wire: Wire, db: Any, starts: int) -> None:
    """Its results were copied when it was interrupted; then it went on, and ended, by a clock that is late."""
    note = {"step": 1, "stopped": "2026-01-02T03:04:05", "resumed": "2026-01-02T03:05:05"}
    info = {"resumed": [note] * starts} if starts else {}
    stopped = {"status": "INTERRUPTED", "heartbeat": START, "stop_time": START, "info": info}
    earlier = START - timedelta(seconds=10)
    ended = {
        "status": "COMPLETED",
        "heartbeat": earlier,
        "stop_time": earlier,
        "info": {"resumed": [note] * (starts + 1)},
    }
    for document in (stopped, ended, stopped):
        Store(db.client, db.name).save(Snapshot("uid", document, {}))
    (entry,) = db["runs"].find()
    assert entry["status"] == "COMPLETED" and len(entry["info"]["resumed"]) == starts + 1
    assert START - entry["stop_time"] > timedelta(seconds=9)


# --- a full disk, and a run that goes on ---
def test_on_a_full_disk_the_run_goes_on_and_nothing_is_missing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording.LOG, "propagate", True)
    experiment = Experiment(tmp_path / "runs")
    experiment.points(100)
    experiment.beat()
    experiment.files.sync()
    real, full = Path.open, [True]

    def open_(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if full[0] and "r" not in mode and self.parent == experiment.folder:
            if "a" in mode:
                with real(self, mode) as file:
                    file.write('{"loss": {"ste')  # as much as there was room for
            raise OSError(28, "No space left on device")
        return real(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_)
    for _ in range(3):
        experiment.points(1)
        experiment.beat()
        with pytest.raises(OSError, match="No space left"):
            experiment.files.sync()
    said = {id(record): record.getMessage() for record in caplog.records}  # two handlers may note the same record
    (warning,) = (message for message in said.values() if "No space left" in message)
    assert "the run goes on" in warning
    full[0] = False
    experiment.points(1)
    experiment.beat()
    experiment.files.sync()
    assert experiment.files.problem is None
    (run,) = load_runs([str(tmp_path / "runs")])
    assert run.metrics["loss"].steps.tolist() == list(range(1, 105))
    full[0] = True
    experiment.points(1)
    experiment.end()  # is no error, and leaves what there was
    assert experiment.files.problem is not None and (experiment.folder / JOURNAL).exists()


def test_a_disk_that_is_full_at_the_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above all no empty copy of a source, which the next run would take for its own."""

    def full(source: Any, target: Any) -> None:
        Path(target).touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        for module in (shutil, file_storage):
            patch.setattr(module, "copyfile", full)
        with pytest.raises(ConfigError, match="local_results_path: .*runs: No space left on device"):
            Experiment(tmp_path / "runs")
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file() or path.name.isdecimal()] == []
    source = Experiment(tmp_path / "runs").files.run_entry["experiment"]["sources"][0][1]
    (tmp_path / "runs" / source).write_text("")  # as older versions left it
    Experiment(tmp_path / "runs")
    assert (tmp_path / "runs" / source).read_text() == "x = 1\n"


def resume(experiment: Experiment, points: dict[str, int], where: str = "", changed: bool = False) -> Experiment:
    """The run of this folder goes on from where its metrics had so many points."""
    again = Experiment.__new__(Experiment)
    vars(again).update(vars(experiment), t=max(points.values()), pending={})
    again.files = ResumedFolder(experiment.folder, points, changed)
    again.info = again.files.info_until_then(again.t)
    again.observers = [again.files]
    if where:
        again.observers.append(Delivery(address(where), again.files, again.log))
    for observer in again.observers:
        observer.started_event(NEXT, "main", {"cpu": "New CPU"}, START + timedelta(days=1), again.config, {}, None)
    return again


def test_a_disk_that_is_full_when_a_run_goes_on_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(tmp_path / "runs")
    experiment.points(4)
    experiment.end()
    before = {path: path.read_bytes() for path in experiment.folder.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording.os, "replace", full)
    with pytest.raises(ConfigError, match="local_results_path: .*No space left on device"):
        resume(experiment, {"loss": 2})
    assert {path: path.read_bytes() for path in before} == before


def test_a_resumed_record_has_each_point_once(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "runs")
    experiment.points(3)
    experiment.points(4, ("loss",))  # beyond the checkpoint, as far as the journal has it
    experiment.beat()
    experiment.points(1, ("late",))
    experiment.beat()
    again = resume(experiment, {"loss": 3, "test_return_mean": 3})
    assert again.files.missing == 0 and set(again.info) >= {"loss", "loss_T", "backend", "resumed"}
    assert again.info["loss_T"] == [1, 2, 3] and again.info["resumed"][0]["step"] == 3
    (run,) = load_runs([str(tmp_path / "runs")])
    assert run.status == "RUNNING" and run.metrics["loss"].steps.tolist() == [1, 2, 3] and "late" not in run.metrics
    again.points(2)
    again.end()
    record = json.loads((again.folder / "run.json").read_text())
    assert record["start_time"] == START.isoformat() and record["experiment"]["name"] == "epymarl-mmsa"
    metrics, info = (json.loads((again.folder / f"{name}.json").read_text()) for name in ("metrics", "info"))
    assert metrics["loss"]["steps"] == info["loss_T"] == [1, 2, 3, 4, 5] and metrics["loss"]["values"] == info["loss"]
    assert record["experiment"]["repositories"][0]["commit"] == "0123" and record["host"]["hostname"] == "box"
    lost = ResumedFolder(again.folder, {"loss": 7, "test_return_mean": 5}, False)
    assert lost.missing == lost.note["missing"] == 2 and "missing" not in again.files.note


def test_a_resumed_record_names_the_code_and_the_machine_of_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording.LOG, "propagate", True)
    experiment = Experiment(tmp_path / "runs")
    experiment.points(3)
    experiment.beat()
    again = resume(experiment, {"loss": 3, "test_return_mean": 3})
    assert "began at commit 0123 and goes on at 4567, changed" in caplog.text
    entry = json.loads((again.folder / "run.json").read_text())
    assert entry["heartbeat"] == (START + timedelta(seconds=3)).isoformat()  # a kill may come before the next one
    again.beat()
    note = json.loads((again.folder / "info.json").read_text())["resumed"][0]
    assert {"commit": "4567", "dirty": True, "cpu": "New CPU", "stopped": entry["heartbeat"]}.items() <= note.items()
    (run,) = load_runs([str(tmp_path / "runs")])
    assert run.commits == ("0123", "4567, changed") and run.resumed[0].cpu == "New CPU"
    caplog.clear()
    monkeypatch.setitem(NEXT, "repositories", [{"commit": "0123", "dirty": False}])
    resume(experiment, {"loss": 3, "test_return_mean": 3})
    assert "commit" not in caplog.text


@pytest.mark.parametrize("changed", [False, True])
def test_a_resumed_run_is_the_same_one_in_the_database(tmp_path: Path, wire: Wire, db: Any, changed: bool) -> None:
    where = f"{wire.url}/{db.name}"
    experiment = Experiment(tmp_path / "runs", where)
    experiment.points(6)
    experiment.points(1, ("late",))
    experiment.beat()
    for observer in experiment.observers:
        observer.failed_event(START, ["it broke"])
    for observer in experiment.observers:
        observer.join()
    assert db["runs"].find_one({})["status"] == "FAILED"
    if changed:
        experiment.config = {**experiment.config, "t_max": 5000}
    again = resume(experiment, {"loss": 4, "test_return_mean": 4}, where, changed)
    again.points(3)
    again.end()
    run = check(db, again)
    assert db["runs"].count_documents({}) == 1 and "fail_trace" not in run and run["status"] == "COMPLETED"
    assert run["config"]["t_max"] == (5000 if changed else 1000) and run["info"]["resumed"][0]["step"] == 4
    if changed:  # a later upload finds it, too
        config, entry = (json.loads((again.folder / f"{name}.json").read_text()) for name in ("config", "run"))
        assert run_uid(entry, config) == run["run_uid"]
