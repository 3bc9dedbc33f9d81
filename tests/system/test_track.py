"""Runs in MongoDB from the command line: main.py --mongo, and track.py."""

from __future__ import annotations

import errno
import json
import math
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import support.sacred_runs as sr
from support.mongo_wire import StandIn, Wire

import main
import track
from reports import grouping, scores
from reports.runs import load_runs
from utils import recording
from utils.checkpoints import CheckpointError, Checkpoints

RUN = ["--config=vdn", "--env-config=lbf"]


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire(StandIn())
    yield wire
    wire.stop()


@pytest.fixture
def db(wire: Wire) -> Any:
    return wire.backend.client["sacred"]  # type: ignore[attr-defined]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs in results/sacred; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SACRED_MONGO_URL", raising=False)
    folder = tmp_path / "results/sacred"
    sr.write(folder / "qmix/1", sr.record(sr.configuration("qmix", 1), sr.tests(0.2)))
    sr.write(folder / "qmix/2", sr.record(sr.configuration("qmix", 2, label="tuned"), sr.tests(0.8)))
    sr.write(folder / "vdn/1", sr.record(sr.configuration("vdn", 1), sr.tests(0.5), status="FAILED", backend=""))
    return tmp_path


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


# --- main.py ---
def logged(_run: Any, config: dict[str, Any], log: Any, **_: Any) -> None:
    from utils.logging import Logger

    logger = Logger(log)
    logger.setup_sacred(_run)
    for t in (10, 20):
        logger.log_stat("test_return_mean", t / 100, t)
    folder = Path("results/models/x/20")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "agent.th").write_bytes(b"weights")
    logger.record(checkpoint=str(folder))


@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_run_goes_to_both(tree: Path, wire: Wire, db: Any, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setitem(sys.modules, "run", SimpleNamespace(run=logged))  # type: ignore[arg-type]
    monkeypatch.setenv("SACRED_MONGO_URL", wire.url if way == "variable" else "")
    words = ["with", "seed=1", "save_model=True", "record_checkpoint=True"]
    assert main.main([*RUN, *(["--mongo", wire.url] if way == "option" else []), *words]) == 0
    run = db["runs"].find_one({"_id": 1})
    assert run["status"] == "COMPLETED" and run["config"]["seed"] == 1 and run["experiment"]["sources"]
    assert [one["name"] for one in run["artifacts"]] == ["learning_curve.png", "checkpoint.zip"]
    assert db["metrics"].find_one({"run_id": 1, "name": "test_return_mean"})["steps"] == [10, 20]
    text = json.dumps(run, default=str) + "".join(p.read_text() for p in tree.glob("results/**/*.json"))
    assert str(wire.port) not in text  # nothing of the address is recorded
    (folder,) = tree.glob("results/sacred/vdn/*/1")
    assert (folder / "checkpoint.zip").exists() and (folder / "learning_curve.png").exists()


def test_a_bare_option_means_this_machine(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(main, "train", lambda config, files, mongo: seen.append(mongo.shown) or 0)
    for words in (["--mongo", "with", "seed=1"], ["--mongo"], ["--mongo=mongodb://a/b"]):
        assert main.main([*RUN, *words]) == 0
    assert seen == ["mongodb://127.0.0.1:27017/sacred"] * 2 + ["mongodb://a/b"]


@pytest.mark.parametrize(
    "words",
    [
        ["--mongo", "me:s3cret@host"],
        ["--mongo=mongodb://me:s3cret@host:x/lab"],
        ["--mango=mongodb://me:s3cret@host/lab"],
        ["mongodb://me:s3cret@host/lab"],
        ["--mongo=mongodb://host", "with", "label=x", "x=mongodb://me:s3cret@host/lab"],
    ],
)
def test_no_message_quotes_the_password(tree: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main.main([*RUN, *words]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and "s3cret" not in output.err + output.out
    assert {path.name for path in tree.iterdir()} == {"config"}


def test_without_a_server_the_run_succeeds(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recording, "LAST_PATIENCE", 0.0)
    monkeypatch.setitem(sys.modules, "run", SimpleNamespace(run=logged))  # type: ignore[arg-type]
    url = "mongodb://me:s3cret@127.0.0.1:1/lab?serverSelectionTimeoutMS=50"
    assert main.main([*RUN, f"--mongo={url}"]) == 0
    output = capsys.readouterr()
    assert output.err.count("MongoDB is away") == 1 and "track.py sync" in output.err and "s3cret" not in output.err
    (path,) = tree.glob("results/sacred/vdn/*/1/metrics.json")
    assert json.loads(path.read_text())["test_return_mean"]["steps"] == [10, 20]
    texts = [p.read_bytes() for p in tree.rglob("*") if p.is_file()]
    assert not any(b"s3cret" in text for text in texts)


def test_nobody_finds_the_password_in_the_words_of_the_command(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B records sys.argv with the run, and sends it."""
    seen: list[str] = []
    monkeypatch.setattr(main, "train", lambda *args: seen.extend(sys.argv) or 0)
    monkeypatch.setattr(sys, "argv", ["main.py", *RUN, "--mongo", "mongodb://me:s3cret@host/lab", "with", "seed=1"])
    assert main.main() == 0
    assert seen == ["main.py", *RUN, "--mongo", "mongodb://host/lab", "with", "seed=1"]


# --- track.py ---
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], 3),
        (["--algorithm", "QMIX"], 2),
        (["--algorithm", "tuned"], 1),
        (["--seed", "1"], 2),
        (["--status", "completed"], 2),
        (["--backend", "lbforaging"], 2),
        (["--tag", "tun"], 1),
        (["--task", "foraging", "--seed", "2"], 1),
        (["results/sacred/vdn"], 1),
    ],
)
@pytest.mark.parametrize("source", ["files", "database"])
def test_ls(
    runs: Path, wire: Wire, capsys: pytest.CaptureFixture[str], words: list[str], found: int, source: str
) -> None:
    if source == "database":
        assert track.main(["sync", "results/sacred", "--mongo", wire.url]) == 0
        words = [wire.url, *words] if not words or words[0].startswith("-") else [*words]
        capsys.readouterr()
    assert track.main(["ls", *words]) == 0
    head, *rows = lines(capsys)
    assert "tests: mean of the last tenth" in head and len(rows) == found


def test_a_run_that_was_killed_is_told_from_one_that_goes_on(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sacred's status of both is RUNNING."""
    killed, alive, _ = sorted(runs.rglob("run.json"))
    now = datetime.now(UTC).replace(tzinfo=None)
    for path, sign in ((killed, now - timedelta(hours=3)), (alive, now - timedelta(seconds=20))):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "RUNNING", "heartbeat": sign.isoformat()}))
    assert track.main(["ls", "--status", "running"]) == 0
    _, *rows = lines(capsys)
    silent = f"RUNNING, silent since {now - timedelta(hours=3):%Y-%m-%dT%H:%M:%S} "
    assert [row.startswith(silent) for row in rows] == [True, False] and rows[1].startswith("RUNNING  ")
    assert track.main(["best"]) == 0 and silent in capsys.readouterr().out


def test_ls_of_several_sources_leaves_a_damaged_one_out(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "results/sacred/vdn/1/config.json").write_text("{")
    assert track.main(["ls", "results/sacred/qmix", "results/sacred/vdn"]) == 0
    output = capsys.readouterr()
    assert output.out.count("results/sacred/qmix/") == 2 and "left out: results/sacred/vdn/1" in output.err


def test_ls_of_single_runs_of_a_database(runs: Path, wire: Wire, db: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert track.main(["sync", "results/sacred", "--mongo", wire.url]) == 0
    assert track.main(["ls", f"{wire.url}/sacred#1", f"{wire.url}/sacred#3", "results/sacred/qmix/2"]) == 0
    listed = capsys.readouterr().out
    assert [f"run {number}\n" in listed for number in (1, 2, 3)] == [True, False, True]
    assert "results/sacred/qmix/2\n" in listed
    assert track.main(["ls", f"{wire.url}/sacred#1", wire.url]) == 0
    assert f"{wire.url}/sacred run 2\n" in capsys.readouterr().out


def test_ls_sends_no_terminal_what_it_would_obey(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sr.write(runs / "results/sacred/iql/1", sr.record(sr.configuration("iql", label="a\x1b[31mRÉD"), sr.tests(0.1)))
    assert track.main(["ls", "results/sacred/iql"]) == 0
    out = capsys.readouterr().out
    assert r"a\x1b[31mRÉD" in out and "\x1b" not in out


def test_ls_of_nothing(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert track.main(["ls", "--seed", "9"]) == 2
    assert capsys.readouterr().err.strip().endswith("none of 3 runs is as wanted")
    assert track.main(["ls", "--status", "complted"]) == 2
    said = "none of 3 runs is as wanted; their status is COMPLETED or FAILED; did you mean COMPLETED?"
    assert said in capsys.readouterr().err


def test_show(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert track.main(["show", "results/sacred/vdn/1"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("FAILED", "a bad value", "test_return_mean", "lr: 0.0005", "0123456789abcdef"))


def test_show_of_a_seed_that_a_database_has_in_its_own_form(
    tmp_path: Path, wire: Wire, capsys: pytest.CaptureFixture[str]
) -> None:
    """BSON's class of whole numbers from 2**31 is none of YAML's."""
    sr.write(tmp_path / "qmix/1", sr.record(sr.configuration(seed=3_000_000_000), sr.tests(0.2)))
    assert track.main(["sync", str(tmp_path), "--mongo", wire.url]) == 0
    assert track.main(["show", f"{wire.url}/sacred#1"]) == 0
    assert "\nseed: 3000000000\n" in capsys.readouterr().out


def test_best_is_in_order(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert track.main(["best", "results/sacred/qmix", "-n", "1"]) == 0
    head, first = lines(capsys)
    assert "test_return_mean, mean of the last tenth" in head and "seed 2" in first and "tuned" in first
    assert track.main(["best", "--metric", "test_retrun_mean"]) == 2
    said = "none of these runs has test_retrun_mean; did you mean test_return_mean?\n"
    assert capsys.readouterr().err.endswith(said)


def test_best_knows_another_task_of_the_same_name(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masked = sr.configuration("qmix", 1, env_args={"key": sr.LBF, "action_masks": True})
    sr.write(runs / "results/sacred/qmix/3", sr.record(masked, sr.tests(0.9)))
    assert track.main(["best", "results/sacred/qmix", "-n", "1"]) == 0
    plain, best, other, _ = lines(capsys)
    assert plain.startswith(f"{sr.LBF}, lbforaging 2.0.0: ") and "tuned" in best
    assert other.startswith(f"{sr.LBF}, lbforaging 2.0.0 env_args.action_masks=true: ")


def test_a_run_that_diverged_is_not_the_best(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sr.write(runs / "results/sacred/iql/1", sr.record(sr.configuration("iql", 1), sr.tests(math.nan)))
    assert track.main(["best", "results/sacred/iql", "results/sacred/qmix"]) == 0
    assert [line.split()[1] for line in lines(capsys)[1:]] == ["tuned", "qmix", "iql"]


def test_a_test_of_a_checkpoint_is_not_the_best(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sr.write(runs / "results/sacred/qmix/3", sr.record(sr.configuration("qmix", 3, evaluate=True), sr.tests(0.9)))
    assert track.main(["best", "results/sacred/qmix"]) == 0
    output = capsys.readouterr()
    assert [line.split()[1] for line in output.out.splitlines()[1:]] == ["tuned", "qmix"]
    assert "qmix/3: it tests a checkpoint" in output.err


def test_the_score_is_the_report_s(runs: Path) -> None:
    """Tests at uneven steps: the last tenth is one of steps."""
    steps = (0, 250, 500, 750, *range(800, 1001, 10))
    sr.write(runs / "uneven/1", sr.record(sr.configuration("qmix", 1), sr.tests(1.0, steps)))
    loaded = load_runs(["uneven"])
    (task,) = grouping.group(loaded).tasks
    assert track.score(loaded[0]) == ("test_return_mean", pytest.approx(scores.score_task(task).scores[0].final.value))


@pytest.mark.parametrize(("answer", "left"), [("yes", 1), ("y", 3), ("", 3)])
def test_rm_asks(runs: Path, monkeypatch: pytest.MonkeyPatch, answer: str, left: int) -> None:
    monkeypatch.setattr("builtins.input", lambda text: answer)
    assert track.main(["rm", "results/sacred", "--algorithm", "qmix"]) == (0 if left == 1 else 1)
    assert len(list(runs.rglob("run.json"))) == left


def test_rm_without_a_terminal_deletes_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(text: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    assert track.main(["rm", "results/sacred"]) == 1 and len(list(runs.rglob("run.json"))) == 3


def test_rm_leaves_a_run_that_goes_on(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    going = Checkpoints(runs / "results/sacred/vdn/1/checkpoints")
    going.lock()
    assert track.main(["rm", "results/sacred", "--yes"]) == 2
    assert "results/sacred/vdn/1: another process has this run" in capsys.readouterr().err
    assert len(list(runs.rglob("run.json"))) == 3
    going.unlock()
    assert track.main(["rm", "results/sacred", "--yes"]) == 0 and not list(runs.rglob("run.json"))


@pytest.mark.parametrize(("number", "left"), [(errno.ENOLCK, 0), (errno.EACCES, 3)])
def test_rm_where_no_lock_can_be_taken(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, left: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no lock")

    (runs / "results/sacred/vdn/1/checkpoints").mkdir()
    monkeypatch.setattr(Checkpoints, "lock", refuse)
    assert track.main(["rm", "results/sacred", "--yes"]) == (2 if left else 0)
    assert len(list(runs.rglob("run.json"))) == left
    assert ("whether a process has this run cannot be told" in capsys.readouterr().err) == bool(left)


def test_nobody_resumes_a_run_while_rm_deletes_it(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs / "results/sacred/vdn/1/checkpoints").mkdir()
    delete, held = shutil.rmtree, []

    def deletes(folder: Path) -> None:
        with pytest.raises(CheckpointError, match="another process has this run"):
            Checkpoints(folder / "checkpoints").lock()
        held.append(folder)
        delete(folder)

    monkeypatch.setattr("shutil.rmtree", deletes)
    assert track.main(["rm", "results/sacred/vdn", "--yes"]) == 0
    assert len(held) == 1 and len(list(runs.rglob("run.json"))) == 2


def test_rm_says_what_it_could_not_delete(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "link").symlink_to("results/sacred/qmix/1")
    assert track.main(["rm", "results/sacred/vdn", "link", "--yes"]) == 2
    said = capsys.readouterr().err
    assert "error: link cannot be deleted: " in said and "1 of these 2 runs were deleted before it" in said
    assert len(list((runs / "results").rglob("run.json"))) == 2


def test_rm_in_a_database(runs: Path, wire: Wire, db: Any) -> None:
    assert track.main(["sync", "results/sacred", "--mongo", wire.url]) == 0
    assert track.main(["rm", f"{wire.url}/sacred#2", "--yes"]) == 0
    assert sorted(run["_id"] for run in db["runs"].find()) == [1, 3]
    assert {entry["run_id"] for entry in db["metrics"].find()} == {1, 3}
    assert len(list(runs.rglob("run.json"))) == 3


def test_sync_twice_doubles_nothing(runs: Path, wire: Wire, db: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for new in (10, 0):
        assert track.main(["sync", "results/sacred", "--mongo", wire.url]) == 0
        assert all(line.endswith(f"{new} new points") for line in lines(capsys))
    assert db["runs"].count_documents({}) == 3 and db["metrics"].count_documents({}) == 6
    failed = db["runs"].find_one({"status": "FAILED"})
    assert failed["fail_trace"][-1] == "ValueError: a bad value\n" and failed["start_time"] == sr.START


def test_sync_of_a_delivered_run_changes_nothing(
    tree: Path, wire: Wire, db: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "run", SimpleNamespace(run=logged))  # type: ignore[arg-type]
    assert main.main([*RUN, "--mongo", wire.url, "with", "seed=1"]) == 0
    before = [list(db[name].find()) for name in ("runs", "metrics", "fs.files")]
    capsys.readouterr()
    assert track.main(["sync", "results/sacred", "--mongo", wire.url]) == 0
    assert lines(capsys)[0].endswith("run 1, 0 new points")
    assert [list(db[name].find()) for name in ("runs", "metrics", "fs.files")] == before


@pytest.mark.parametrize("file", ["info.json", "metrics.json"])
@pytest.mark.parametrize("damage", ["cut off", "missing"])
def test_sync_of_a_damaged_record(runs: Path, wire: Wire, db: Any, file: str, damage: str) -> None:
    path = runs / "results/sacred/qmix/1" / file
    path.unlink() if damage == "missing" else path.write_text(path.read_text()[:-20])
    assert track.main(["sync", "results/sacred", "--mongo", wire.url]) == 0
    assert db["runs"].count_documents({}) == 3 and db["metrics"].count_documents({}) == 6
    (entry,) = db["metrics"].find({"name": "test_return_mean", "run_id": 1})
    assert entry["values"] == [0.0, 0.05, 0.1, 0.15, 0.2]
    assert len(entry["timestamps"]) == (0 if file == "metrics.json" else 5)


def test_sync_of_damaged_metrics(runs: Path, wire: Wire, db: Any) -> None:
    """NumPy's numbers as upstream's Sacred records them are numbers; a metric of uneven columns is left out."""
    path = runs / "results/sacred/qmix/1/metrics.json"
    metrics = json.loads(path.read_text())
    values = metrics["test_return_mean"]["values"]
    values[:] = [{"py/object": "numpy.float64", "dtype": "float64", "value": value} for value in values]
    metrics["updates"]["values"].pop()
    path.write_text(json.dumps(metrics))
    assert track.main(["sync", "results/sacred/qmix/1", "--mongo", wire.url]) == 0
    (entry,) = db["metrics"].find()
    assert entry["name"] == "test_return_mean" and entry["values"] == [0.0, 0.05, 0.1, 0.15, 0.2]


def test_sync_after_half_a_delivery(runs: Path, wire: Wire, db: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wire.lose_answers = 3
    for _ in range(4):
        track.main(["sync", "results/sacred/qmix/2", "--mongo", wire.url])
    assert track.main(["sync", "results/sacred/qmix/2", "--mongo", wire.url]) == 0
    assert db["runs"].count_documents({}) == 1
    (entry,) = db["metrics"].find({"name": "test_return_mean"})
    assert entry["steps"] == [0, 250, 500, 750, 1000] and entry["values"][-1] == 0.8


def test_sync_goes_on_past_a_file_that_cannot_be_read(
    runs: Path, wire: Wire, db: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path) -> Any:
        if folder.match("qmix/1"):
            raise PermissionError(13, "Permission denied", str(folder / "learning_curve.png"))
        return snapshot_of(folder)

    snapshot_of = track.snapshot_of
    monkeypatch.setattr(track, "snapshot_of", refused)
    assert track.main(["sync", "results/sacred", "--mongo", wire.url]) == 1
    assert "left out: results/sacred/qmix/1: [Errno 13] Permission denied" in capsys.readouterr().err
    assert db["runs"].count_documents({}) == 2


@pytest.mark.parametrize(
    "damage", [{"artifacts": [5]}, {"artifacts": 5}, {"experiment": 5}, {"experiment": {"sources": [5]}}]
)
def test_sync_goes_on_past_a_record_that_is_none(
    runs: Path, wire: Wire, db: Any, capsys: pytest.CaptureFixture[str], damage: dict[str, Any]
) -> None:
    entry = runs / "results/sacred/qmix/1/run.json"
    entry.write_text(json.dumps(json.loads(entry.read_text()) | damage))
    assert track.main(["sync", "results/sacred", "--mongo", wire.url]) == 1
    assert "left out: results/sacred/qmix/1: this is no record of a run (" in capsys.readouterr().err
    assert db["runs"].count_documents({}) == 2


def test_sync_keeps_what_omniboard_added(runs: Path, wire: Wire, db: Any) -> None:
    assert track.main(["sync", "results/sacred/qmix/1", "--mongo", wire.url]) == 0
    db["runs"].update_one({"_id": 1}, {"$set": {"omniboard": {"tags": ["good"]}}})
    assert track.main(["sync", "results/sacred/qmix/1", "--mongo", wire.url]) == 0
    assert track.main(["ls", wire.url, "--tag", "good"]) == 0
    assert db["runs"].find_one({"_id": 1})["omniboard"] == {"tags": ["good"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sync", "results/sacred"], "SACRED_MONGO_URL"),
        (
            ["sync", "results/sacred", "--mongo=mongodb://me:s3cret@127.0.0.1:1/a?serverSelectionTimeoutMS=50"],
            "is the server running",
        ),
        (["ls", "mongodb://me:s3cret@127.0.0.1:1/a?serverSelectionTimeoutMS=50"], "cannot be read"),
        (["sync", "mongodb://me:s3cret@127.0.0.1:1/a?serverSelectionTimeoutMS=50", "--mongo=mongodb://host"], "read"),
        (["ls", "mongodb://me:s3cret#x@127.0.0.1:1/a?serverSelectionTimeoutMS=50"], "cannot be read"),
        (["ls", "mongodb://me:s3cret#x"], "is wanted"),
        (["ls", "--mongo=mongodb://me:s3cret@host/a"], "unrecognized arguments: --mongo=mongodb://host/a"),
        (["mongodb://me:s3cret@host/a"], "invalid choice"),
        (["ls", "nowhere"], "no such folder"),
        (["best", "-n", "0"], "argument -n: 0: a whole number from 1 is wanted"),
        (["best", "-n", "-1"], "argument -n: -1: a whole number from 1 is wanted"),
        (["best", "-n", "x"], "argument -n: x: a whole number from 1 is wanted"),
    ],
)
def test_wrong_use(runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert track.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and "s3cret" not in err and "Traceback" not in err
