"""What the record of a run costs: CPU time of everything that tracks, as a share of the whole run's.

    python benchmarks/tracking.py [--mongo URL] [--config mmsa] [--t-max 20000] [key=value ...]

Without --mongo the stand-in server of tests/support is started, in a process of its own, whose time is not counted. CPU
time is counted by thread, so that other load on the machine changes little: the heartbeat with the files, the
delivery to MongoDB, and Logger.log_stat in the training thread. pymongo's own monitor, a ping every ten seconds, is not
counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
LBF = "env_args.key=Foraging-2s-8x8-2p-2f-coop-v3"
spent: Counter[str] = Counter()  # seconds of CPU time


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its CPU time in this thread added to spent[name]."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.thread_time() - start

    return wrapper


def main() -> None:
    parser = argparse.ArgumentParser(description="What the record of a run costs.")
    parser.add_argument("--mongo", metavar="URL")
    parser.add_argument("--config", default="mmsa")
    parser.add_argument("--t-max", type=int, default=20000)
    parser.add_argument("keys", nargs="*", metavar="key=value")
    options = parser.parse_args()

    import main as program
    import run
    from utils.logging import Logger
    from utils.recording import Delivery, Heartbeat, RunFolder

    Heartbeat.beat = timed("heartbeats: files", Heartbeat.beat)  # type: ignore[method-assign]
    Delivery._run = timed("delivery to MongoDB", Delivery._run)  # type: ignore[method-assign]
    Delivery.started_event = timed("start", Delivery.started_event)  # type: ignore[method-assign]
    RunFolder.started_event = timed("start", RunFolder.started_event)  # type: ignore[method-assign]
    Logger.log_stat = timed("log_stat", Logger.log_stat)  # type: ignore[method-assign]
    training: list[float] = []
    train = run.train

    def whole(*args: Any, **kwargs: Any) -> None:
        start, wall = time.process_time(), time.perf_counter()
        train(*args, **kwargs)
        training.extend((time.process_time() - start, time.perf_counter() - wall))

    run.train = whole
    server = None
    url = options.mongo
    if url is None:
        command = [sys.executable, str(ROOT / "tests/support/mongo_wire.py")]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = server.stdout.readline().strip()
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            words = [f"--config={options.config}", "--env-config=gymma", f"--mongo={url}", "with", LBF, "seed=1"]
            status = program.main([*words, f"t_max={options.t_max}", *options.keys])
            size = sum(path.stat().st_size for path in Path("results/sacred").rglob("*") if path.is_file())
            os.chdir(ROOT)
    finally:
        if server is not None:
            server.terminate()
            server.wait()
    if status or not training:
        sys.exit(status or 1)
    cpu, wall = training
    print(f"{options.config}, {options.t_max} steps: {cpu:.1f} s CPU time, {wall:.1f} s; record {size / 1e6:.2f} MB")
    for name, seconds in sorted(spent.items()):
        print(f"  {name:<22} {seconds:7.3f} s  {seconds / cpu:7.2%}")
    print(f"  {'together':<22} {sum(spent.values()):7.3f} s  {sum(spent.values()) / cpu:7.2%}")


if __name__ == "__main__":
    main()
