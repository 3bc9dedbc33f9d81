"""Attempts on a Ray cluster whose machines see this folder, and that of the results, under the same path."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import attempts
from experiments.attempts import Attempt, Result
from experiments.planning import Run
from utils.config import ConfigError

SRC = Path(__file__).parents[1]


def execute(run: Run, main: Path, folder: Path) -> Result:
    """One attempt, from beginning to end; what a worker of the cluster does. Cancelling it interrupts the run.

    :param folder: compare.py's working directory, to which the run's paths belong, and not to the worker's own.
    """
    attempt = attempts.begin(replace(run, folder=folder / run.folder), main, folder)
    if not isinstance(attempt, Attempt):
        return attempt
    try:
        while (result := attempt.poll()) is None:
            time.sleep(attempts.POLL)
        return result
    finally:
        if attempt.process.returncode is None:
            attempts.stop([attempt])


class RayPool:
    """As attempts.LocalPool. `jobs`: at most so many at once; by default as many as the cluster has CPUs for."""

    def __init__(self, address: str, cost: int, jobs: int | None = None) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise ConfigError('--ray needs the package ray: pip install "epymarl-mmsa[ray]"') from None
        self._ray: Any = ray
        self.cost, self.jobs = cost, jobs
        paths = [str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])]
        runtime = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
        try:
            ray.init(address=address, runtime_env=runtime, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise ConfigError(f"--ray {address}: no connection to this cluster: {error}") from None
        largest = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
        if largest < cost:  # Ray would wait for a larger machine for ever
            ray.shutdown()
            needs = f"a run needs {cost} CPUs (torch_threads + env_workers + pipeline)"
            raise ConfigError(f"--ray {address}: {needs}, the cluster's largest machine has {largest}")
        self._task = ray.remote(num_cpus=cost, max_retries=0)(execute)
        self._going: dict[Any, Run] = {}

    @property
    def slots(self) -> int:
        """So many runs fit on the machines that the cluster has at the moment: one run is on one machine."""
        machines = [node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"]]
        there = sum(int(cpus) // self.cost for cpus in machines)
        return max(1, there if self.jobs is None else min(self.jobs, there))

    def start(self, run: Run) -> None:
        self._going[self._task.remote(run, attempts.MAIN, Path.cwd())] = run

    def ended(self, timeout: float) -> list[tuple[Run, Result]]:
        if not self._going:
            time.sleep(timeout)
            return []
        ready, _ = self._ray.wait(list(self._going), num_returns=1, timeout=timeout)
        return [(self._going.pop(reference), self._result(reference)) for reference in ready]

    def _result(self, reference: Any) -> Result:
        try:
            result: Result = self._ray.get(reference)
            return result
        except self._ray.exceptions.RayError as error:  # the worker or its machine is gone, and the run with it
            return Result("crashed", f"the cluster says: {error}")

    def stop(self) -> None:
        for reference in self._going:
            self._ray.cancel(reference)
        if self._going:
            self._ray.wait(list(self._going), num_returns=len(self._going), timeout=2 * attempts.GRACE)
        self._going = {}
        self._ray.shutdown()
