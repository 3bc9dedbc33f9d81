"""Plays the next episodes in a process of its own while the learner trains (`pipeline: true`).

    main process    learn from episodes k            learn from episodes k+1          ...
    collector       play k+1 with the networks       play k+2 with the networks       ...
                    after the learning from k-1      after the learning from k

The lag is always one `run`, however fast either process is, so a run with the same seed is the same run. Tests use the
networks of their moment. Networks and episodes are handed over in shared memory.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch as th
from torch import multiprocessing

from components.episode_buffer import EpisodeBatch, Preprocess, Scheme, complete_scheme
from components.random_state import RandomState
from controllers import REGISTRY as mac_REGISTRY
from controllers.basic_controller import weights_of
from envs.workers import end_group, lead_group
from runners.episode_runner import EpisodeRunner
from utils.hosts import register_environment, register_plugin
from utils.process import prepare

END = signal.SIGUSR1  # ends the collector in the middle of an episode; its environments are closed
Metrics = list[tuple[str, float, int]]  # name, value, environment step


class CollectorError(RuntimeError):
    """The process that plays episodes raised (its traceback is in the message), or it died."""


class Played(NamedTuple):
    """What a `run` of the collector ended with."""

    batch: int  # which of the shared batches holds the episodes
    t_env: int
    metrics: Metrics


class PipelinedRunner:
    """An EpisodeRunner in another process, one `run` ahead. To the training loop it is an EpisodeRunner.

    `t_env` counts the steps of the episodes that were handed out.
    """

    def __init__(self, args: SimpleNamespace, logger: Any) -> None:
        self.args, self.logger = args, logger
        self.batch_size: int = args.batch_size_run
        self.t_env = 0
        self.before_step: Callable[[], None] = lambda: None  # as EpisodeRunner's, but before each `run`
        self._under_way = False  # training episodes are being played
        self._ahead: Played | None = None  # some that were waited for before their turn, by a test or a checkpoint
        self._broken_off: CollectorError | None = None  # of episodes that were waited for; the next `run` raises it
        self._before_test: dict[str, Any] | None = None  # the collector's state
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        there = copy.copy(args)
        there.device, there.use_cuda, there.torch_threads = "cpu", False, 1
        # No daemon: those may start no processes, and environments may live in workers.
        self._process = context.Process(target=_collect, args=(theirs, there), name="collector")
        try:
            self._process.start()
            theirs.close()  # else the end of the collector would not be seen here
            self.env, self._sizes = self._receive()
        except BaseException:
            self.close_env()
            raise

    @property
    def collector_pid(self) -> int | None:
        return self._process.pid

    def setup(self, scheme: Scheme, groups: Mapping[str, int], preprocess: Preprocess, mac: Any) -> None:
        self.mac, self._stored = mac, (*scheme, "filled")
        self._batches, self._their_networks = self._ask("setup", scheme, groups, preprocess)

    def get_env_info(self) -> dict[str, int]:
        return dict(self._sizes)

    def run(self, test_mode: bool = False) -> EpisodeBatch:
        """As EpisodeRunner.run. Training episodes were played with the networks of the call before."""
        self.before_step()
        self._wait()
        if self._broken_off is not None:
            raise self._broken_off
        if test_mode:
            if self._before_test is None:
                self._before_test = self._ask("state_dict")
            self._hand_over_networks()
            played = self._ask("play", self.t_env, True)
        else:
            if self._ahead is None:
                self._start()
                self._ahead = self._receive()
            played, self._ahead = self._ahead, None
            self.t_env = played.t_env
            self._start()
        for name, value, t in played.metrics:
            self.logger.log_stat(name, value, t)
        return self._batches[played.batch]

    @contextmanager
    def unless_cut_short(self) -> Iterator[None]:
        """As EpisodeRunner's: an error within leaves the runner as it was before, unless the collector has died.

        Episodes that broke off there are played again with the networks of that moment, not of the run before.
        """
        self._before_test = None
        try:
            yield
        except BaseException:
            if self._before_test is not None and self._process.is_alive():
                self._ask("load_state_dict", self._before_test)
            raise

    def state_dict(self) -> dict[str, Any]:
        """Waits for the episodes that are being played; they are part of it."""
        self._wait()
        ahead = None
        if self._ahead is not None:
            batch = self._batches[self._ahead.batch]
            fields = {key: batch[key].clone() for key in self._stored}
            ahead = {"fields": fields, "t_env": self._ahead.t_env, "metrics": [list(m) for m in self._ahead.metrics]}
        return {"t_env": self.t_env, "collector": self._ask("state_dict"), "ahead": ahead}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.t_env, ahead = state["t_env"], state["ahead"]
        self._ask("load_state_dict", state["collector"])
        if ahead is not None:
            for key in self._stored:
                self._batches[0][key].copy_(ahead["fields"][key])
            self._ahead = Played(0, ahead["t_env"], [(name, value, t) for name, value, t in ahead["metrics"]])

    def close_env(self) -> None:
        """Ends the collector, whatever it is doing. Twice is fine."""
        if self._pipe.closed:
            return
        self._pipe.close()
        pid = self._process.pid
        if pid is None:
            return
        if self._under_way and self._process.is_alive():
            os.kill(pid, END)
        end_group(self._process, patience=10)

    def _start(self) -> None:
        self._hand_over_networks()
        self._send("play", self.t_env, False)
        self._under_way = True

    def _wait(self) -> None:
        """Until nothing is under way. Whoever waits to save the state may do so where the episodes broke off."""
        if self._under_way:
            try:
                self._ahead = self._receive()
            except CollectorError as error:
                self._broken_off = error

    @th.no_grad()
    def _hand_over_networks(self) -> None:
        """Only while the collector waits for a command."""
        for name, tensor in weights_of(self.mac).items():
            self._their_networks[name].copy_(tensor)

    def _ask(self, command: str, *what: Any) -> Any:
        self._send(command, *what)
        return self._receive()

    def _send(self, command: str, *what: Any) -> None:
        try:
            self._pipe.send((command, *what))
        except OSError:
            self._dead()

    def _receive(self) -> Any:
        try:
            fine, answer = self._pipe.recv()
        except (EOFError, OSError):  # the pipe closes at the moment the process ends
            self._dead()
        self._under_way = False  # also after an error: the collector waits for the next command
        if not fine:
            raise CollectorError(answer)
        return answer

    def _dead(self) -> None:
        code = end_group(self._process, patience=5)
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        raise CollectorError(f"the process {self._process.pid}, which plays the episodes, {how}")


class _Metrics:
    """The logger of the collector: keeps the metrics until they are handed over."""

    def __init__(self) -> None:
        self.metrics: Metrics = []

    def log_stat(self, key: str, value: float, t: int) -> None:
        self.metrics.append((key, float(value), t))

    def take(self) -> Metrics:
        taken, self.metrics = self.metrics, []
        return taken


class _Collector:
    """The other side of PipelinedRunner; each method answers one of its commands."""

    def __init__(self, args: SimpleNamespace) -> None:
        if args.plugin:
            register_plugin(args.plugin)
        if args.env_module:
            register_environment(args.env_module)
        prepare(args)
        self.args, self.logger, self.random = args, _Metrics(), RandomState()
        self.runner = EpisodeRunner(args, self.logger)

    def sizes(self) -> tuple[SimpleNamespace, dict[str, int]]:
        env, sizes = self.runner.env, self.runner.get_env_info()
        vars(self.args).update(sizes)
        return SimpleNamespace(backend=env.backend, banner=env.banner, info=dict(env.info)), sizes

    def setup(
        self, scheme: Scheme, groups: Mapping[str, int], preprocess: Preprocess
    ) -> tuple[list[EpisodeBatch], dict[str, th.Tensor]]:
        mac = mac_REGISTRY[self.args.mac](complete_scheme(scheme, preprocess), groups, self.args)
        # Two: while the main process reads one, the other is written.
        batches = [self.runner.new_batch(scheme, groups, preprocess).share_memory() for _ in range(2)]
        self.runner.setup(scheme, groups, preprocess, mac, batches)
        return batches, {name: tensor.share_memory_() for name, tensor in weights_of(mac).items()}

    def play(self, t_env: int, test_mode: bool) -> Played:
        self.runner.t_env = t_env
        with self.runner.unless_cut_short():
            batch = self.runner.run(test_mode)
        at = next(i for i, one in enumerate(self.runner.batches) if one is batch)
        return Played(at, self.runner.t_env, self.logger.take())

    def state_dict(self) -> dict[str, Any]:
        return {"runner": self.runner.state_dict(), "random": self.random.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.runner.load_state_dict(state["runner"])
        self.random.load_state_dict(state["random"])


def _collect(pipe: Connection, args: SimpleNamespace) -> None:
    """Main function of the collector: answers commands until the main process closes the pipe."""
    signal.signal(END, lambda *_: sys.exit())
    lead_group()
    collector: _Collector | None = None
    command, what = "sizes", ()
    try:
        while True:
            try:
                if collector is None:
                    collector = _Collector(args)
                answer = True, getattr(collector, command)(*what)
            except Exception:
                answer = False, f"in the process {os.getpid()}, which plays the episodes:\n{traceback.format_exc()}"
            pipe.send(answer)
            command, *what = pipe.recv()
    except (EOFError, OSError):
        pass  # the main process has closed the pipe, or is gone
    finally:
        if collector is not None:
            collector.runner.close_env()
