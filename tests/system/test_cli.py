"""The command line: what is said, the exit status, and that nothing is written when the configuration is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import main
from utils.checkpoints import MANIFEST, Checkpoints
from utils.config import compose
from utils.sacred_run import add_artifacts, results_folder

ROOT = Path(__file__).resolve().parents[2]
KEY = "Foraging-5x5-2p-1f-v3"
NOT_REPEATED = ("time_", "unique_token")  # of a run's record: times, and the name of its folder
RUN = ["--config=vdn", "--env-config=lbf"]


def shell(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "src" / "main.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture
def fake_run(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Puts another function in the place of run.run."""
    return lambda function: monkeypatch.setitem(sys.modules, "run", SimpleNamespace(run=function))  # type: ignore[arg-type]


# --- options ---
def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main.main(["--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("--config", "--env-config", "--list", "with", "default.yaml"))


def test_list(capsys: pytest.CaptureFixture[str], tree: Path) -> None:
    assert main.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "vdn        sums of values" in out and "lbf        foraging" in out


def test_list_names_maps_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--list"]) == 0
    out = capsys.readouterr().out
    for word in ("mmsa", "qmix", "vdn", "protoss_5_vs_5", "Foraging-2s-8x8-2p-2f-coop-v3", "smacv2_5_units"):
        assert word in out


def test_a_reader_who_leaves_is_no_error(tree: Path) -> None:
    """main.py --list | head -0"""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(ROOT / "src" / "main.py"), "--list"]
    left = subprocess.run(command, cwd=tree, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(writer)
    assert (left.returncode, left.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    "words",
    [
        [*RUN, "with", "seed=3", "env_args.time_limit=9"],
        ["--config", "vdn", "--env-config", "lbf", "with", "seed=3", "env_args.time_limit=9"],
        ["with", "seed=3", "env_args.time_limit=9", *RUN],
        [*RUN, "with", "seed=3", "with", "env_args.time_limit=9"],
    ],
)
def test_print_config(capsys: pytest.CaptureFixture[str], tree: Path, words: list[str]) -> None:
    assert main.main([*words, "--print-config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["seed"] == 3 and config["env_args"]["time_limit"] == 9 and config["mixer"] == "vdn"
    assert {path.name for path in tree.iterdir()} == {"config"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config is missing"),
        (["--config=vdn"], "--env-config is missing"),
        (["--env-config=lbf"], "--config is missing"),
        ([*RUN, "seed=1"], "write: with seed=1"),
        ([*RUN, "seed=1", "with", "t_max=5"], "write: with seed=1"),
        ([*RUN, "train"], "'train' on the command line"),
        ([*RUN, "--confg=x"], "--confg=x; did you mean --config?"),
        (["--config"], "--config: expected one argument"),
        ([*RUN, "with", "gama=1"], "did you mean gamma?"),
        ([*RUN, "with", "gama=1", "lr=0"], "2 problems"),
        ([*RUN, "with", "local_results_path=config/default.yaml"], "no writable folder"),
    ],
)
def test_wrong_use(
    capsys: pytest.CaptureFixture[str], tree: Path, fake_run: Callable[..., None], words: list[str], message: str
) -> None:
    fake_run(lambda _run, config, log, **_: pytest.fail("a run was begun"))
    assert main.main(words) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and message in output.err
    assert "Traceback" not in output.err
    assert {path.name for path in tree.iterdir()} == {"config"}


# --- runs, with another function in the place of run.run ---
def test_a_word_that_changes_nothing_is_said(
    capsys: pytest.CaptureFixture[str], tree: Path, fake_run: Callable[..., None]
) -> None:
    fake_run(lambda *_, **__: None)
    assert main.main([*RUN, "with", "epochs=3", "td_lambda=0.5", "mixing_embed_dim=8"]) == 0
    said = capsys.readouterr().err
    assert "epochs=3 changes nothing: only learner=ppo_learner reads it, and learner is q_learner" in said
    assert "mixing_embed_dim=8 changes nothing: only mixer=qmix" in said and "td_lambda" not in said


def test_a_run_is_recorded(capsys: pytest.CaptureFixture[str], tree: Path, fake_run: Callable[..., None]) -> None:
    def run(_run: Any, config: dict[str, Any], log: Any, **_: Any) -> None:
        from utils.logging import Logger

        logger = Logger(log)
        logger.setup_sacred(_run)
        logger.record_start(backend="SMAX (jaxmarl 0.2.0)")
        for t in (10, 20):
            logger.log_stat("test_return_mean", t / 100, t)
        logger.print_recent_stats()

    fake_run(run)
    assert main.main([*RUN, "with", "seed=5", "label=a=b"]) == 0
    folder = tree / "results/sacred/vdn/Foraging-5x5-2p-1f-v3/1"
    output = capsys.readouterr()
    assert f"done: {folder.relative_to(tree)}" in output.out and "learning_curve.png" in output.out
    assert "not StarCraft II" in output.err
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    config, info, record, metrics = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "info", "run", "metrics")
    )
    assert config["seed"] == 5 and config["label"] == "a=b" and config["env_args"]["key"] == "Foraging-5x5-2p-1f-v3"
    assert info["test_return_mean"] == [0.1, 0.2] and info["test_return_mean_T"] == [10, 20]
    assert info["backend"] == "SMAX (jaxmarl 0.2.0)" and {"torch", "numpy", "lbforaging"} <= set(info["versions"])
    assert info["command"] == "python src/main.py --config=vdn --env-config=lbf with label=a=b seed=5"
    assert info["cores"] >= 1
    assert metrics["test_return_mean"]["steps"] == [10, 20]
    assert record["status"] == "COMPLETED" and record["experiment"]["sources"]


def test_a_seed_is_drawn_and_recorded(
    capsys: pytest.CaptureFixture[str], tree: Path, fake_run: Callable[..., None]
) -> None:
    seeds: list[int] = []
    fake_run(lambda _run, config, log, **_: seeds.append(config["seed"]))
    assert main.main(RUN) == main.main(RUN) == 0
    recorded = [json.loads(path.read_text())["seed"] for path in sorted(tree.glob("results/sacred/*/*/*/config.json"))]
    assert recorded == seeds and seeds[0] != seeds[1]
    assert f"seed={seeds[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "recorded"),
    [
        (RuntimeError("it broke"), 1, "FAILED"),
        (SystemExit("it broke"), 1, "FAILED"),  # an environment may call sys.exit
        (KeyboardInterrupt(), 130, "INTERRUPTED"),
    ],
)
def test_runs_that_end_early(
    capsys: pytest.CaptureFixture[str],
    tree: Path,
    fake_run: Callable[..., None],
    error: BaseException,
    status: int,
    recorded: str,
) -> None:
    def run(_run: Any, config: dict[str, Any], log: Any, **_: Any) -> None:
        raise error

    fake_run(run)
    assert main.main(RUN) == status
    (record,) = tree.glob("results/sacred/vdn/*/1/run.json")
    assert json.loads(record.read_text())["status"] == recorded
    assert ("it broke" in capsys.readouterr().err) == (recorded == "FAILED")


@pytest.mark.parametrize(
    ("word", "said"), [("lr=0.1", True), ("save_model=True", False), ("keep_finished=True", False)]
)
def test_a_finished_run_says_what_would_have_kept_its_networks(
    word: str, said: bool, capsys: pytest.CaptureFixture[str], tree: Path, fake_run: Callable[..., None]
) -> None:
    def run(_run: Any, config: Any, log: Any, *, checkpoints: Checkpoints, **_: Any) -> None:
        (checkpoints.folder / "10").mkdir(parents=True)
        (checkpoints.folder / "10" / MANIFEST).touch()

    fake_run(run)
    assert main.main([*RUN, "with", word]) == 0
    output = capsys.readouterr().out
    assert "done: " in output and ("save_model=True saves them, keep_finished=True keeps" in output) == said


def test_a_signal_while_checkpoints_are_removed_changes_nothing(
    capsys: pytest.CaptureFixture[str], tree: Path, fake_run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is finished, and what it leaves is as without the signal."""
    remove = Checkpoints.remove

    def interrupted(self: Checkpoints) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        remove(self)

    monkeypatch.setattr(Checkpoints, "remove", interrupted)
    fake_run(lambda _run, config, log, **_: None)
    assert main.main([*RUN, "with", "checkpoint_interval=100"]) == 0
    (record,) = tree.glob("results/sacred/vdn/*/1/run.json")
    assert json.loads(record.read_text())["status"] == "COMPLETED"
    assert not (record.parent / "checkpoints").exists() and "done: " in capsys.readouterr().out


@pytest.mark.parametrize("evaluate", [True, False])
def test_a_single_test_is_no_curve(tmp_path: Path, evaluate: bool) -> None:
    config = compose("vdn", "gymma", ["seed=1", f"env_args.key={KEY}"]) | {"evaluate": evaluate}
    added: list[str] = []
    run = SimpleNamespace(
        info={"test_return_mean": [0.5], "test_return_mean_T": [10]},
        add_artifact=lambda path, **_: added.append(Path(path).name),
    )
    add_artifacts(run, config, tmp_path)
    assert added == ([] if evaluate else ["learning_curve.png"]) == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("error", "status", "recorded"), [(None, 0, "COMPLETED"), (KeyboardInterrupt(), 130, "INTERRUPTED")]
)
@pytest.mark.parametrize("broken", ["reports.figures.learning_curve", "utils.recording.RunFolder.save_file"])
def test_a_figure_that_cannot_be_drawn_or_kept_decides_about_no_run(
    capsys: pytest.CaptureFixture[str],
    tree: Path,
    fake_run: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    error: BaseException | None,
    status: int,
    recorded: str,
) -> None:
    def run(_run: Any, config: dict[str, Any], log: Any, **_: Any) -> None:
        from utils.logging import Logger

        logger = Logger(log)
        logger.setup_sacred(_run)
        logger.log_stat("test_return_mean", 0.5, 10)
        if error is not None:
            raise error

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    fake_run(run)
    monkeypatch.setattr(broken, full)
    assert main.main(RUN) == status
    (folder,) = tree.glob("results/sacred/vdn/*/1")
    record, metrics = (json.loads((folder / f"{name}.json").read_text()) for name in ("run", "metrics"))
    assert record["status"] == recorded and metrics["test_return_mean"]["values"] == [0.5]
    said = capsys.readouterr().err
    assert "No space left" in said and "Traceback" not in said


def test_a_missing_simulator_is_named_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    assert main.main(["--config=vdn", "--env-config=sc2v2", "with", "env_args.backend=starcraft2"]) == 2
    err = capsys.readouterr().err
    assert "SC2PATH" in err and "backend=smax" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--env-config=gymma", "with", "env_args.key=CartPole-v1"], ["CartPole-v1", "one entry for each agent"]),
        (["--env-config=smax", "with", "runner=parallel", "batch_size_run=2", "env_workers=2"], ["env_workers=2"]),
    ],
)
def test_what_an_environment_cannot_do_is_said_before_anything_is_written(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    parts: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["--config=vdn", *words]) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in parts) and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_simulator_has_folders_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A SMAX result never lies where one of StarCraft II would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "run", SimpleNamespace(run=lambda _run, config, log, **_: None))
    for env_config in ("sc2v2", "smax", "gymma"):
        assert (
            main.main(
                [
                    "--config=vdn",
                    f"--env-config={env_config}",
                    "with",
                    *([f"env_args.key={KEY}"] if env_config == "gymma" else []),
                ]
            )
            == 0
        )
    folders = sorted(path.name for path in tmp_path.glob("results/sacred/vdn/*"))
    assert folders == sorted([KEY, "protoss_5_vs_5-SMAX", "smacv2_5_units-SMAX"])


def test_folder_names_are_tame(tree: Path) -> None:
    for key, folder in (("../a b", "__a_b"), ("rware:tiny-v2", "rware:tiny-v2")):
        config = {"local_results_path": "results", "name": "vdn", "env": "gymma", "env_args": {"key": key}}
        assert results_folder(config).name == folder
    assert not (tree / "results").exists()


def test_the_same_seed_gives_the_same_metrics(tree: Path) -> None:
    words = [
        *RUN,
        "with",
        "t_max=300",
        "test_interval=200",
        "test_nepisode=2",
        "batch_size=2",
        "env_steps_per_update=25",
    ]
    words += ["log_interval=100", "runner_log_interval=100", "learner_log_interval=50"]
    for seed in (1, 1, 2):
        assert main.main([*words, f"seed={seed}"]) == 0
    records = [json.loads(path.read_text()) for path in sorted(tree.glob("results/sacred/vdn/*/*/info.json"))]
    first, again, other = ({key: info[key] for key in info if not key.startswith(NOT_REPEATED)} for info in records)
    assert len(first["loss"]) > 1 and first == again and first["loss"] != other["loss"]


@pytest.mark.parametrize("pipeline", [False, True])
def test_mmsa_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: bool) -> None:
    """Two vectorised runs of one seed, with everything of MMSA in use, record the same values at the same steps."""
    monkeypatch.chdir(tmp_path)
    words = "--config=mmsa --env-config=gymma with seed=5 t_max=1000 runner=parallel batch_size_run=3 batch_size=4 "
    words += (
        "env_steps_per_update=20 target_update_interval_or_tau=3 test_interval=200 test_nepisode=4 log_interval=200 "
    )
    words += f"learner_log_interval=20 runner_log_interval=50 env_args.key={KEY} pipeline={pipeline}"
    for _ in range(2):
        assert main.main(words.split()) == 0
    first, again = (json.loads(path.read_text()) for path in sorted(tmp_path.glob("results/sacred/mmsa/*/*/info.json")))
    assert len(first["mmsa_loss_kl"]) > 3 and first["mmsa_loss_recon"][0] != first["mmsa_loss_recon"][-1]
    assert first.pop("unique_token") != again.pop("unique_token")
    assert {k: v for k, v in first.items() if not k.startswith("time_")} == again


# --- real processes ---
def test_process_with_a_wrong_key(tmp_path: Path) -> None:
    done = shell(tmp_path, "--config=qmix", "--env-config=gymma", "with", "lrr=1", f"env_args.key={KEY}")
    assert done.returncode == 2 and done.stdout == "" and "did you mean lr?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_process_without_arguments(tmp_path: Path) -> None:
    done = shell(tmp_path)
    assert done.returncode == 2 and "mmsa" in done.stderr and "sc2v2" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("algorithm", ["qmix", "mmsa"])
def test_process_that_trains(tmp_path: Path, algorithm: str) -> None:
    words = "with t_max=300 test_interval=200 test_nepisode=2 batch_size=2 log_interval=100 seed=1".split()
    done = shell(tmp_path, f"--config={algorithm}", "--env-config=gymma", *words, f"env_args.key={KEY}")
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob(f"results/sacred/{algorithm}/{KEY}/1")
    assert (folder / "learning_curve.png").exists()
    info = json.loads((folder / "info.json").read_text())
    assert info["test_return_mean"] and info["backend"].startswith("lbforaging")
    assert "step 3" in done.stderr and "\x1b[" not in done.stderr  # plain lines, no display
