"""--resume on the command line, signals to real processes, and kills at random moments."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from support.processes import children, gone

import main
import track
from utils import hosts, resume, untrusted
from utils.checkpoints import Checkpoints
from utils.recording import RunFolder
from utils.schema import GONE, LATER, as_before
from utils.signals import TOGETHER

ROOT = Path(__file__).resolve().parents[2]
KEY = "Foraging-5x5-2p-1f-v3"
RUN = ["--config=vdn", "--env-config=lbf"]
SMALL = (
    "seed=4 t_max=200 test_interval=90 test_nepisode=2 batch_size=2 env_steps_per_update=25 log_interval=100 "
    "runner_log_interval=50 learner_log_interval=25 checkpoint_interval=60 hidden_dim=8 env_args.time_limit=8"
).split()


class Cut(BaseException):
    """In the place of SIGKILL, once the run has its last checkpoint but one."""


@pytest.fixture
def cut_off(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of a run that was killed after its second checkpoint, with points beyond it."""
    save, count = Checkpoints.save, [0]

    def saves(self: Checkpoints, *args: Any, **about: Any) -> Any:
        count[0] += 1
        if count[0] == 3:
            raise Cut
        return save(self, *args, **about)

    monkeypatch.setattr(os, "fsync", lambda number: None)
    monkeypatch.setattr(Checkpoints, "save", saves)
    with pytest.raises(Cut):
        main.main([*RUN, "with", *SMALL, "keep_finished=True"])
    monkeypatch.setattr(Checkpoints, "save", save)
    record = tree / "results/sacred/vdn" / KEY / "1"
    run = json.loads((record / "run.json").read_text())
    (record / "run.json").write_text(json.dumps(run | {"status": "RUNNING"}))
    return record


def read(record: Path, name: str) -> dict[str, Any]:
    return json.loads((record / f"{name}.json").read_text())


def metrics(record: Path) -> dict[str, Any]:
    return {
        key: (entry["steps"], entry["values"])
        for key, entry in read(record, "metrics").items()
        if not key.startswith("time_")
    }


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said where the command line is wrong: one message, and no traceback."""
    capsys.readouterr()
    assert main.main(list(words)) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and "Traceback" not in output.err
    return output.err


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"}


# --- a run goes on ---
def test_a_run_without_checkpoints_is_not_taken_away_while_it_goes_on(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import run

    train, removed = run.run, []

    def stopped(*args: Any, **more: Any) -> None:
        removed.append(track.main(["rm", "results/sacred", "--yes"]))
        train(*args, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", stopped)
    assert main.main([*RUN, "with", *SMALL, "checkpoint_interval=null"]) == 130
    record = tree / "results/sacred/vdn" / KEY / "1"
    assert removed == [2] and metrics(record) and not (record / "checkpoints").exists()
    assert "another process has this run" in capsys.readouterr().err
    for leave in ((lambda: None), (record / "checkpoints").mkdir, (record / "checkpoints/lock").touch):  # killed
        leave()
        assert "no checkpoints (checkpoint_interval = None)" in refused(capsys, "--resume", str(record))
    assert track.main(["rm", "results/sacred", "--yes"]) == 0 and not record.exists()


def test_the_record_of_a_resumed_run_is_that_of_one_left_alone(
    cut_off: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beyond = len(metrics_of_journal(cut_off))
    assert main.main(["--resume", str(cut_off)]) == 0
    assert "goes on from step" in capsys.readouterr().err
    assert main.main([*RUN, "with", *SMALL, "keep_finished=True"]) == 0
    alone = cut_off.parent / "2"
    assert metrics(cut_off) == metrics(alone) and beyond > 0
    info, other = read(cut_off, "info"), read(alone, "info")
    series = [key for key in other if f"{key}_T" in other]
    assert series and all(info[key] == other[key] and info[f"{key}_T"] == other[f"{key}_T"] for key in series)
    assert read(cut_off, "config") == read(alone, "config") and info["command"] == other["command"]
    run = read(cut_off, "run")
    assert run["status"] == "COMPLETED" and run["artifacts"] == ["learning_curve.png"]
    assert run["start_time"] < info["resumed"][0]["resumed"] < run["stop_time"]
    assert not (cut_off / "metrics.jsonl").exists() and not list(cut_off.rglob("*.part"))


def test_a_run_that_goes_on_otherwise_says_so(cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own facts stay; what is different now is noted with this start."""
    begun = read(cut_off, "info")
    begun |= {"backend": "lbforaging 0.0.1", "device": "cuda", "versions": begun["versions"] | {"torch": "1.0"}}
    (cut_off / "info.json").write_text(json.dumps(begun))
    assert main.main(["--resume", str(cut_off)]) == 0
    said, info = capsys.readouterr().err, read(cut_off, "info")
    assert all(info[key] == begun[key] for key in ("backend", "device", "versions", "cores", "env_info"))
    (start,) = info["resumed"]
    assert start["versions"] == {"torch": metadata.version("torch")} and start["device"] == "cpu"
    assert start["backend"] == f"lbforaging {metadata.version('lbforaging')}" and "cores" not in start
    assert "torch was 1.0, is " in said and "backend was lbforaging 0.0.1, is " in said


def test_networks_are_kept_of_a_run_that_goes_on_and_of_no_folder_that_its_record_names(
    cut_off: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import run

    monkeypatch.setattr(run, "save", lambda *_: None)  # as of one that is stopped before its next saving
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("s3cret")
    info = read(cut_off, "info")
    (cut_off / "info.json").write_text(json.dumps(info | {"checkpoint": str(tmp_path / "secret"), "resumed": 5}))
    saved = tmp_path / "results/models" / info["unique_token"] / "77"
    saved.mkdir(parents=True)
    (saved / "agent.th").write_text("networks")
    assert main.main(["--resume", str(cut_off), "with", "save_model=True", "record_checkpoint=True"]) == 0
    assert zipfile.ZipFile(cut_off / "checkpoint.zip").namelist() == ["agent.th"]


def test_a_record_older_than_a_key_goes_on(cut_off: Path) -> None:
    config = read(cut_off, "config")
    assert set(LATER) <= set(config)
    (cut_off / "config.json").write_text(json.dumps(as_before(config) | GONE))
    assert main.main(["--resume", str(cut_off)]) == 0 and read(cut_off, "run")["status"] == "COMPLETED"


def metrics_of_journal(record: Path) -> list[str]:
    return (record / "metrics.jsonl").read_text().splitlines() if (record / "metrics.jsonl").exists() else [""]


def test_from_another_folder_and_moved(cut_off: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "results", moved)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert main.main(["--resume", str(moved), "with", "save_model=True"]) == 0  # the only run in that folder
    assert list((tmp_path / "cwd").iterdir()) == [] and list(moved.glob("models/*/*/agent.th"))


def test_from_a_record_alone(cut_off: Path, tmp_path: Path) -> None:
    """Where it was copied to says nothing about a results folder: the recorded one counts."""
    shutil.copytree(cut_off, tmp_path / "alone/a/b/c")
    resumed = resume.prepare(str(tmp_path / "alone/a/b/c"))
    resumed.checkpoints.unlock()
    assert resumed.config["local_results_path"] == read(cut_off, "config")["local_results_path"]


def test_a_finished_run_grows(cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--resume", str(cut_off)]) == 0
    said = refused(capsys, "--resume", str(cut_off), "with", "t_max=100")
    found = re.search(r"is finished, at step (\d+); .* with t_max=(\d+)$", said.strip())
    assert found is not None and int(found[2]) > int(found[1])
    assert main.main(["--resume", str(cut_off), "with", "t_max=300"]) == 0
    assert read(cut_off, "config")["t_max"] == 300 and "t_max=300" in read(cut_off, "info")["command"]
    assert main.main([*RUN, "with", *SMALL, "keep_finished=True", "t_max=300"]) == 0
    assert metrics(cut_off) == metrics(cut_off.parent / "2")


def test_checkpoints_of_a_finished_run_are_removed(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([*RUN, "with", *SMALL]) == 0
    record = tree / "results/sacred/vdn" / KEY / "1"
    assert not (record / "checkpoints").exists()
    assert "keep_finished=True" in refused(capsys, "--resume", str(record))


@pytest.mark.parametrize("broken", ["_finish", "save_json"])
def test_a_run_whose_record_is_not_complete_keeps_its_checkpoints(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    write = getattr(RunFolder, broken)

    def full(self: RunFolder, *args: Any) -> None:
        if broken == "_finish" or args[0].get("status") == "COMPLETED":
            raise OSError(28, "No space left on device")
        write(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, broken, full)
        assert main.main([*RUN, "with", *SMALL]) == 1
    record = tree / "results/sacred/vdn" / KEY / "1"
    output = capsys.readouterr()
    assert "the record is not complete: [Errno 28]" in output.err and "Traceback" not in output.err
    assert f"--resume {record.relative_to(tree)}" in output.out
    assert read(record, "run")["status"] == "FAILED" and read(record, "run")["stop_time"]
    assert main.main(["--resume", str(record)]) == 0 and read(record, "run")["status"] == "COMPLETED"
    assert main.main([*RUN, "with", *SMALL]) == 0 and metrics(record) == metrics(record.parent / "2")


def test_a_t_max_that_was_reached_ends_no_cut_off_run(cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be finished, and lose its checkpoints."""
    kept = sorted(path for path in cut_off.rglob("*"))
    said = refused(capsys, "--resume", str(cut_off), "with", "t_max=20")
    assert re.search(r"this run is at step \d+; it goes on with a t_max above that: with t_max=\d{3}", said)
    assert sorted(path for path in cut_off.rglob("*")) == kept and read(cut_off, "run")["status"] == "RUNNING"


def test_the_last_one(cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ["--resume=last", *RUN, "with", *SMALL, "keep_finished=True", "lr=0.001"]
    assert main.main(other) == 0  # of another configuration: a new run
    assert "a new one is started" in capsys.readouterr().err and read(cut_off, "run")["status"] == "RUNNING"
    without_seed = [word for word in SMALL if not word.startswith("seed=")]
    assert main.main(["--resume=last", *RUN, "with", *without_seed, "keep_finished=True", "log_interval=50"]) == 0
    assert read(cut_off, "run")["status"] == "COMPLETED"
    assert sorted(path.name for path in cut_off.parent.iterdir() if path.name.isdecimal()) == ["1", "2"]


def test_the_last_one_is_finished(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job that is started again trains once; without a seed each start is another run."""
    record = tree / "results/sacred/vdn" / KEY / "1"
    again = ["--resume=last", *RUN, "with", *SMALL]
    assert main.main(again) == 0
    made = {path: path.stat().st_mtime_ns for path in record.rglob("*")}
    capsys.readouterr()
    assert main.main([*again, "log_interval=50"]) == 0
    said = capsys.readouterr().err
    assert f"{record.relative_to(tree)} is this run, finished" in said
    assert f"{record.relative_to(tree)} stays as it is: log_interval = 100 there" in said
    assert {path: path.stat().st_mtime_ns for path in record.rglob("*")} == made
    assert not record.with_name("2").exists()
    assert main.main([*again, "seed=null"]) == 0
    assert read(record.with_name("2"), "run")["status"] == "COMPLETED"


def test_the_last_one_is_trained_by_another_process(cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job that begins before the one in whose place it comes has ended."""
    going = Checkpoints(cut_off / "checkpoints")
    going.lock()
    said = refused(capsys, "--resume=last", *RUN, "with", *SMALL, "keep_finished=True")
    assert "another process has this run" in said and "it would be trained twice" in said
    assert not cut_off.with_name("2").exists()
    assert main.main(["--resume=last", *RUN, "with", *SMALL, "keep_finished=True", "seed=null"]) == 0
    going.unlock()
    assert read(cut_off.with_name("2"), "run")["status"] == "COMPLETED"


def test_an_evaluation_is_never_finished(cut_off: Path) -> None:
    """There may be newer networks."""
    record, config = cut_off / "run.json", read(cut_off, "config") | {"evaluate": True}
    (cut_off / "config.json").write_text(json.dumps(config))
    record.write_text(json.dumps(read(cut_off, "run") | {"status": "COMPLETED"}))
    assert resume.last(cut_off.parent, config) == (None, [])


def test_the_last_one_is_the_newest(cut_off: Path) -> None:
    for number in ("2", "10"):
        shutil.copytree(cut_off, cut_off.with_name(number))
    found, _ = resume.last(cut_off.parent, read(cut_off, "config"))
    assert isinstance(found, resume.Resumed) and found.folder.name == "10"
    found.checkpoints.unlock()


def test_a_run_that_was_cut_off_after_its_last_step_goes_on(cut_off: Path) -> None:
    """In its last test: its checkpoint is at t_max or beyond."""
    assert main.main(["--resume", str(cut_off)]) == 0
    (cut_off / "run.json").write_text(json.dumps(read(cut_off, "run") | {"status": "RUNNING", "stop_time": None}))
    assert main.main(["--resume", str(cut_off)]) == 0 and read(cut_off, "run")["status"] == "COMPLETED"


def test_a_checkpoint_finds_all_points_in_the_record(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, save = [], Checkpoints.save

    def saves(self: Checkpoints, parts: Any, *args: Any, **about: Any) -> Any:
        written = save(self, parts, *args, **about)
        lines = map(json.loads, (self.folder.parent / "metrics.jsonl").read_text().splitlines())
        recorded = sum(len(series["steps"]) for line in lines for series in line.values())
        counts.append((recorded, sum(parts["logger"].points.values())))
        return written

    monkeypatch.setattr(Checkpoints, "save", saves)
    assert main.main([*RUN, "with", *SMALL]) == 0
    assert len(counts) > 1 and all(recorded == known > 0 for recorded, known in counts)


def test_a_disk_that_is_full_from_the_start(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **about: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sacred.observers.FileStorageObserver.started_event", full)
    assert main.main([*RUN, "with", *SMALL]) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said and "Traceback" not in said


def test_the_last_one_is_recorded_as_the_command_line_says(cut_off: Path) -> None:
    words = "save_model=True keep_finished=False learner_log_interval=50 env_timeout=null label=other".split()
    assert main.main(["--resume=last", *RUN, "with", *SMALL, *words]) == 0
    config = read(cut_off, "config")
    assert read(cut_off, "run")["status"] == "COMPLETED" and not (cut_off / "checkpoints").exists()
    assert list(Path("results/models").glob("*/*/agent.th"))
    assert (config["save_model"], config["keep_finished"], config["env_timeout"]) == (True, False, None)
    assert config["learner_log_interval"] == 50 and config["label"] == "", "its name stays"


def test_the_last_one_with_code_that_the_command_line_names(cut_off: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_registered", set(hosts._registered))
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("resume_module.py").write_text("def register(): pass\n")
    (cut_off / "config.json").write_text(json.dumps(read(cut_off, "config") | {"env_module": "resume_module.py"}))
    words = [*RUN, "with", *SMALL, "keep_finished=True", "env_module=resume_module.py"]
    assert main.main(["--resume=last", *words]) == 0
    assert read(cut_off, "run")["status"] == "COMPLETED" and not (cut_off.parent / "2").exists()


def test_the_last_one_cannot_go_on(cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for state in cut_off.glob("checkpoints/*/state.pt"):
        state.write_bytes(b"damaged")
    assert main.main(["--resume=last", *RUN, "with", *SMALL, "keep_finished=True"]) == 0
    assert "no checkpoint to go on from" in capsys.readouterr().err
    assert read(cut_off.parent / "2", "run")["status"] == "COMPLETED"


def test_a_record_that_has_lost_points_says_so(cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("metrics.jsonl", "metrics.json"):
        if (cut_off / name).exists():
            (cut_off / name).write_text("[1]\n" if name == "metrics.json" else '{"loss": {"steps": [1]}}\n')
    assert main.main(["--resume", str(cut_off)]) == 0
    assert "the record has lost" in capsys.readouterr().err
    assert main.main(["--resume", str(cut_off), "with", "t_max=400"]) == 0  # from before the last test
    assert "the record has lost" not in capsys.readouterr().err
    for name, (steps, _) in metrics(cut_off).items():
        assert steps == sorted(set(steps)), name


# --- what is refused, before anything is written ---
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["with", "lr=0.1"], "lr=0.1 (the command line): lr cannot change in a resumed run"),
        (["with", "env_args.time_limit=9"], "env_args cannot change"),
        (["with", "test_interval=5", "seed=2"], "2 problems"),
        (["with", "t_max=-1"], "t_max = -1"),
        (["with", "env_workers=x"], "env_workers = 'x'"),
        (["--config=vdn"], "only where it is --resume=last"),
        (["--print-config"], "--print-config: not with --resume RUN"),
        (["--watch", "x"], "--resume: not with --watch"),
        (["--out", "x.gif"], "--out: only with --watch"),
    ],
)
def test_wrong_words(cut_off: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    before = content(cut_off)
    assert said in refused(capsys, "--resume", str(cut_off), *words)
    assert content(cut_off) == before


def test_keys_that_are_the_same_may_be_named(cut_off: Path) -> None:
    resumed = resume.prepare(str(cut_off), ["lr=0.0005", "env_args.time_limit=8", "seed=4"])
    resumed.checkpoints.unlock()
    assert not resumed.changed and resumed.saved.manifest.number == 2


@pytest.mark.parametrize(
    ("hurt", "said"),
    [
        (lambda record: shutil.rmtree(record / "checkpoints"), "this run has no checkpoints"),
        (lambda record: [shutil.rmtree(path) for path in record.glob("checkpoints/0*")], "there is none yet"),
        (lambda record: (record / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda record: (record / "config.json").write_text("[]"), "a mapping of keys to values is wanted"),
        (lambda record: (record / "run.json").unlink(), "no record of a run"),
        (lambda record: (record / "info.json").symlink_to("/etc/hostname"), "this is a symbolic link"),
        (lambda record: shutil.rmtree(record), "there is no such folder"),
    ],
)
def test_wrong_records(cut_off: Path, capsys: pytest.CaptureFixture[str], hurt: Any, said: str) -> None:
    (cut_off / "info.json").unlink(missing_ok=True)
    hurt(cut_off)
    assert said in refused(capsys, "--resume", str(cut_off))


def test_no_other_simulator_takes_a_run_over(
    cut_off: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """backend: auto began in StarCraft II, which is not here: SMAX would go on under the same name."""
    monkeypatch.setenv("SC2PATH", str(cut_off))
    battle = {"env": "sc2v2", "env_args": {"map_name": "zerg_5_vs_5", "backend": "auto", "time_limit": 8}}
    (cut_off / "config.json").write_text(json.dumps(read(cut_off, "config") | battle))
    (cut_off / "info.json").write_text(json.dumps({"backend": "StarCraft II Base75689 (smacv2 1.0.0)"}))
    assert "would be by another simulator here" in refused(capsys, "--resume", str(cut_off))
    (cut_off / "info.json").write_text(json.dumps({"backend": "SMAX (jaxmarl 0.2.0), not StarCraft II"}))
    resume.prepare(str(cut_off)).checkpoints.unlock()


@pytest.mark.parametrize("key", ["plugin", "env_module"])
def test_code_that_a_record_names_is_not_imported(cut_off: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    config = read(cut_off, "config")
    Path("evil.py").write_text("from pathlib import Path\nPath('executed').touch()\n")
    name = "evil" if key == "plugin" else "evil.py"
    (cut_off / "config.json").write_text(json.dumps(config | {key: name}))
    assert f"--trust {name}" in refused(capsys, "--resume", str(cut_off))
    assert not Path("executed").exists()


def test_all_code_that_a_record_names_is_told_at_once(cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read(cut_off, "config")
    (cut_off / "config.json").write_text(json.dumps(config | {"plugin": "my_plugin", "env_module": "my_world.py"}))
    said = refused(capsys, "--resume", str(cut_off))
    assert "--trust my_plugin" in said and "--trust my_world.py" in said


def test_a_run_that_goes_on_is_not_resumed(cut_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    going = Checkpoints(cut_off / "checkpoints")
    going.lock()
    assert f"another process has this run (process {os.getpid()} on" in refused(capsys, "--resume", str(cut_off))
    going.unlock()


def test_a_record_where_nothing_can_be_written(
    cut_off: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # of root nothing is refused
    assert "nothing can be written there" in refused(capsys, "--resume", str(cut_off))


def test_names_stay_within_their_folder() -> None:
    assert untrusted.inside("a/b") == "a/b"
    for name in ("", "/a", "../a", "a/../../b"):
        with pytest.raises(ValueError, match="names nothing within"):
            untrusted.inside(name)


# --- signals, to real processes ---
ENDLESS = [str(ROOT / "src" / "main.py"), "--config=qmix", "--env-config=gymma", "with"]
ENDLESS += f"env_args.key={KEY} t_max=100000000 test_interval=400 test_nepisode=2 batch_size=2 seed=1".split()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a training that does not end by itself, and waits for its first checkpoint."""
    started: list[subprocess.Popen[str]] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's would be theirs
    yield lambda *words: _start(tmp_path, started, *words)
    signal.signal(signal.SIGHUP, before)
    for process in started:
        process.kill()
        process.wait()


def _start(folder: Path, started: list[subprocess.Popen[str]], *words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, *ENDLESS, *words],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    started.append(process)
    assert process.stderr is not None
    for line in process.stderr:
        if "checkpoint at step" in line:
            return process
    raise AssertionError("it has not trained")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_stops_a_run_where_nothing_is_lost(tmp_path: Path, start: Any, number: signal.Signals) -> None:
    words = ["checkpoint_interval=300", "runner=parallel", "batch_size_run=2", "env_workers=2"]
    process = start(*words)
    below = children(process.pid)
    assert len(below) >= 2
    for told in (number, number, signal.SIGINT):  # at once, as by a scheduler and by `make`, which passes it on
        os.killpg(process.pid, told)  # to workers, too
        time.sleep(0.01)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert gone(*below) and "Traceback" not in err and "checkpoint at step" in err
    (record,) = tmp_path.glob("results/sacred/qmix/*/1")
    assert read(record, "run")["status"] == "INTERRUPTED" and f"--resume {record.relative_to(tmp_path)}" in out
    steps = [int(path.name.partition("-")[2]) for path in record.glob("checkpoints/0*")]
    t_max = max(steps) + 50
    done = subprocess.run(
        [sys.executable, str(ROOT / "src" / "main.py"), "--resume", str(record), "with", f"t_max={t_max}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and f"goes on from step {max(steps):,}" in done.stderr, done.stderr
    assert read(record, "run")["status"] == "COMPLETED"


WITH_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_whose_terminal_is_closed_stops_where_nothing_is_lost(tmp_path: Path) -> None:
    terminal, inner = pty.openpty()
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_TERMINAL, *ENDLESS],
        cwd=tmp_path,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm"},
    )
    signal.signal(signal.SIGHUP, before)
    os.close(inner)
    try:
        shown = b""
        while b"test return" not in shown:  # of the live display
            shown += os.read(terminal, 65536)
        os.close(terminal)
        assert process.wait(60) == 128 + signal.SIGHUP
    finally:
        process.kill()
        process.wait()
    (record,) = tmp_path.glob("results/sacred/qmix/*/1")
    assert read(record, "run")["status"] == "INTERRUPTED" and list(record.glob("checkpoints/0*"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("twice", [True, False])
def test_twice_or_killed_it_ends_at_once_and_leaves_no_process(start: Any, twice: bool) -> None:
    words = ["checkpoint_interval=300", "runner=parallel", "batch_size_run=2", "env_workers=2"]
    process = start(*words)
    below = children(process.pid)
    if twice:
        for worker in below:
            os.kill(worker, signal.SIGSTOP)  # an environment is stuck
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(TOGETHER + 1)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        process.wait(60)
        for worker in below:
            os.kill(worker, signal.SIGCONT)
    else:
        process.kill()
    process.communicate(timeout=60)
    assert process.returncode < 0 and gone(*below)


# --- killed at random moments ---
def kills(*words: str) -> str:
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "tools" / "kill_and_resume.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("config", "env", "n"), [("qmix", "gymma", 5), ("mmsa", "matrix", 5)])
def test_killed_at_random_moments_a_run_ends_as_one_left_alone(config: str, env: str, n: int) -> None:
    said = kills("--kills", str(n), "--config", config, "--env", env)
    assert f"{n} kills" in said and " 0 differences" in said and " 0 resumes" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "env"), [("qmix", "gymma"), ("mmsa", "matrix"), ("mmsa", "gymma"), ("mappo", "gymma"), ("qmix", "smax")]
)
def test_killed_fifty_times(config: str, env: str) -> None:
    said = kills("--kills", "50", "--config", config, "--env", env)
    assert "50 kills" in said and " 0 differences" in said
