"""Worker processes give the values of environments in this process, and nothing is lost or left when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.processes import alive, gone
from toy_envs import ACTIONS, ON, ToyEnv, toys

from envs import EPISODE_LOST, EnvWorkerError
from envs import workers as workers_module
from envs.vector import SerialVectorEnv
from envs.workers import WorkerVectorEnv

HERE = Path(__file__).parent


@pytest.mark.parametrize("common_reward", [True, False])
def test_workers_give_the_same_values(common_reward: bool, make: Any, play: Any) -> None:
    settings = {"common_reward": common_reward, "key": "Foraging-5x5-2p-1f-v3", "n_envs": 3}
    serial, workers = make("gymma", **settings), make("gymma", workers=2, **settings)
    assert isinstance(serial, SerialVectorEnv) and isinstance(workers, WorkerVectorEnv)
    assert len(workers.worker_pids) == 2
    serial.episode = workers.episode = 5
    a, b = play(serial, episodes=2), play(workers, episodes=2)
    assert len(a) == len(b) and serial.episode == workers.episode == 7
    for x, y in zip(a, b, strict=True):
        assert all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))
    assert serial.backend == workers.backend and serial.info == workers.info
    pids = workers.worker_pids
    workers.close()
    workers.close()
    assert gone(*pids)
    with pytest.raises(EnvWorkerError, match="closed"):
        workers.reset()


@pytest.mark.parametrize("fault", ["raise", "pipe"])
def test_an_error_in_a_worker_is_told_and_ends_all(fault: str) -> None:
    """Also one that the end of the main process would be seen by."""
    vector = WorkerVectorEnv(toys(fault), 2)
    pids = vector.worker_pids
    vector.reset()
    with pytest.raises(EnvWorkerError, match="environment 2 (.|\n)*step 3(.|\n)*toy fault"):
        for _ in range(3):
            vector.step(ACTIONS, ON)
    assert gone(*pids), "a failure left workers behind"


def test_the_window_of_an_environment_in_a_worker() -> None:
    """A toy has none, and says so there."""
    vector = WorkerVectorEnv(toys(""), 2)
    vector.reset()
    with pytest.raises(EnvWorkerError, match="NotImplementedError: ToyEnv has no pictures"):
        vector.show()


def test_a_worker_that_dies_is_started_anew_and_its_episodes_are_lost() -> None:
    vector = WorkerVectorEnv(toys(""), 2)
    vector.reset()
    vector.step(ACTIONS, ON)
    first, second = vector.worker_pids
    os.kill(second, signal.SIGKILL)
    with pytest.warns(RuntimeWarning, match="environments 2 to 3 ended.*SIGKILL.*started anew"):
        assert vector.step(ACTIONS, ON) == [(2, {EPISODE_LOST: 1.0}), (3, {EPISODE_LOST: 1.0})]
    assert vector.worker_pids[0] == first and vector.worker_pids[1] != second
    assert vector.truncated.tolist() == [False, False, True, True] and not vector.terminated.any()
    active = np.array([True, True, False, False])
    vector.step(ACTIONS, active)  # the others go on
    assert vector.obs[:2, 0, 0].tolist() == [3.0, 3.0]
    os.kill(vector.worker_pids[0], signal.SIGKILL)
    with pytest.warns(RuntimeWarning, match="environments 0 to 1"):
        vector.reset()  # is done in the new one
    for _ in range(4):
        assert vector.step(ACTIONS, ON) == []
    assert [i for i, info in vector.step(ACTIONS, ON) if not info.get(EPISODE_LOST)] == [0, 1, 2, 3]
    vector.close()


@pytest.mark.parametrize(
    ("fault", "words"), [("exit", "ended, exit code 7"), ("hang", "gave no answer for 0.5 seconds")]
)
def test_a_worker_that_is_lost_again_and_again_ends_all(
    fault: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "MOST_LOST", 1)
    vector = WorkerVectorEnv(toys(fault), 2)
    for pipe in vector._pipes:
        if fault == "hang":
            workers_module._give_up_after(pipe, 0.5)
    vector._timeout, start = 0.5, vector._start

    def impatient(worker: int) -> Any:
        pipe, process = start(worker)
        pipe.poll(30)  # it is there
        if fault == "hang":
            workers_module._give_up_after(pipe, 0.5)
        return pipe, process

    vector._start = impatient
    pids = vector.worker_pids
    with (
        pytest.warns(RuntimeWarning, match=f"environments 2 to 3 {words}"),
        pytest.raises(EnvWorkerError, match=f"environments 2 to 3 {words}.*1 times in a row"),
    ):
        for _ in range(2):
            vector.reset()
            for _ in range(3):
                vector.step(ACTIONS, ON)
    assert gone(*pids), "a failure left workers behind"


def test_worker_that_cannot_start() -> None:
    with pytest.raises(EnvWorkerError, match="environment 1, construction(.|\n)*unexpected keyword"):
        WorkerVectorEnv([ToyEnv, partial(ToyEnv, nonsense=1)], 2)
    with pytest.raises(EnvWorkerError, match="environment 1 ended, exit code 7"):
        WorkerVectorEnv([ToyEnv, partial(ToyEnv, "stillborn")], 2)


@pytest.mark.parametrize("fault", ["", "hang"])
def test_workers_end_with_a_killed_parent(fault: str) -> None:
    code = (
        "import sys, numpy as np; from functools import partial; from toy_envs import ToyEnv\n"
        "from envs.workers import WorkerVectorEnv\n"
        "if __name__ == '__main__':\n"
        f"    v = WorkerVectorEnv([partial(ToyEnv, {fault!r})] * 2, 2); v.reset(); on = np.ones(2, bool)\n"
        "    for _ in range(2): v.step(np.zeros((2, 2), int), on)\n"
        "    print(*v.worker_pids, flush=True); v.step(np.zeros((2, 2), int), on); sys.stdin.read()"
    )
    path = os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE)])
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    time.sleep(0.3)  # into the step that hangs
    parent.kill()
    parent.wait()
    assert gone(*pids), "workers outlived their parent"
    parent.stdout.close()


def test_episodes_that_were_over_are_not_lost_with_their_worker() -> None:
    with WorkerVectorEnv([partial(ToyEnv, length=2), partial(ToyEnv, "exit")], 1) as vector:
        vector.reset()
        active = np.ones(2, bool)
        vector.step(ACTIONS[:2], active)
        assert vector.step(ACTIONS[:2], active) == [(0, {"score": 2.0})]
        active[0] = False
        with pytest.warns(RuntimeWarning, match="started anew"):
            assert vector.step(ACTIONS[:2], active) == [(1, {EPISODE_LOST: 1.0})]
        assert vector.terminated.tolist() == [True, False] and vector.truncated.tolist() == [False, True]
