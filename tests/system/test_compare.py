"""compare.py: what is run, what is kept, what happens when it is killed. Most runs are a stand-in's."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from support import sacred_runs as sr

import compare
from experiments import attempts, forecast, ray_pool, records, reporting, scheduler
from experiments.attempts import Attempt, Result
from experiments.planning import Run, load_experiment, plan
from utils import config
from utils.naming import task_of
from utils.progress import duration

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "tests" / "support" / "stand_in.py"
FILE = """# Two learners on a game
algorithms:
  VDN: {config: vdn, steps_per_second: 50}
  IQL: {config: iql}
tasks:
  game: {env_config: matrix, overrides: {env_args.key: climbing}}
seeds: [1, 2]
t_max: 1000
overrides: {use_cuda: false, torch_threads: 2}
"""
DRIVER = f"""import sys
sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT / "plugins")!r}]
from types import SimpleNamespace
from pathlib import Path
import compare
from experiments import attempts, records, scheduler
attempts.MAIN, scheduler.AGAIN, records.faults = Path({str(STAND_IN)!r}), 0.2, lambda record: []
sys.modules["reports.runs"] = SimpleNamespace(load_runs=lambda *all: all, Planned=SimpleNamespace(of=dict))
sys.modules["reports.report"] = SimpleNamespace(write_report=lambda runs, out, **rest: out / "index.html")
sys.exit(compare.main())
"""
LONG = 120  # seconds after which something hangs


class Actor:
    """An attempt of the stand-in that waits for its order."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(LONG)
        self.folder, _, pid = connection.makefile().readline().strip().rpartition(" ")
        self.pid = int(pid)

    def say(self, order: str) -> None:
        self.connection.sendall(f"{order}\n".encode())

    def gone(self) -> bool:
        """Waits until its process has ended."""
        try:
            return self.connection.recv(1) == b""
        except ConnectionResetError:
            return True


class Stage:
    """The plan of FILE, the stand-in's setting, and the socket where its attempts report."""

    def __init__(self, folder: Path) -> None:
        self.file, self.out, self.setting = folder / "pair.yaml", folder / "out", folder / "setting.json"
        self.file.write_text(FILE)
        self.orders: dict[str, list[str]] = {}
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(LONG)
        self.port = 0
        self.write()

    @property
    def runs(self) -> list[Run]:
        return plan(load_experiment(str(self.file)), self.out)

    @property
    def words(self) -> list[str]:
        return [f"--experiment={self.file}", "--out", str(self.out)]

    def write(self) -> None:
        configs = {str(run.folder): run.config for run in self.runs}
        port = self.server.getsockname()[1]
        setting = {"configs": configs, "orders": self.orders, "port": self.port and port, "orphans": port}
        self.setting.write_text(json.dumps(setting))

    def order(self, index: int, *orders: str) -> Run:
        run = self.runs[index]
        self.orders[str(run.folder)] = list(orders)
        self.write()
        return run

    def wait_for_orders(self) -> None:
        self.port = 1
        self.write()

    def accept(self) -> Actor:
        return Actor(self.server.accept()[0])

    def compare(self, *words: str) -> subprocess.Popen[str]:
        """In a process of its own."""
        command = [sys.executable, "-c", DRIVER, *self.words, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.processes.append(process)
        return process

    processes: list[subprocess.Popen[str]]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    stage.processes = []
    monkeypatch.setenv("STAND_IN", str(stage.setting))
    monkeypatch.setattr(attempts, "MAIN", STAND_IN)
    monkeypatch.setattr(scheduler, "AGAIN", 0.2)
    monkeypatch.chdir(tmp_path)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]  # nohup ignores one
    yield stage
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    for process in stage.processes:
        process.kill()
        process.wait()
    stage.server.close()


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What the report was asked for."""
    calls: list[SimpleNamespace] = []

    def write_report(runs: Any, out: Path, **rest: Any) -> Path:
        calls.append(SimpleNamespace(runs=runs, out=out, **rest))
        return out / "index.html"

    class Recorded(str):
        algorithm = property(lambda self: "QMIX" if self == "loaded" else "VDN")

    def load_runs(sources: Sequence[str], problems: list[str]) -> tuple[Recorded, ...]:
        problems.append("a damaged record")
        return tuple(map(Recorded, ("loaded", *sources)))

    def group(runs: Sequence[Recorded]) -> SimpleNamespace:
        curves = [SimpleNamespace(name=run.algorithm, algorithm=run.algorithm) for run in runs]
        return SimpleNamespace(tasks=[SimpleNamespace(curves=curves)])

    monkeypatch.setattr("reports.grouping.group", group)
    import_module("reports.scores")  # it takes names from the real reports.runs
    for name, module in (
        ("reports.runs", SimpleNamespace(load_runs=load_runs, Planned=SimpleNamespace(of=dict))),
        ("reports.report", SimpleNamespace(write_report=write_report)),
    ):
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    monkeypatch.setattr(records, "faults", lambda record: [])  # the stand-in's records have no curves
    return calls


def statuses(run: Run) -> list[str]:
    return [record.status for record in records.records(run.folder)]


def all_once(runs: Sequence[Run]) -> bool:
    """Each run is finished, none twice."""
    return all(statuses(run).count("COMPLETED") == 1 and records.find(run).finished for run in runs)


def record(run: Run, status: str, **changes: Any) -> Path:
    folder = run.folder / "sacred" / run.config["name"] / run.config["env_args"]["key"] / "1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(run.config | changes))
    times = {"start_time": "2026-01-01T00:00:00", "stop_time": "2026-01-01T00:00:10"}
    (folder / "run.json").write_text(json.dumps({"status": status, **times}))
    return folder


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    seen = []
    watchdog = threading.Timer(LONG, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            seen.append(line)
            if text in line:
                return "".join(seen)
    finally:
        watchdog.cancel()
    raise AssertionError(f"{text!r} was not said, but {''.join(seen)}")


# --- what is run ---
def test_all_are_run_once(stage: Stage, reported: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([*stage.words, "--jobs", "2"]) == 0
    runs = stage.runs
    assert len(runs) == 4 and all(statuses(run) == ["COMPLETED"] for run in runs)
    assert {str(run.folder.relative_to(stage.out)) for run in runs} == {
        f"runs/{algorithm}/game/seed{seed}" for algorithm in ("VDN", "IQL") for seed in (1, 2)
    }
    out = capsys.readouterr().out
    assert "4 of 4 runs done · 0 running · 0 failed · 100% of the steps" in out and "index.html" in out
    (call,) = reported
    assert call.runs == ("loaded", str(stage.out / "runs")) and call.out == stage.out / "report"
    assert call.planned == [run.config for run in runs] and call.title == "Two learners on a game"
    assert call.references == ["VDN"]
    assert call.problems == ["a damaged record"]


def test_threads_are_pinned_and_the_log_is_kept(stage: Stage, reported: list) -> None:
    assert compare.main(stage.words) == 0
    (folder,) = stage.runs[0].folder.glob("sacred/*/*/1")
    assert set(json.loads((folder / "run.json").read_text())["pins"].values()) == {"2"}
    first, second = (stage.runs[0].folder / "run.log").read_text().splitlines()
    assert first.startswith("$ ") and "--config=vdn --env-config=matrix with" in first and "label=VDN" in first
    assert " --resume=last " in first, "a cut-off run would not go on"
    assert second == "the stand-in speaks"


def test_finished_runs_are_skipped(stage: Stage, reported: list, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [record(run, "COMPLETED", label="x", log_interval=7, save_model=True) for run in stage.runs[:3]]
    assert compare.main(stage.words) == 0
    assert all(statuses(run) == ["COMPLETED"] for run in stage.runs) and all(folder.is_dir() for folder in kept)
    assert [(run.folder / "run.log").exists() for run in stage.runs] == [False, False, False, True]
    assert "3 of 4 runs done" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "INTERRUPTED", "TIMEOUT"])
def test_cut_off_runs_start_again(stage: Stage, reported: list, status: str) -> None:
    run = stage.runs[1]
    record(run, status)
    assert compare.main(stage.words) == 0
    assert statuses(run) == [status, "COMPLETED"] and all_once(stage.runs)


@pytest.mark.parametrize("damaged", ["run.json", "config.json"])
def test_half_written_records_are_cut_off(stage: Stage, reported: list, damaged: str) -> None:
    run = stage.runs[0]
    path = record(run, "COMPLETED") / damaged
    path.write_text(path.read_text()[:20])
    assert compare.main(stage.words) == 0
    assert records.find(run).finished and records.find(run).finished.folder.name == "2"  # type: ignore[union-attr]


def test_another_configuration_is_neither_counted_nor_touched(
    stage: Stage, reported: list, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stage.runs[0]
    other = record(run, "COMPLETED", t_max=77)
    before = {path: path.read_bytes() for path in other.iterdir()}
    assert compare.main(stage.words) == 0
    assert {path: path.read_bytes() for path in other.iterdir()} == before
    found = records.find(run)
    assert found.finished is not None and found.finished.folder != other
    said = f"not counted, of another configuration: {other}: t_max is 77, the plan has 1000"
    assert said in capsys.readouterr().out and reported[0].problems == [said, "a damaged record"]


def test_a_finished_run_without_a_configuration_is_named(
    stage: Stage, reported: list, capsys: pytest.CaptureFixture[str]
) -> None:
    other = record(stage.runs[0], "COMPLETED")
    (other / "config.json").write_text('{"age')
    assert compare.main([*stage.words, "--report"]) == 0
    assert f"not counted, of another configuration: {other}: config.json cannot be read\n" in capsys.readouterr().out


# --- a part ---
def test_a_part_of_an_experiment(stage: Stage, reported: list, capsys: pytest.CaptureFixture[str]) -> None:
    record(stage.runs[1], "COMPLETED")  # IQL, of which is nothing in a part without it
    words = [*stage.words, "--seeds", "2", "--algorithms", "VDN", "with", "log_interval=7"]
    assert compare.main(words) == 0
    ours = [run for run in stage.runs if (run.algorithm, run.seed) == ("VDN", 2)]
    assert sum((run.folder / "run.log").exists() for run in stage.runs) == 1 and all_once(ours)
    assert "pair, part --algorithms VDN --seeds 2: 1 of 1 runs are finished" in capsys.readouterr().out
    assert compare.main([*words[:2], words[2], "--report", *words[3:]]) == 0
    for call in reported:
        assert call.runs == ("loaded", str(ours[0].folder)) and len(call.planned) == 1
        assert call.planned[0]["log_interval"] == 7
        assert call.title == "Two learners on a game (part --algorithms VDN --seeds 2)"
        assert call.out == stage.out / "report/part_--algorithms_VDN_--seeds_2", "the whole's report is lost"
    assert compare.main(stage.words) == 0 and all_once(stage.runs)
    assert "2 of 4 runs done" in capsys.readouterr().out, "the part does not add up to the whole"
    assert reported[-1].runs == ("loaded", str(stage.out / "runs")) and len(reported[-1].planned) == 4
    assert reported[-1].out == stage.out / "report"


# --- published runs ---
@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository, with the real configuration and results of its own."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("config", "plugins"):
        (root / name).symlink_to(ROOT / name)
    monkeypatch.setattr(config, "ROOT", root)
    return root


def whole_record(run: Run, folder: Path, task: str = "", **changes: Any) -> Path:
    """A finished run's whole record, under `folder`."""
    place = folder / "sacred" / run.config["name"] / (task or task_of(run.config)) / "1"
    return sr.write(place, sr.record(run.config | changes, sr.tests(0.5, (0, 500, 1000)), backend=""))


def test_published_runs_are_finished(
    stage: Stage, checkout: Path, reported: list, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = stage.runs
    assert runs[0].published == checkout / "results/pair/runs/VDN/game/seed1"
    kept = [whole_record(run, run.published) for run in runs[:3]]
    assert compare.main([*stage.words, "--dry-run"]) == 0
    assert "4 runs, 3 done (3 of them published), 1 to run" in capsys.readouterr().out
    assert compare.main([*stage.words, "--report"]) == 0
    assert reported[0].runs == ("loaded", *map(str, kept)), "a report needs nothing that was run here"
    assert compare.main(stage.words) == 0
    assert [(run.folder / "run.log").exists() for run in runs] == [False, False, False, True]
    assert "4 of 4 runs are finished" in capsys.readouterr().out
    assert reported[1].runs == ("loaded", str(stage.out / "runs"), *map(str, kept))
    record(runs[0], "COMPLETED")
    assert records.find(runs[0]).finished.folder.is_relative_to(runs[0].folder)  # type: ignore[union-attr]
    assert compare.main([*stage.words, "--report", "--seeds", "1"]) == 0
    assert reported[2].runs == ("loaded", str(runs[0].folder), str(kept[1])), "the run that was made here goes first"
    assert len(list(checkout.rglob("run.json"))) == 3, "a run was written into the repository"


def test_published_runs_of_another_configuration(
    stage: Stage, checkout: Path, reported: list, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stage.runs[0]
    whole_record(run, run.published)
    said = "not counted, of another configuration: results/pair/runs/VDN/game/seed1/sacred/vdn/climbing/1: "
    said += "t_max is 1000, the plan has 900"
    assert compare.main([*stage.words, "--dry-run", "with", "t_max=900"]) == 0
    out = capsys.readouterr().out
    assert "4 runs, 0 done, 4 to run" in out and said in out
    assert compare.main([*stage.words, "--report", "with", "t_max=900"]) == 2
    assert said in capsys.readouterr().err
    stage.out.joinpath("runs").mkdir(parents=True)
    assert compare.main([*stage.words, "--report", "with", "t_max=900"]) == 0
    assert said in reported[0].problems and reported[0].runs == ("loaded", str(stage.out / "runs"))


def test_published_runs_of_another_experiment(
    stage: Stage, checkout: Path, reported: list, capsys: pytest.CaptureFixture[str]
) -> None:
    """`runs_of`: they count where the own folder has none, if algorithm, task, seed and configuration are the same."""
    path = config.ROOT / "config/experiments/lbf.yaml"
    stage.file.write_text(FILE + f"runs_of: [quick, {path}]\n")
    runs = stage.runs
    inner = [run.published.relative_to(checkout / "results/pair") for run in runs]
    own = whole_record(runs[0], runs[0].published)
    whole_record(runs[0], checkout / "results/lbf" / inner[0])
    theirs = whole_record(runs[1], checkout / "results/lbf" / inner[1])
    whole_record(runs[2], checkout / "results/lbf" / inner[2], lr=0.5)
    whole_record(runs[3], checkout / "results/smax" / inner[3])
    assert compare.main([*stage.words, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "4 runs, 2 done (2 of them published), 2 to run" in out
    assert "not counted" not in out, "the other experiment's settings are no concern of this one"
    assert compare.main([*stage.words, "--report"]) == 0
    assert reported[0].runs == ("loaded", str(own), str(theirs))


def test_publish_where_all_runs_are_of_another_experiment(stage: Stage, checkout: Path) -> None:
    pytest.importorskip("rliable")
    second = "  other: {env_config: matrix, overrides: {env_args.key: penalty}}\n"
    stage.file.write_text(FILE.replace("seeds:", second + "seeds:") + "runs_of: [lbf]\n")
    for run in (run for run in stage.runs if run.algorithm == "VDN" and run.seed == 1):
        whole_record(run, checkout / "results/lbf" / run.published.relative_to(checkout / "results/pair"))
    assert compare.main([*stage.words, "--publish"]) == 0
    made = {path.name for path in (checkout / "results/pair").iterdir()}
    figures = {f"curves_{task}_backend_not_recorded.png" for task in ("climbing", "penalty")}
    assert made == {"results.csv", "table.md", *figures, "aggregate_test_return_mean.png"}
    assert "results/lbf/runs/VDN" in (checkout / "results/pair/results.csv").read_text()


def test_another_simulators_runs_do_not_count(stage: Stage, checkout: Path) -> None:
    """A machine with StarCraft II plans another task than one where SMAX stands in, by the same configuration."""
    run = stage.runs[0]
    for folder in (run.published, run.folder):
        kept = whole_record(run, folder, task="climbing-SMAX")
        assert records.find(run).finished is None and records.seconds_per_step(run, [run]) is None
        whole_record(run, folder)
        assert records.find(run).finished is not None and records.seconds_per_step(run, [run]) is not None
        shutil.rmtree(folder)
    assert not kept.exists()


def test_publish(
    stage: Stage, checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rliable")
    from reports import plots

    drawn: list[list[str]] = []
    draw = plots.learning_curves

    def spy(*given: Any, **named: Any) -> Any:
        figure = draw(*given, **named)
        drawn.append([panel.get_xlabel() for panel in figure.axes])
        return figure

    monkeypatch.setattr(plots, "learning_curves", spy)
    runs = stage.runs
    assert compare.main([*stage.words, "--publish"]) == 2
    assert "there is nothing to publish" in capsys.readouterr().err and not (checkout / "results").exists()
    for run in runs[:2]:
        whole_record(run, run.folder)
    whole_record(runs[2], runs[2].folder, lr=0.5)  # of another configuration
    record(runs[3], "INTERRUPTED")
    assert compare.main([*stage.words, "--publish"]) == 0
    out = capsys.readouterr().out
    places = [f"results/pair/runs/{name}/game/seed1/sacred/{name.lower()}/climbing/1" for name in ("VDN", "IQL")]
    assert sorted(str(path.parent.relative_to(checkout)) for path in checkout.rglob("run.json")) == sorted(places)
    assert all(f"published: {place}" in out for place in places) and "pair: 2 of 4 runs are published" in out
    assert f"not counted, of another configuration: {runs[2].folder}" in out
    made = {path.name for path in (checkout / "results/pair").iterdir()}
    assert made == {"runs", "results.csv", "table.md", "curves_climbing_backend_not_recorded.png"}
    rows = (checkout / "results/pair/results.csv").read_text().splitlines()[1:]
    assert {row.rpartition(",")[2] for row in rows} == set(places), "a path of this machine, or another run"
    table = (checkout / "results/pair/table.md").read_text()
    assert table.startswith("# Two learners on a game") and table.count("missing: no run was recorded") == 2
    assert drawn == [["environment steps", "gradient updates"]], "wall-clock of several machines"

    before = {path: path.read_bytes() for path in checkout.rglob("*.json")}
    (checkout / "results/pair/curves_of_a_task_that_is_gone.png").touch()
    shutil.rmtree(runs[3].folder)
    whole_record(runs[3], runs[3].folder)
    assert compare.main([*stage.words, "--publish"]) == 0
    out = capsys.readouterr().out
    assert "pair: 3 of 4 runs are published" in out and out.count("published: ") == 1
    assert all(f"published before, left as it is: {place}" in out for place in places)
    assert before.items() <= {path: path.read_bytes() for path in checkout.rglob("*.json")}.items()
    assert {path.name for path in (checkout / "results/pair").iterdir()} == made


def test_a_finished_run_that_no_report_averages_is_named(
    stage: Stage, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether it was made here or is published; in words, and by the exit status."""
    pytest.importorskip("rliable")
    whole, bare, cut_off, broken = stage.runs
    whole_record(whole, whole.folder)
    record(bare, "COMPLETED")
    (whole_record(cut_off, cut_off.published) / "metrics.json").write_text("{}")
    (whole_record(broken, broken.published) / "metrics.json").write_text("<<<<<<< HEAD")
    assert compare.main([*stage.words, "--report"]) == 1
    out = capsys.readouterr().out
    assert "pair: 4 of 4 runs are finished\n" in out and "index.html" in out
    assert out.count("finished, but damaged: ") == 3 and f"finished, but damaged: {whole}" not in out
    assert f"finished, but damaged: {bare}: " in out and "it has no test; no report averages it" in out
    assert f"finished, but damaged: {broken}: " in out and "metrics.json cannot be read" in out
    assert compare.main([*stage.words, "--publish"]) == 1
    out = capsys.readouterr().out
    assert f"published, but damaged: {cut_off}: " in out and f"published, but damaged: {broken}: " in out
    assert f"not published: {bare}: " in out and "pair: 3 of 4 runs are published" in out


def test_runs_are_not_made_where_published_ones_lie(
    stage: Stage, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = checkout / "results/pair"
    assert compare.main([stage.words[0], "--out", str(place)]) == 2 and not place.exists()
    assert f"--out {place}: there lie the published runs" in capsys.readouterr().err


def test_publish_with_other_values_leaves_the_report_on_the_files_own_alone(
    stage: Stage, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rliable")
    run, folder = stage.runs[0], checkout / "results/pair"
    whole_record(run, run.folder)
    assert compare.main([*stage.words, "--publish"]) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    shutil.rmtree(run.folder)
    whole_record(run, run.folder, lr=0.25)
    assert compare.main([*stage.words, "--publish", "with", "lr=0.25"]) == 0
    assert "report: " in (out := capsys.readouterr().out) and out.rstrip().endswith("results/pair/with_lr=0.25")
    assert before.items() <= {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}.items()
    assert (folder / "with_lr=0.25/table.md").read_text().startswith("# Two learners on a game (with lr=0.25)")
    for words in (["checkpoint_interval=777"], ["gamma=0.99"]):  # that change nothing which is learnt
        assert compare.main([*stage.words, "--publish", "with", *words]) == 0
        assert capsys.readouterr().out.rstrip().endswith("results/pair")
    assert reporting.folder_of("with gamma=0.5 name=a/b") == "with_gamma=0.5_name=a_b"
    assert (
        len({reporting.folder_of("x" * 300 + end) for end in "ab"}) == 2 and len(reporting.folder_of("x" * 300)) == 120
    )
    assert compare.main([*stage.words, "--publish"]) == 0
    assert before.items() <= {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}.items()


def test_a_file_of_ones_own_does_not_publish_over_the_report_of_its_namesake(
    stage: Stage, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, own = stage.runs[0], stage.file.with_name("quick.yaml")
    whole_record(run, run.folder)
    shutil.copy(stage.file, own)
    assert compare.main([f"--experiment={own}", "--out", str(stage.out), "--publish"]) == 2
    said = capsys.readouterr().err
    assert f"{own}: --publish would write over the report of config/experiments/quick.yaml" in said
    assert not (checkout / "results").exists()


def test_finished_runs_that_are_refused_are_not_said_to_be_missing(
    stage: Stage, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stage.runs[0]
    (whole_record(run, run.folder) / "info.json").write_text(json.dumps({"command": "python 'src/main.py"}))
    assert compare.main([*stage.words, "--publish"]) == 2
    said = capsys.readouterr().err
    assert f"not published: {run}: command = " in said and "is finished there" not in said


# --- crashes ---
def test_a_crashed_run_is_tried_once_more(stage: Stage, reported: list, capsys: pytest.CaptureFixture[str]) -> None:
    run = stage.order(2, "crash")
    assert compare.main(stage.words) == 0
    assert statuses(run) == ["RUNNING", "COMPLETED"] and all_once(stage.runs)
    assert "crashed, is tried again" in capsys.readouterr().out
    problem, _ = reported[0].problems
    assert "crashed once, then finished" in problem and "exit status 3" in problem and "it went wrong here" in problem


def test_one_that_crashes_twice_has_failed(stage: Stage, reported: list, capsys: pytest.CaptureFixture[str]) -> None:
    run = stage.order(0, "crash", "crash")
    assert compare.main([*stage.words, "--jobs", "1"]) == 1
    assert statuses(run) == ["RUNNING", "RUNNING"] and all_once(stage.runs[1:])
    out = capsys.readouterr().out
    assert out.count("it went wrong here") == 3  # when it crashes, when it fails, and at the end
    assert "3 of 4 runs are finished" in out and len(reported) == 1
    assert compare.main(stage.words) == 0 and all_once(stage.runs)


def test_one_that_cannot_be_started_has_failed(stage: Stage, reported: list) -> None:
    folder = stage.runs[0].folder
    folder.parent.mkdir(parents=True)
    folder.write_text("no folder")
    assert compare.main(stage.words) == 1 and all_once(stage.runs[1:])
    assert "it cannot be started" in reported[0].problems[0]


def test_the_record_decides(stage: Stage, reported: list) -> None:
    run = stage.order(0, "crash after")
    assert compare.main(stage.words) == 0 and statuses(run) == ["COMPLETED"]


def test_what_a_crashed_run_leaves_behind_is_ended(stage: Stage, reported: list) -> None:
    stage.order(0, "orphan")
    assert compare.main(stage.words) == 0 and all_once(stage.runs)
    assert stage.accept().gone()


def test_a_report_that_fails_is_no_lost_run(
    stage: Stage, reported: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["reports.report"], "write_report", lambda *_, **__: 1 / 0)
    assert compare.main(stage.words) == 1 and all_once(stage.runs)
    assert "the runs are recorded, but there is no report" in capsys.readouterr().out


def test_a_report_of_nothing_names_no_record(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    (stage.out / "runs").mkdir(parents=True)
    assert compare.main([*stage.words, "--report"]) == 1
    shown = capsys.readouterr()
    assert "no run is recorded there" in shown.err and "the runs are recorded" not in shown.out


# --- interrupted, killed, two at once ---
def test_a_run_that_does_not_end_is_killed(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "GRACE", 0.2)
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    attempts.stop([Attempt(stage.runs[0], process, tmp_path / "log", 0)])
    assert process.returncode == -signal.SIGKILL


def test_killed_and_started_again(stage: Stage) -> None:
    stage.wait_for_orders()
    first = stage.compare("--jobs", "2")
    one, two = stage.accept(), stage.accept()
    one.say("finish")
    three = stage.accept()  # so the first one is finished, and its slot is taken
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert two.gone() and three.gone()
    kept = {path: path.read_bytes() for path in Path(one.folder).rglob("*.json")}
    stage.port = 0
    stage.write()
    assert stage.compare().wait(LONG) == 0
    assert {path: path.read_bytes() for path in Path(one.folder).rglob("*.json")} == kept
    assert all_once(stage.runs)
    again = Counter({str(run.folder): len(statuses(run)) for run in stage.runs})
    assert again[one.folder] == 1 and again[two.folder] == again[three.folder] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(stage: Stage, number: signal.Signals) -> None:
    stage.wait_for_orders()
    process = stage.compare("--jobs", "1")
    stage.accept().say("finish")
    actor = stage.accept()
    process.send_signal(number)
    assert process.wait(LONG) == 130 and actor.gone()
    assert process.stdout is not None
    said = process.stdout.read()
    assert "1 run ends, with a checkpoint; Ctrl-C once more kills" in said
    assert "interrupted: 1 of 4 runs are finished; the same command goes on" in said


def two(stage: Stage) -> tuple[subprocess.Popen[str], list[Actor], subprocess.Popen[str]]:
    """compare.py with the four runs that it has started, and a second one that waits for them."""
    stage.wait_for_orders()
    first = stage.compare("--jobs", "4")
    actors = [stage.accept() for _ in range(4)]
    second = stage.compare("--jobs", "4")
    for _ in range(4):
        read_until(second, "another process has it")
    return first, actors, second


def test_two_at_once(stage: Stage) -> None:
    first, actors, second = two(stage)
    for actor in actors:
        actor.say("finish")
    assert first.wait(LONG) == 0 and second.wait(LONG) == 0
    assert all(statuses(run) == ["COMPLETED"] for run in stage.runs)


def test_the_second_takes_over(stage: Stage) -> None:
    first, before, second = two(stage)
    first.kill()
    assert all(actor.gone() for actor in before)
    for _ in range(4):
        stage.accept().say("finish")
    assert second.wait(LONG) == 0 and all_once(stage.runs)


def test_the_run_itself_holds_the_lock(stage: Stage) -> None:
    """Also when it outlives the process that started it, as it may where the system is not Linux."""
    stage.wait_for_orders()
    run = stage.runs[0]
    attempt = attempts.begin(run)
    assert isinstance(attempt, Attempt)
    actor = stage.accept()
    assert attempts.begin(run) == Result("busy") and attempt.poll() is None
    actor.say("finish")
    attempt.process.wait()
    assert attempts.begin(run) == Result("finished") and statuses(run) == ["COMPLETED"]


# --- the order of things ---
class Immediate:
    """A pool whose runs end in the order of their start."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.going: list[Run] = []
        self.most = 0
        self.started: list[Run] = []
        self.stopped = False

    def start(self, run: Run) -> None:
        self.going.append(run)
        self.started.append(run)
        self.most = max(self.most, len(self.going))

    def ended(self, timeout: float) -> list[tuple[Run, Result]]:
        return [(self.going.pop(0), Result("finished"))]

    def stop(self) -> None:
        self.stopped = True


@pytest.mark.parametrize("slots", [1, 3, 9])
def test_no_more_than_there_are_slots(stage: Stage, slots: int) -> None:
    pool = Immediate(slots)
    outcome = scheduler.conduct(stage.runs, pool, scheduler.Overview(runs := stage.runs, "pair"))
    assert pool.most == min(slots, 4) and pool.stopped and len(outcome.finished) == 4
    assert [(run.algorithm, run.seed) for run in pool.started] == [(run.algorithm, run.seed) for run in runs]


def test_overview(stage: Stage) -> None:
    time = [0.0]
    runs = stage.runs
    overview = scheduler.Overview(runs, "pair", clock=lambda: time[0])
    overview.begin()
    overview.going.append(runs[0])
    overview.starting(runs[0])
    (record(runs[0], "RUNNING") / "info.json").write_text(json.dumps({"loss_T": [10, 500], "loss": [1.0, 0.5]}))
    time[0] = 10.0
    overview.refresh()
    assert overview.line() == "0 of 4 runs done · 1 running · 0 failed · 12% of the steps · 1 min 10 s left"


def test_the_time_left_is_that_of_what_this_call_runs(stage: Stage) -> None:
    """Neither what was finished before nor what has failed, nor an older record of the run that goes on."""
    time = [0.0]
    skipped, failed, going, waiting = stage.runs
    overview = scheduler.Overview(stage.runs, "pair", clock=lambda: time[0])
    overview.outcome.skipped.append(skipped)
    overview.begin()
    assert overview.time_left() == ""
    overview.outcome.failed[failed] = "it broke"
    info = record(going, "INTERRUPTED") / "info.json"
    info.write_text(json.dumps({"loss_T": [900], "loss": [1.0]}))
    os.utime(info.with_name("run.json"), (1, 1))
    overview.starting(going)
    overview.going.append(going)
    time[0] = 10.0
    overview.refresh()
    assert overview.time_left() == "", "steps of a record that this attempt has not touched"
    os.utime(info.with_name("run.json"))
    time[0] += 2 * scheduler.REFRESH
    overview.refresh()
    per_step = time[0] / 900
    assert overview.time_left() == duration(per_step * (100 + waiting.config["t_max"]))


def test_overview_on_a_terminal(stage: Stage) -> None:
    terminal = Console(force_terminal=True, width=140, file=io.StringIO())
    overview = scheduler.Overview(stage.runs, "pair", terminal)
    scheduler.conduct(stage.runs, Immediate(2), overview)
    assert isinstance(terminal.file, io.StringIO)
    shown = terminal.file.getvalue()
    assert "VDN on game, seed 2" in shown and "0 of 1,000 steps" in shown and "4 of 4 runs done" in shown


# --- plans, arguments ---
def test_dry_run(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([*stage.words, "--dry-run", "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert not stage.out.exists()
    assert "4 runs, 0 done, 4 to run, 2 at once" in out
    assert "estimated time: 20 s for 2 of them; unknown for the other 2" in out  # VDN's figure: 2 x 1000 steps at 50/s
    lines = {line.split()[0]: line.split() for line in out.splitlines() if "game" in line}
    assert lines["VDN"][-1] == "file" and "50" in lines["VDN"] and "unknown" in lines["IQL"]
    assert compare.main([*stage.words, "--dry-run", "--jobs", "9"]) == 0
    assert "estimated time: 20 s for 2 of them" in capsys.readouterr().out, "sooner than its longest run"


def test_dry_run_measures_finished_runs(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    record(stage.runs[0], "COMPLETED")  # 1000 steps in 10 s
    record(stage.runs[1], "COMPLETED", t_max=2000)  # IQL: 200 steps/s, in a run that is not counted
    assert compare.main([*stage.words, "--dry-run", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert "4 runs, 1 done, 3 to run" in out and "estimated time: 20 s\n" in out  # 10 + 2 x 5 s
    assert out.count("finished runs") == 2
    loaded = load_experiment(str(stage.file))
    long = plan(loaded, stage.out, ["t_max=720000"])  # VDN at 100 steps/s: two hours a run
    speeds = forecast.speeds(long)
    hours = list(forecast.table(long, {long[0]}, speeds).columns[7].cells)
    assert speeds["VDN", "game"].steps == pytest.approx(100) and hours[0] == "2.00", "of a finished run, too"


def test_records_are_in_the_order_of_their_numbers(stage: Stage) -> None:
    first = record(stage.runs[0], "INTERRUPTED")
    for number in ("10", "2"):
        shutil.copytree(first, first.with_name(number))
    assert [one.folder.name for one in records.records(stage.runs[0].folder)] == ["1", "2", "10"]


def test_dry_run_measures_published_runs(stage: Stage, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = stage.runs
    whole_record(runs[0], runs[0].published)  # VDN: 1000 steps in 20 s
    whole_record(runs[1], runs[1].published, lr=0.5)  # IQL, with settings of another
    assert compare.main([*stage.words, "--dry-run", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("published runs") == 1 and "estimated time: 20 s for 1 of them; unknown for the other 2" in out
    record(runs[0], "COMPLETED")  # 10 s: what was made here goes before
    assert compare.main([*stage.words, "--dry-run", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert "published runs" not in out and "estimated time: 10 s for 1 of them" in out


def test_dry_run_measures_published_runs_of_other_experiments(
    stage: Stage, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, changes in (
        (stage.runs[0], {"seed": 7}),
        (stage.runs[1], {"lr": 0.5}),
    ):  # VDN; IQL, set otherwise
        elsewhere = checkout / "results/another/runs" / run.folder.relative_to(stage.out / "runs")
        whole_record(run, elsewhere, **changes)
    assert compare.main([*stage.words, "--dry-run", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert "4 runs, 0 done" in out and out.count("published runs of other experiments") == 1
    assert "estimated time: 40 s for 2 of them; unknown for the other 2" in out  # 1000 steps in 20 s
    whole_record(stage.runs[0], stage.runs[0].published)
    assert compare.main([*stage.words, "--dry-run", "--jobs", "1"]) == 0
    assert "of other experiments" not in capsys.readouterr().out


def test_dry_run_takes_variants_for_as_fast(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Another algorithm of the same config file on the same task, as its speed is known."""
    stage.file.write_text(FILE.replace("tasks:\n", "  VDN, lr: {config: vdn, overrides: {lr: 0.1}}\ntasks:\n"))
    assert compare.main([*stage.words, "--dry-run", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert "estimated time: 1 min 20 s for 4 of them; unknown for the other 2" in out and "as VDN: the file" in out
    record(stage.runs[0], "COMPLETED")  # 100 steps/s
    assert compare.main([*stage.words, "--dry-run", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert "estimated time: 30 s for 3 of them" in out and out.count("as VDN: finished runs") == 1


@pytest.mark.parametrize(("steps", "rate", "source"), [(1, 12, "as VDN, 4 times its updates"), (8, 50, "as VDN")])
def test_dry_run_takes_more_updates_for_as_many_times_slower(
    steps: int, rate: int, source: str, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """VDN makes one every 4 steps here; how much faster it is with fewer nobody knows."""
    more = f"  other updates: {{config: vdn, overrides: {{env_steps_per_update: {steps}}}}}\n"
    stage.file.write_text(FILE.replace("tasks:\n", more + "tasks:\n"))
    assert compare.main([*stage.words, "--dry-run", "--jobs", "1"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "other updates" in line)
    assert f"1,000        {rate}" in line and line.strip().endswith(f"{source}: the file")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of --experiment, --search and --report RUNS is wanted, nothing is given"),
        (["--report"], "--report without RUNS is given"),
        (["--experiment=quick", "--report", "somewhere"], "--experiment and --report RUNS is given"),
        (["--experiment=quick", "--report", "--jobs=1"], "--jobs does not go with --report"),
        (["--experiment=pair.yaml", "--report", "--out=x"], "x: nothing of pair was run there"),
        (["--experiment=pair.yaml", "--report", "--seeds=2"], "nothing of pair, part --seeds 2 was run there"),
        (
            ["--experiment=pair.yaml", "--seeds", "3", "--dry-run"],
            "--seeds 3: there is none of this name in pair.yaml; there are 1, 2",
        ),
        (["--experiment=pair.yaml", "--tasks", "gama", "--dry-run"], "did you mean game?"),
        (["--experiment=pair.yaml", "--algorithms", "with", "t_max=5"], "--algorithms: at least one is wanted"),
        (
            ["--search=mmsa_lbf", "--algorithms", "x", "--dry-run"],
            "--algorithms x: there is none of this name in config/searches",
        ),
        (["--report", ".", "--out", "x", "--seeds", "1"], "--seeds does not go with --report RUNS"),
        (["--report", ".", "--out", "x", "--publish"], "--publish does not go with --report RUNS"),
        (["--experiment=quick", "--publish", "--report"], "--publish does not go with --report"),
        (["--experiment=quick", "--publish", "--seeds", "1"], "--seeds does not go with --publish"),
        (["--experiment=quick", "--publish", "--dry-run"], "--dry-run does not go with --publish"),
        (["--publish"], "nothing is given"),
        (["--experiment=quick", "--search=x"], "--experiment and --search is given"),
        (["--experiment=quik"], "did you mean quick?"),
        (["--search=nothing"], "there is no such file in config/searches"),
        (["--experiment=quick", "--jobs", "0"], "--jobs 0: must be 1 or more"),
        (["--experiment=quick", "--jobs", "many"], "invalid int value"),
        (["--experiment=quick", "t_max=5"], "write: with t_max=5"),
        (["--experiment=quick", "with", "seed=5"], "list it in seeds"),
        (["--experiment=quick", "with", "t_maks=5"], "did you mean t_max?"),
        (["--search=mmsa_lbf", "with", "lr=0.1"], "searches over lr"),
        (["--search=mmsa_lbf", "--dry-run", "with", "sale={lr: 0.1}"], "searches over sale.lr"),
        (["--report", "somewhere"], "--out is missing"),
        (["--report", "somewhere", "--out", "x"], "--report somewhere: there is no such folder"),
        (["--report", ".", "--out", "x", "--jobs", "2"], "--jobs does not go with --report"),
        (["--experiment", "quick", "--reference", "QMIX"], "--reference goes with --report RUNS alone"),
        (["--report", ".", "with", "a=1", "--out", "x"], "does not go with --report"),
        (["--experiment=quick", "--out", "/dev/null/x"], "is no writable folder"),
    ],
)
def test_bad_arguments(stage: Stage, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    before = set(Path.cwd().rglob("*"))
    assert compare.main(words) == 2
    assert message in capsys.readouterr().err and set(Path.cwd().rglob("*")) == before


def test_report_only(stage: Stage, reported: list, tmp_path: Path) -> None:
    assert compare.main(["--report", ".", "mongodb://host/db", "--out", "page", "--reference", "QMIX", "VDN"]) == 0
    assert reported[0].references == ["QMIX", "VDN"]
    assert reported[0].runs == ("loaded", ".", "mongodb://host/db") and reported[0].out == Path("page")


def test_a_report_without_a_reference_says_so(stage: Stage, reported: list, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--report", ".", "--out", "page"]
    assert compare.main([*words, "--reference", "vdn", "qmixx"]) == 2 and not reported
    said = "--reference qmixx: no run's algorithm or curve is called so; did you mean QMIX?; there are QMIX, VDN"
    assert said in capsys.readouterr().err
    assert compare.main(words) == 0
    said = "nothing is compared, since no run's algorithm is called MMSA: --reference takes one of QMIX, VDN\n"
    assert capsys.readouterr().out.startswith(said) and reported[0].references == ["MMSA"]
    assert compare.main([*words, "--reference", "vdn"]) == 0
    assert "compared" not in capsys.readouterr().out and reported[1].references == ["vdn"]


def test_two_settings_of_one_algorithm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        lr, seed = 0.001 if number < 3 else 0.0005, number % 3
        written = sr.record(sr.configuration("mmsa", seed=seed, lr=lr), sr.tests(1000 * lr))
        sr.write(tmp_path / f"runs/{number}", written)
    words = ["--report", str(tmp_path / "runs"), "--out", str(tmp_path / "page")]
    assert compare.main(words) == 0
    said = "nothing is compared, since all curves are of MMSA: --reference takes one of mmsa lr=0.0005, mmsa lr=0.001\n"
    assert capsys.readouterr().out.startswith(said)
    assert compare.main([*words, "--reference", "MMSA lr=0.001"]) == 0
    assert "compared" not in capsys.readouterr().out
    assert "| mmsa lr=0.001 | mmsa lr=0.0005 | 2.000 [" in (tmp_path / "page/table.md").read_text()


def test_a_reference_that_has_no_whole_run_yet(tmp_path: Path) -> None:
    for name, status in (("qmix", "COMPLETED"), ("mmsa", "RUNNING")):
        sr.write(tmp_path / f"runs/{name}", sr.record(sr.configuration(name), sr.tests(0.5), status=status))
    words = ["--report", str(tmp_path / "runs"), "--out", str(tmp_path / "page"), "--reference", "mmsa"]
    assert compare.main(words) == 0
    assert "No complete run is called mmsa" in (tmp_path / "page/index.html").read_text()


def test_a_report_of_what_there_is(stage: Stage, reported: list, capsys: pytest.CaptureFixture[str]) -> None:
    record(stage.runs[0], "COMPLETED")
    record(stage.runs[1], "INTERRUPTED")
    other = record(stage.runs[2], "COMPLETED", t_max=77)
    assert compare.main([*stage.words, "--report"]) == 0
    assert "1 of 4 runs are finished" in capsys.readouterr().out
    (call,) = reported
    assert call.runs == ("loaded", str(stage.out / "runs")) and call.out == stage.out / "report"
    assert call.planned == [run.config for run in stage.runs] and call.title == "Two learners on a game"
    assert not call.ranked and call.references == ["VDN"], "the file's first algorithm, as none is called MMSA"
    assert call.problems[0].startswith(f"not counted, of another configuration: {other}")
    assert not any((run.folder / "run.log").exists() for run in stage.runs), "it has run something"
    assert compare.main([*stage.words, "--report", "with", "lr=0.1"]) == 0
    assert reported[1].planned[0]["lr"] == 0.1
    assert reported[1].out == stage.out / "report/with_lr=0.1", "the report of the file's own runs is lost"
    assert compare.main([*stage.words, "--seeds", "2", "--report", "with", "lr=0.1"]) == 0
    assert reported[2].out == stage.out / "report/part_--seeds_2_with_lr=0.1"


def test_a_report_of_a_file_that_is_no_plan_without_the_words(stage: Stage, reported: list) -> None:
    record(stage.runs[0], "COMPLETED", lr=0.1)
    stage.file.write_text(FILE.replace("overrides: {use_cuda", "overrides: {lr: -1, use_cuda"))
    assert compare.main([*stage.words, "--report"]) == 2
    assert compare.main([*stage.words, "--report", "with", "lr=0.1"]) == 0
    assert reported[0].out == stage.out / "report/with_lr=0.1"


def test_a_search_is_ranked_not_compared(stage: Stage, reported: list) -> None:
    search = stage.file.with_name("search.yaml")
    rest = FILE.partition("tasks:")[2]
    search.write_text("algorithm: {config: vdn}\nkeys: {lr: [0.1, 0.01]}\ntasks:" + rest)
    (stage.out / "runs").mkdir(parents=True)
    assert compare.main([f"--search={search}", "--out", str(stage.out), "--report"]) == 0
    assert reported[0].ranked and reported[0].references == [] and len(reported[0].planned) == 4


# --- the real thing ---
def test_real_runs(tmp_path: Path, stage: Stage, reported: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """main.py's own records are recognised as finished, and what it learnt is there."""
    monkeypatch.setattr(attempts, "MAIN", ROOT / "src" / "main.py")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "plugins"))
    stage.file.write_text(
        FILE.replace("seeds: [1, 2]", "seeds: [3]")
        .replace("t_max: 1000", "t_max: 200")
        .replace("threads: 2", "threads: 1")
    )
    words = [*stage.words, "with", "test_interval=100", "env_args.k=-5.0", "epsilon_finish=0.5"]
    assert compare.main(words) == 0
    runs = compare.make_plan(compare.parser().parse_intermixed_args(words), words[-3:])[2]
    assert len(runs) == 2 and all(statuses(run) == ["COMPLETED"] for run in runs) and all_once(runs)
    found = records.find(runs[0]).finished
    assert found is not None and found.config["label"] == "VDN" and found.steps >= 200
    assert compare.main(words) == 0
    assert all(statuses(run) == ["COMPLETED"] for run in runs)
    assert all((run.folder / "run.log").read_text().count("$ ") == 1 for run in runs)


@pytest.fixture
def cluster(stage: Stage) -> Iterator[str]:
    """The address of a Ray cluster of two machines, of one CPU each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=size | {"include_dashboard": False})
    try:
        cluster.add_node(**size)
        yield cluster.address
    finally:
        cluster.shutdown()


def test_a_worker_of_a_cluster_has_the_run_where_compare_was_started(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A cluster's own working directory is where it was started; the run's paths may be relative."""
    stage.out = Path("out")
    stage.write()
    run = stage.runs[0]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert ray_pool.execute(run, STAND_IN, tmp_path).state == "finished"
    assert not list(Path().iterdir()) and (tmp_path / run.folder / attempts.LOG).exists()
    assert ray_pool.execute(run, STAND_IN, tmp_path).state == "finished"
    assert statuses(replace(run, folder=tmp_path / run.folder)) == ["COMPLETED"], "it was trained again"


@pytest.mark.slow
def test_ray(stage: Stage, cluster: str) -> None:
    """Both machines at once, a skipped run, a retry; killed, its runs die; started again, it ends."""
    stage.file.write_text(FILE.replace("threads: 2", "threads: 1"))
    stage.wait_for_orders()
    skipped = stage.runs[3]
    record(skipped, "COMPLETED")
    first = stage.compare("--ray", cluster)
    one, two = stage.accept(), stage.accept()
    one.say("crash")
    three = stage.accept()
    three.say("finish")
    four = stage.accept()
    assert four.folder == one.folder, "a crashed run is tried again after the others"
    first.kill()
    assert two.gone() and four.gone()
    interrupted = stage.compare("--ray", cluster)
    actors = [stage.accept(), stage.accept()]
    interrupted.terminate()
    assert interrupted.wait(LONG) == 130 and all(actor.gone() for actor in actors)
    second = stage.compare("--ray", cluster)
    for _ in range(2):
        stage.accept().say("finish")
    assert second.wait(LONG) == 0 and all_once(stage.runs)
    assert statuses(stage.runs[2]) == ["COMPLETED"] and not (skipped.folder / "run.log").exists()


@pytest.mark.slow
def test_ray_with_too_small_machines(stage: Stage, cluster: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([*stage.words, "--ray", cluster]) == 2
    assert "a run needs 2 CPUs" in capsys.readouterr().err and not stage.out.exists()


def test_the_home_folder_after_an_equals_sign(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--out=~/runs, which a shell leaves as it is, is one folder for us and for the runs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    words = [f"--experiment=~/{stage.file.relative_to(tmp_path)}", "--out=~/runs"]
    _, out, runs = compare.make_plan(compare.parser().parse_intermixed_args(words), [])
    assert out == tmp_path / "runs"
    assert all(run.folder.is_relative_to(out) and run.config["local_results_path"] == str(run.folder) for run in runs)


def test_without_ray(stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    assert compare.main([*stage.words, "--ray", "auto"]) == 2
    assert 'pip install "epymarl-mmsa[ray]"' in capsys.readouterr().err and not stage.out.exists()


@pytest.mark.parametrize("words", [["--bogus"], ["--jobs"], ["--report"], []])
def test_no_message_quotes_the_password(stage: Stage, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    url = "mongodb://me:s3cret@127.0.0.1:1/lab?serverSelectionTimeoutMS=50"
    assert compare.main([*words, url, "--out=x"]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and "s3cret" not in output.err + output.out
