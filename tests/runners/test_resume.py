"""A run that was cut off and goes on from a checkpoint equals, to the bit, one that was not."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from support.settings import config

import run
from components.episode_buffer import ReplayBuffer
from envs.matrix_game import MatrixGame
from learners.q_learner import QLearner
from runners.episode_runner import EpisodeRunner
from runners.pipelined_runner import CollectorError
from utils import checkpoints as checkpoints_module
from utils.checkpoints import CheckpointError, Checkpoints
from utils.config import compose
from utils.logging import Logger
from utils.signals import Interrupted, StopSignals

LOG = logging.getLogger("test")
T_MAX = 200


class Killed(BaseException):
    """In the place of SIGKILL."""


class World:
    """Runs through run.run that note what they end as."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.ends: list[dict[str, Any]] = []
        self.logger: Any = None
        train = run.train
        logger_class = Logger

        def note_logger(log: Any) -> Logger:
            self.logger = logger_class(log)
            return self.logger

        def noted(args: Any, runner: Any, buffer: ReplayBuffer, learner: Any, *rest: Any) -> None:
            self.learner, self.buffer, self.runner = learner, buffer, runner
            train(args, runner, buffer, learner, *rest)
            self.runner_state = runner.state_dict()  # before it is closed

        monkeypatch.setattr(run, "train", noted)
        monkeypatch.setattr(run, "Logger", note_logger)

    def start(self, values: dict[str, Any], name: str, stop: StopSignals | None = None, **changes: Any) -> Any:
        """Begins, or goes on, until it is over; what everything is then."""
        checkpoints = Checkpoints(self.folder / name, values["keep_checkpoints"])
        checkpoints.lock()
        try:
            saved, problems = checkpoints.newest()
            assert problems == []
            run.run(None, values | changes, LOG, checkpoints, saved, stop)
        finally:
            checkpoints.unlock()
        return self.end()

    def end(self) -> dict[str, Any]:
        (piece,) = self.buffer.pieces(0, 2**40)
        return {
            "learner": self.learner.state_dict(),
            "buffer": self.buffer.state_dict(),
            "episodes": piece,
            "runner": self.runner_state,
            "torch": th.get_rng_state(),
            "latest": self.logger.state_dict()["latest"],
        }


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(os, "fsync", lambda number: None)  # no power fails here
    return World(tmp_path, monkeypatch)


def equal(a: Any, b: Any, where: str = "") -> None:
    """The same to the bit, whatever is in it."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            equal(x, y, f"{where}/{i}")
    elif isinstance(a, th.Tensor):
        assert a.dtype == b.dtype and th.equal(a, b), where
    else:
        assert a == b, where


def settings(**changes: Any) -> dict[str, Any]:
    values = {
        "name": "test",
        "t_max": T_MAX,
        "env": "matrix",
        "env_args": {},
        "batch_size": 4,
        "buffer_size": 30,
        "hidden_dim": 8,
        "env_steps_per_update": 9,
        "test_interval": 70,
        "test_nepisode": 3,
        "log_interval": 100,
        "runner_log_interval": 50,
        "learner_log_interval": 10,
        "epsilon_anneal_time": 300,
        "checkpoint_interval": 60,
        "mixer": "qmix",
        "target_update_interval_or_tau": 5,
    }
    return config(**(values | changes))


PPO = {
    "learner": "ppo_learner",
    "mixer": None,
    "agent_output_type": "pi_logits",
    "action_selector": "multinomial",
    "env_steps_per_update": "batch",
    "buffer_size": 4,
    "standardise_returns": True,
    "target_update_interval_or_tau": 3,
    "test_greedy": False,
}
LBF = {"env": "gymma", "env_args": {"key": "Foraging-5x5-2p-1f-v3", "time_limit": 12}}
SETTINGS = {
    "qmix": settings(standardise_rewards=True, standardise_returns=True),
    "iql, rewards of each agent": settings(mixer=None, common_reward=False, standardise_rewards=True, **LBF),
    "stretches": settings(sequence_length=3, burn_in=1, runner="parallel", batch_size_run=3, t_max=400, **LBF),
    "evaluation that explores": settings(evaluation_epsilon=0.3, target_update_interval_or_tau=0.05),
    "update an episode": settings(env_steps_per_update="episode", epsilon_start=0.5, checkpoint_interval=15),
    "pipeline": settings(pipeline=True, evaluation_epsilon=0.2, runner="parallel", batch_size_run=2, **LBF),
    "ppo": settings(**PPO),
    "ppo, two environments": settings(**PPO, runner="parallel", batch_size_run=2),
}


MMSA = compose(
    "mmsa",
    "matrix",
    "seed=1 use_cuda=False t_max=200 batch_size=4 buffer_size=30 hidden_dim=8 env_steps_per_update=9 test_interval=70 "
    "test_nepisode=3 runner_log_interval=50 learner_log_interval=10 checkpoint_interval=60 "
    "target_update_interval_or_tau=5 standardise_rewards=True".split(),
)
SETTINGS["mmsa"] = MMSA


def dies_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, error: BaseException) -> Callable:
    """The given call of a method raises instead; undo() makes it whole."""
    real, calls = getattr(owner, name), [0]

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, broken)
    return lambda: monkeypatch.setattr(owner, name, real)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_killed_run_goes_on_as_if_nothing_had_been(name: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    values = SETTINGS[name]
    whole = world.start(values, "whole")
    learner = type(world.learner)
    for call in (12, 3):  # in an update, which leaves no checkpoint behind it; twice, once soon after the first resume
        undo = dies_at(monkeypatch, learner, "train", call, Killed())
        with pytest.raises(Killed):
            world.start(values, "killed")
        undo()
    assert Checkpoints(world.folder / "killed").newest()[0] is not None
    equal(whole, world.start(values, "killed"))


# --- stopped by a signal, or by an environment ---
class StopsAt(StopSignals):
    """A signal comes before the n-th step of the environments."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.number = signal.SIGTERM
        super().check()


# 72 to 77 are the first test's. With a pipeline a signal is noticed between rollouts: 3 is the first test's second one.
@pytest.mark.parametrize(
    ("name", "step"),
    [
        *itertools.product(["evaluation that explores", "ppo, two environments"], [1, 75, 110]),
        *itertools.product(["pipeline"], [1, 3, 9]),
    ],
)
def test_a_signal_in_a_rollout_or_a_test_loses_no_step(name: str, step: int, world: World) -> None:
    values = SETTINGS[name]
    whole = world.start(values, "whole")
    with pytest.raises(Interrupted) as stopped:
        world.start(values, "stopped", StopsAt(step))
    assert stopped.value.status == 128 + signal.SIGTERM
    (saved, _) = Checkpoints(world.folder / "stopped").newest()
    assert saved is not None and saved.manifest.t_env == world.runner.t_env
    equal(whole, world.start(values, "stopped"))


def test_a_signal_between_two_updates_loses_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    values = settings(env_steps_per_update=1, t_max=60)  # two updates after each episode
    whole = world.start(values, "whole")
    stop, train = StopSignals(), QLearner.train

    def stopping(self: QLearner, *given: Any) -> None:
        train(self, *given)
        if self.training_steps == 31:
            stop.number = signal.SIGINT

    monkeypatch.setattr(QLearner, "train", stopping)
    with pytest.raises(Interrupted):
        world.start(values, "stopped", stop)
    assert world.learner.training_steps == 31, "the run did not stop at once"
    monkeypatch.setattr(QLearner, "train", train)
    equal(whole, world.start(values, "stopped"))


def test_what_an_environment_breaks_off_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = world.start(settings(), "whole")
    undo = dies_at(monkeypatch, MatrixGame, "step", 110, RuntimeError("the simulator is gone"))
    with pytest.raises(RuntimeError, match="the simulator is gone"):
        world.start(settings(), "broken")
    undo()
    saved, _ = Checkpoints(world.folder / "broken").newest()
    assert saved is not None and saved.manifest.t_env > 60 + 9, "the last step is not kept"
    equal(whole, world.start(settings(), "broken"))


BREAKS = """
import os, envs
from envs.matrix_game import MatrixArgs, MatrixGame

class Env(MatrixGame):
    resets = 0

    def reset(self, seed=None):
        Env.resets += 1
        if os.path.exists(__file__ + ".breaks") and Env.resets == CALL:
            raise RuntimeError("the simulator is gone")
        return super().reset(seed)

def register():
    envs.register("breaks", Env, MatrixArgs)
"""


# The second of the first test's three episodes, after two; one of training, which each rollout's checkpoint waits for
@pytest.mark.parametrize(("call", "interval"), [(4, 150), (46, 1)])
def test_what_breaks_off_in_the_other_process_goes_on(call: int, interval: int, world: World, tmp_path: Path) -> None:
    module, breaks = tmp_path / "my_breaking_env.py", tmp_path / "my_breaking_env.py.breaks"
    module.write_text(BREAKS.replace("CALL", str(call)))
    values = settings(
        pipeline=True, env="breaks", env_module=str(module), test_interval=10, checkpoint_interval=interval
    )
    breaks.touch()
    with pytest.raises(CollectorError, match="the simulator is gone"):
        world.start(values, "broken")
    breaks.unlink()
    saved, _ = Checkpoints(world.folder / "broken").newest()
    assert saved is not None and saved.manifest.t_env == world.runner.t_env > 0
    again = world.start(values, "broken")
    assert world.runner.t_env > T_MAX
    if call == 4:  # episodes of training are played with later networks than they would have been
        equal(world.start(values, "whole"), again)


@pytest.mark.parametrize("name", ["qmix", "pipeline"])
def test_a_longer_run_is_the_same_whether_it_was_meant_to_be_or_not(name: str, world: World) -> None:
    values = SETTINGS[name]
    longer = world.start(values | {"t_max": 300}, "longer")
    world.start(values, "extended")
    equal(longer, world.start(values | {"t_max": 300}, "extended"))


# --- the files ---
def test_so_many_are_kept_with_no_episode_too_many(world: World) -> None:
    world.start(settings(buffer_size=8), "run")
    folder = world.folder / "run"
    paths = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "replay")
    assert len(paths) == 2 and not list(folder.rglob("*.part"))
    manifests = [json.loads((path / "manifest.json").read_text()) for path in paths]
    ranges = [[(p["first"], p["first"] + p["episodes"]) for p in m["pieces"]] for m in manifests]
    assert ranges[0] != ranges[1] and all(b - a <= 40 for pieces in ranges for a, b in pieces)
    for pieces in ranges:
        assert all(one[1] == other[0] for one, other in zip(pieces, pieces[1:], strict=False))
        assert pieces[-1][1] - 8 >= pieces[0][0]
    named = {f"{a:09d}-{b - 1:09d}.pt" for pieces in ranges for a, b in pieces}
    assert {path.name for path in (folder / "replay").iterdir()} == named


class NoEpisodes:
    """A replay buffer of which nothing is to be written."""

    oldest = 0

    def pieces(self, *args: Any) -> Any:
        return iter(())


def saved(folder: Path) -> Path:
    """The first checkpoint, at step 5, of a run without episodes."""
    checkpoints = Checkpoints(folder)
    checkpoints.lock()
    try:
        return checkpoints.save({}, NoEpisodes(), t_env=5, device="cpu", unique_token="x").path
    finally:
        checkpoints.unlock()


@pytest.mark.parametrize("name", ["000001-5.part", "000007-3.part"])
def test_what_a_killed_process_left_is_removed_and_in_nobodys_way(tmp_path: Path, name: str) -> None:
    (tmp_path / "c" / name).mkdir(parents=True)
    (tmp_path / "c" / name / "state.pt").touch()
    assert (saved(tmp_path / "c") / "manifest.json").is_file() and not list((tmp_path / "c").glob("*.part"))


def test_a_checkpoint_is_on_the_disk_before_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda number: synced.add(os.fstat(number).st_ino))
    path = saved(tmp_path / "c")
    assert {file.stat().st_ino for file in (path, *path.iterdir())} <= synced


def test_episodes_are_written_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []
    write = Checkpoints._write_piece

    def noted(self: Checkpoints, content: dict[str, Any]) -> Any:
        numbers.extend(range(content["first"], content["first"] + len(content["lengths"])))
        return write(self, content)

    monkeypatch.setattr(Checkpoints, "_write_piece", noted)
    monkeypatch.setattr(checkpoints_module, "PIECE_BYTES", 500)
    world.start(settings(buffer_size=1000), "run")
    assert numbers == list(range(world.buffer.inserted))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit of the state": (lambda path: flip(path / "state.pt"), "checksum"),
    "half of the state": (lambda path: os.truncate(path / "state.pt", 1000), "has 1000 bytes of"),
    "no state": (lambda path: (path / "state.pt").unlink(), "cannot be read"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "cannot be read"),
    "half of the manifest": (lambda path: os.truncate(path / "manifest.json", 100), "cannot be read"),
    "a bit of the episodes": (lambda path: flip(sorted((path.parent / "replay").iterdir())[-1]), "checksum"),
    "no episodes": (lambda path: sorted((path.parent / "replay").iterdir())[-1].unlink(), "cannot be read"),
    "another one's manifest": (
        lambda path: (path / "manifest.json").write_bytes(
            (sorted(path.parent.glob("*-*"))[0] / "manifest.json").read_bytes()
        ),
        "of another checkpoint",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(damage: str, world: World) -> None:
    whole = world.start(settings(), "whole")
    with pytest.raises(Interrupted):
        world.start(settings(), "run", StopsAt(150))
    folder = world.folder / "run"
    before, newest = sorted(path for path in folder.glob("*-*"))
    hurt, said = DAMAGES[damage]
    hurt(newest)
    checkpoints = Checkpoints(folder)
    saved, problems = checkpoints.newest()
    assert saved is not None and before.name == f"{saved.manifest.number:06d}-{saved.manifest.t_env}"
    assert len(problems) == 1 and said in problems[0] and str(folder) in problems[0]
    checkpoints.lock()
    run.run(None, settings(), LOG, checkpoints, saved)
    checkpoints.unlock()
    equal(whole, world.end())


def test_a_full_disk_stops_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = settings(checkpoint_interval=20, keep_checkpoints=9)
    whole = world.start(values, "whole")
    write, full = checkpoints_module._write_bytes, [0]

    def sometimes(path: Path, content: bytes) -> Any:
        full[0] += 1
        if 5 < full[0] < 14:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    save, left = Checkpoints.save, []

    def noting(self: Checkpoints, *given: Any, **named: Any) -> Any:
        try:
            return save(self, *given, **named)
        except OSError:
            pieces = [json.loads(path.read_bytes())["pieces"] for path in self.folder.glob("*/manifest.json")]
            named_there = {f"{one['first']:09d}" for piece in pieces for one in piece}
            left.append({file.name.partition("-")[0] for file in (self.folder / "replay").iterdir()} - named_there)
            raise

    monkeypatch.setattr(checkpoints_module, "_write_bytes", sometimes)
    monkeypatch.setattr(Checkpoints, "save", noting)
    equal(whole, world.start(values, "full"))
    assert len(left) > 2 and not any(left), "what no checkpoint has still takes space"
    assert caplog.text.count("no checkpoint at step ") == caplog.text.count("No space left on device") > 2
    saved, problems = Checkpoints(world.folder / "full").newest()
    assert saved is not None and problems == [] and not list((world.folder / "full").rglob("*.part"))


def test_after_a_damaged_checkpoint_the_next_ones_are_whole(world: World) -> None:
    """Also where they have its number."""
    world.start(settings(), "run")
    checkpoints = Checkpoints(world.folder / "run")
    (newest, *_) = sorted(world.folder.glob("run/0*/state.pt"), reverse=True)
    newest.write_bytes(newest.read_bytes()[:-1])
    saved, problems = checkpoints.newest()
    assert saved is not None and len(problems) == 1
    checkpoints.lock()
    run.run(None, settings(), LOG, checkpoints, saved)
    checkpoints.unlock()
    again, problems = Checkpoints(world.folder / "run").newest()
    assert again is not None and problems == [] and again.manifest.number == saved.manifest.number + 1


def test_what_fails_after_a_checkpoint_is_there_spoils_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a network's file system may: its folder cannot be synchronised, once."""
    failed: list[Path] = []
    sync = checkpoints_module._sync

    def failing(folder: Path) -> None:
        if folder.name == "run" and len(list(folder.glob("0*-*"))) == 2 and not failed:
            failed.append(folder)
            raise OSError(5, "Input/output error")
        sync(folder)

    monkeypatch.setattr(checkpoints_module, "_sync", failing)
    whole = world.start(settings(), "whole")
    equal(world.start(settings(keep_checkpoints=5), "run"), whole)
    names = sorted(path.name for path in world.folder.glob("run/0*-*"))
    assert failed and [int(name.partition("-")[0]) for name in names] == list(range(1, len(names) + 1)), names
    checkpoints = Checkpoints(world.folder / "run")
    assert len(names) > 3 and all(checkpoints._read(world.folder / "run" / name).state for name in names)


def test_a_checkpoint_without_all_of_its_episodes_is_refused(world: World) -> None:
    world.start(settings(), "run")
    checkpoints = Checkpoints(world.folder / "run")
    saved, _ = checkpoints.newest()
    assert saved is not None and len(saved.manifest.pieces) > 1
    few = saved._replace(manifest=saved.manifest.model_copy(update={"pieces": saved.manifest.pieces[1:]}))
    checkpoints.lock()
    with pytest.raises(CheckpointError, match="episodes of the replay buffer are missing"):
        run.run(None, settings(t_max=300), LOG, checkpoints, few)
    checkpoints.unlock()


def test_a_resumed_run_writes_only_new_episodes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start(settings(buffer_size=1000), "run")
    before, written = world.buffer.inserted, list[int]()
    write = Checkpoints._write_piece

    def noted(self: Checkpoints, content: dict[str, Any]) -> Any:
        written.extend(range(content["first"], content["first"] + len(content["lengths"])))
        return write(self, content)

    monkeypatch.setattr(Checkpoints, "_write_piece", noted)
    world.start(settings(buffer_size=1000, t_max=300), "run")
    assert written == list(range(before, world.buffer.inserted))


def test_two_processes_do_not_resume_one_run(world: World) -> None:
    first, second = Checkpoints(world.folder / "run"), Checkpoints(world.folder / "run")
    first.lock()
    with pytest.raises(CheckpointError, match=f"another process has this run .process {os.getpid()} on"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


class Point(NamedTuple):
    x: int


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(1), "numpy.float64"),
        (np.zeros(2), "numpy.ndarray"),
        (deque([1]), "collections.deque"),
        ({1}, "builtins.set"),
        (Point(1), "a container of its own kind"),
    ],
)
def test_what_could_not_be_read_again_is_no_checkpoint(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: Any, kind: str
) -> None:
    """As of a learner of somebody else's, whose state has a counter more."""
    state = QLearner.state_dict
    monkeypatch.setattr(QLearner, "state_dict", lambda self: state(self) | {"counter": value})
    world.start(settings(), "run")
    assert f"the state_dict() of learner holds what cannot be read again: {kind};" in caplog.text
    assert world.runner.t_env > T_MAX and Checkpoints(world.folder / "run").newest() == (None, [])


def test_a_learner_that_cannot_be_saved_trains_without(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("state_dict", "load_state_dict"):
        monkeypatch.delattr(QLearner.__mro__[1], name)
    with pytest.raises(AttributeError):  # of the test's own end
        world.start(settings(), "run")
    assert world.runner.t_env > T_MAX and "QLearner has no state_dict()" in caplog.text
    assert Checkpoints(world.folder / "run").newest() == (None, [])


# --- files from somebody else ---
class Evil:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("executed",))


def forge(folder: Path, state: Any = None, **changes: Any) -> None:
    """Other content for the newest checkpoint, with the right checksums."""
    path = sorted(folder.glob("*-*"))[-1]
    manifest = json.loads((path / "manifest.json").read_text())
    if state is not None:
        content = state if isinstance(state, bytes) else b""
        if not content:
            th.save(state, path / "state.pt")
            content = (path / "state.pt").read_bytes()
        (path / "state.pt").write_bytes(content)
        manifest["state"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": pickle.dumps(Evil())}, "state.pt cannot be read"),
        ({"state": {"loop": {1, 2}}}, "it holds a set"),
        ({"state": [1]}, "no state of a run"),
        ({"unique_token": "../../elsewhere"}, "names nothing within a folder"),
        ({"unique_token": "/etc"}, "names nothing within a folder"),
        ({"pieces": [{"first": -1, "episodes": 3, "size": 1, "sha256": "0" * 64}]}, "manifest.json cannot be read"),
        ({"more": 1}, "manifest.json cannot be read"),
        ({"format": 2}, "manifest.json cannot be read"),
    ],
)
def test_a_forged_checkpoint_runs_no_code_and_leaves_its_folder_nowhere(
    change: dict[str, Any], said: str, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    world.start(settings(t_max=70, keep_checkpoints=1), "run")
    forge(world.folder / "run", **change)
    saved, problems = Checkpoints(world.folder / "run").newest()
    assert saved is None and len(problems) == 1 and said in problems[0], problems
    assert not (tmp_path / "executed").exists()


def test_another_run_s_state_is_refused(world: World) -> None:
    world.start(settings(t_max=70), "run")
    for changes in ({"hidden_dim": 16}, {"mixer": "vdn"}, PPO):
        with pytest.raises(CheckpointError, match="does not fit this run"):
            world.start(settings(t_max=300), "run", **changes)


def test_the_runner_is_as_before_when_a_rollout_was_cut_short(world: World) -> None:
    world.start(settings(), "run")
    runner: EpisodeRunner = world.runner
    before, draws = runner.state_dict(), th.get_rng_state()
    with pytest.raises(Killed), runner.unless_cut_short():
        runner.run()
        runner.run(test_mode=True)
        raise Killed
    assert not runner.test_stats.returns and th.equal(draws, th.get_rng_state())
    assert runner.env.episode == before["episode"]


def test_nothing_of_an_episode_that_broke_off_is_in_the_next_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start(settings(**LBF), "run")
    runner: EpisodeRunner = world.runner
    undo = dies_at(monkeypatch, type(runner.env), "step", 9, Killed())
    with pytest.raises(Killed), runner.unless_cut_short():
        runner.run()
    undo()
    monkeypatch.setattr(runner.env, "terminated", np.ones(1, bool))
    step = runner.env.step
    monkeypatch.setattr(runner.env, "step", lambda *given: step(*given) or [(0, {})])  # over after one step
    assert runner.run()["filled"].sum() == 2
