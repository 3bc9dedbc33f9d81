"""Environments shared out over worker processes.

E environments of envs.vector, whose arrays lie in memory that is shared with the workers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import struct
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from .multiagentenv import EPISODE_LOST, EnvContractError, MultiAgentEnv
from .vector import Ended, EnvFactory, EnvGroup, VectorEnv, arrays_in, check_dims, close, layout_of, made, n_bytes

MOST_LOST = 3  # times in a row that a worker process is started anew before the run stops


class EnvWorkerError(RuntimeError):
    """An environment in a worker process raised (its traceback is in the message), or the process died or hung."""


class _WorkerLost(Exception):
    """A worker process died or hung; says how."""


class WorkerVectorEnv(VectorEnv):
    """Environments shared out over worker processes.

    The arrays lie in memory shared with the workers, so only a command and the infos of ended episodes cross the pipes.
    Factories are pickled (a class or `functools.partial` of one is fine). The values are those of SerialVectorEnv with
    the same factories. Workers are started with `spawn` and end when this process does, however it ends.

    A worker that dies, or gives no answer for `timeout` seconds (None: that is waited for), is started anew, and its
    episodes are EPISODE_LOST: whoever collects them plays others. MOST_LOST times in a row is too often.
    """

    def __init__(
        self,
        factories: Sequence[EnvFactory],
        n_workers: int,
        common_reward: bool = True,
        seeds: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> None:
        probe = made(factories[0])  # sizes and configuration errors, before any process is started
        try:
            dims = check_dims(probe.get_env_info(), type(probe).__name__)
        finally:
            close(probe)
        context = multiprocessing.get_context("spawn")
        # An anonymous mapping handed over by its descriptor: nothing is left behind whichever process is killed.
        n_envs = len(factories)
        shared = context.RawArray("b", n_bytes(layout_of(dims, n_envs, common_reward)))
        super().__init__(dims, n_envs, common_reward, buffer=shared)
        self._take_identity(probe)
        bounds = np.linspace(0, n_envs, min(n_workers, n_envs) + 1).astype(int).tolist()
        self._spans = list(zip(bounds[:-1], bounds[1:], strict=True))
        n_workers = len(self._spans)
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._lost = [0] * n_workers  # how often each one was lost since it last brought an episode to its end
        self._actions, self._active = self._arrays["actions"], self._arrays["active"]

        def start(worker: int) -> tuple[Connection, Any]:
            first, last = self._spans[worker]
            ours, theirs = context.Pipe()
            if timeout is not None:
                _give_up_after(ours, timeout)
            own = None if seeds is None else list(seeds[first:last])
            process = context.Process(
                target=_work,
                args=(theirs, list(factories[first:last]), first, dims, n_envs, common_reward, own, shared),
                name=f"env-worker-{first}-{last - 1}",
                daemon=True,
            )
            process.start()
            theirs.close()  # else the end of the worker would not be seen here
            return ours, process

        self._start, self._timeout = start, timeout
        try:
            for worker in range(n_workers):
                pipe, process = start(worker)
                self._pipes.append(pipe)
                self._processes.append(process)
            for worker in range(n_workers):
                self._receive(worker)
        except _WorkerLost as how:
            self.close()
            raise EnvWorkerError(str(how)) from None
        except BaseException:
            self.close()
            raise

    @property
    def worker_pids(self) -> list[int]:
        return [p.pid for p in self._processes]

    def reset(self) -> None:
        waiting: Sequence[int] = range(len(self._spans))
        while waiting:  # those that were lost, and are there again
            _, waiting = self._call(waiting, "reset", self.episode)
        self.episode += 1

    def step(self, actions: np.ndarray, active: np.ndarray) -> Ended:
        self._actions[:] = actions
        self._active[:] = active
        busy = [w for w, (first, last) in enumerate(self._spans) if active[first:last].any()]
        answers, lost = self._call(busy, "step")
        ended: Ended = []
        for worker, of_worker in answers.items():
            if of_worker:
                self._lost[worker] = 0
                ended += of_worker
        for worker in lost:
            there = [i for i in range(*self._spans[worker]) if active[i]]
            self.terminated[there], self.truncated[there] = False, True
            ended += [(i, {EPISODE_LOST: 1.0}) for i in there]
        return sorted(ended, key=lambda one: one[0]) if lost else ended

    def show(self) -> None:
        _, lost = self._call([0], "show")
        if lost:
            raise EnvWorkerError("show: a worker process was lost")

    def _call(self, workers: Sequence[int], command: str, argument: int = 0) -> tuple[dict[int, Any], list[int]]:
        """(worker -> its answer, workers that were lost and are started anew)."""
        if self._closed:
            raise EnvWorkerError("this vector environment is closed")
        answers: dict[int, Any] = {}
        lost: dict[int, str] = {}
        for worker in workers:
            try:
                self._pipes[worker].send((command, argument))
            except OSError:
                lost[worker] = self._how(worker)
        for worker in workers:
            if worker not in lost:
                try:
                    answers[worker] = self._receive(worker)
                except _WorkerLost as error:
                    lost[worker] = str(error)
        for worker, how in lost.items():
            self._again(worker, how)
        return answers, list(lost)

    def _receive(self, worker: int) -> Any:
        try:
            fine, answer = self._pipes[worker].recv()
        except BlockingIOError:
            end_group(self._processes[worker])
            raise _WorkerLost(f"{self._name(worker)} gave no answer for {self._timeout:g} seconds") from None
        except (EOFError, OSError):  # the pipe closes at the moment the process ends
            raise _WorkerLost(self._how(worker)) from None
        if not fine:
            self.close()
            raise EnvWorkerError(answer)
        return answer

    def _again(self, worker: int, how: str) -> None:
        """Starts a lost worker anew; EnvWorkerError where that was done too often."""
        self._lost[worker] += 1
        if self._lost[worker] > MOST_LOST:
            self.close()
            raise EnvWorkerError(f"{how}; it was started anew {MOST_LOST} times in a row")
        instead = "it is started anew, and other episodes are played in place of its own"
        warnings.warn(f"{how}; {instead}", RuntimeWarning, stacklevel=4)
        self._pipes[worker].close()
        self._pipes[worker], self._processes[worker] = self._start(worker)
        try:
            self._receive(worker)
        except _WorkerLost as again:
            self._again(worker, str(again))

    def _how(self, worker: int) -> str:
        code = end_group(self._processes[worker], patience=5)
        how = f"{self._name(worker)} ended, exit code {code}"
        return how + (f" (killed by {signal.Signals(-code).name})" if code is not None and code < 0 else "")

    def _name(self, worker: int) -> str:
        first, last = self._spans[worker]
        envs = f"environment {first}" if last == first + 1 else f"environments {first} to {last - 1}"
        return f"the worker process {self._processes[worker].pid} of {envs}"

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for pipe in self._pipes:
            try:
                pipe.send(("close", 0))
            except OSError:
                pass  # already gone
            pipe.close()
        for process in self._processes:
            if process.pid is not None:
                end_group(process, patience=5)


def _give_up_after(pipe: Connection, seconds: float) -> None:
    """Lets the pipe's recv() raise BlockingIOError where nothing comes for so long; the kernel keeps the time."""
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    with socket.socket(fileno=os.dup(pipe.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def _work(
    pipe: Connection,
    factories: list[EnvFactory],
    first: int,
    dims: dict[str, int],
    n_envs: int,
    common_reward: bool,
    seeds: list[int] | None,
    shared: Any,
) -> None:
    """Main function of a worker process."""
    lead_group()
    arrays = arrays_in(shared, layout_of(dims, n_envs, common_reward))
    last = first + len(factories)
    actions, active = arrays["actions"][first:last], arrays["active"][first:last]
    envs: list[MultiAgentEnv] = []
    group = None
    try:
        for make in factories:
            envs.append(made(make))
            if (got := check_dims(envs[-1].get_env_info(), type(envs[-1]).__name__)) != dims:
                raise EnvContractError(f"environment {first + len(envs) - 1} has sizes {got}, the first has {dims}")
        group = EnvGroup(envs, arrays, first, common_reward, seeds)
        with _main_process():
            pipe.send((True, None))
        while True:
            with _main_process():
                command, argument = pipe.recv()
            answer: Any = None
            if command == "close":
                break
            if command == "step":
                answer = group.step(actions, active)
            elif command == "reset":
                group.reset(argument)
            elif command == "show":
                envs[0].show()
            with _main_process():
                pipe.send((True, answer))
    except _MainGone:
        pass
    except Exception:
        place = group.where() if group is not None else f"environment {first + len(envs)}, construction"
        with contextlib.suppress(OSError):
            pipe.send((False, f"in {place}, worker process {os.getpid()}:\n{traceback.format_exc()}"))
    finally:
        for env in envs:
            close(env)


class _MainGone(Exception):
    """The main process is no longer there. (An environment whose own process broke down raises the pipe's errors.)"""


@contextlib.contextmanager
def _main_process() -> Iterator[None]:
    """_MainGone where nobody is at the other end of the pipe."""
    try:
        yield
    except (EOFError, OSError) as error:
        raise _MainGone from error


def lead_group() -> None:
    """Puts this process and what it starts, as a game is, into a group, which ends once its own parent is gone.

    Signals that ask a run to stop are for that parent, which then ends this group.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


def end_group(process: Any, patience: float = 0) -> int | None:
    """Ends a process that leads a group, and what it has started, which may outlive it.

    patience: seconds in which it may end by itself. Returns the exit code that it then has, None where it was killed.
    """
    process.join(timeout=patience)
    code = process.exitcode
    with contextlib.suppress(ProcessLookupError):  # there is no such group, or not yet
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    return code
