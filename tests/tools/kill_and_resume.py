"""Kills a run with SIGKILL at random moments, resumes it each time, and compares its end with that of one left alone.

    python tests/tools/kill_and_resume.py --kills 500 --config mmsa --env gymma

Compared, to the bit: the last checkpoint (networks, targets, optimiser, counters, random generators), the contents of
the replay buffer, and all metrics but times. The runs are forks of this process, which has imported everything, so that
a start takes little time (SMAX's are processes of their own). The exit status is 1, with a line for each difference,
where an end was not the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "plugins")]

WORDS = {
    "matrix": "env_args.key=two_step t_max=700 test_interval=150 checkpoint_interval=40 batch_size=8 buffer_size=60",
    "gymma": "env_args.key=Foraging-5x5-2p-1f-v3 env_args.time_limit=10 t_max=1000 test_interval=250 "
    "checkpoint_interval=60 batch_size=4 buffer_size=40",
    "smax": "env_args.map_name=3m env_args.time_limit=20 t_max=1500 test_interval=500 checkpoint_interval=200 "
    "batch_size=4 buffer_size=30 runner=parallel batch_size_run=3",
    "mamujoco": "env_args.key=Hopper-3x1 env_args.time_limit=20 t_max=1500 test_interval=500 checkpoint_interval=200 "
    "batch_size=4 buffer_size=30",
}
SMALL = (
    "seed=5 test_nepisode=3 hidden_dim=16 log_interval=200 runner_log_interval=60 learner_log_interval=30 "
    "env_steps_per_update=20 target_update_interval_or_tau=4 epsilon_anneal_time=500 keep_finished=True"
)
PPO = ("mappo", "ippo", "maa2c")


def words_of(config: str, env: str, more: Sequence[str] = ()) -> list[str]:
    """What follows main.py for a new run, or one that goes on."""
    words = [*WORDS[env].split(), *SMALL.split()]
    if config in PPO:
        words = [
            word for word in words if not word.startswith(("env_steps_per", "batch_size", "buffer_size", "target_"))
        ]
        words += ["batch_size=4", "buffer_size=4", "batch_size_run=2"]
    return [f"--config={config}", f"--env-config={env}", "--resume=last", "with", *words, *more]


def fork(words: Sequence[str], folder: Path) -> int:
    """A run in a process of its own, in that folder; its process id."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if "--env-config=smax" in words:  # JAX does not work in a fork
            os.execv(sys.executable, [sys.executable, str(ROOT / "src" / "main.py"), *words])
        import main

        status = main.main(list(words))
    finally:
        os._exit(status)


def completed(folder: Path) -> list[Path]:
    """Records of finished runs."""
    paths = folder.glob("results/sacred/*/*/*/run.json")
    return [path.parent for path in paths if json.loads(path.read_text())["status"] == "COMPLETED"]


def end_of(folder: Path) -> dict[str, Any]:
    """What the finished run in this folder has left."""
    import torch as th

    (record,) = completed(folder)
    checkpoint = sorted(record.glob("checkpoints/*-*/manifest.json"))[-1].parent
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    state = th.load(checkpoint / "state.pt", weights_only=True)
    episodes: dict[int, dict[str, Any]] = {}
    for piece in manifest["pieces"]:
        name = f"{piece['first']:09d}-{piece['first'] + piece['episodes'] - 1:09d}.pt"
        content = th.load(checkpoint.parent / "replay" / name, weights_only=True)
        start = 0
        for i, length in enumerate(content["lengths"]):
            episodes[content["first"] + i] = {k: v[start : start + length] for k, v in content["fields"].items()}
            start += length
    newest = state["buffer"]["inserted"]
    size = json.loads((record / "config.json").read_text())["buffer_size"]
    held = {number: episodes[number] for number in range(max(0, newest - size), newest)}
    metrics = json.loads((record / "metrics.json").read_text())
    info = json.loads((record / "info.json").read_text())
    series = {k: [v["steps"], v["values"]] for k, v in metrics.items() if not k.startswith("time_")}
    same = {k: v for k, v in info.items() if k in metrics and not k.startswith("time_")}
    return {"state": state, "episodes": held, "metrics": series, "info": same}


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Paths to all that is not the same to the bit."""
    import torch as th

    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            if key in a and key in b:
                yield from differences(a[key], b[key], f"{where}/{key}")
            else:
                yield f"{where}/{key}: only in one of them"
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            yield f"{where}: {len(a)} and {len(b)} entries"
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, f"{where}/{i}")
    elif isinstance(a, th.Tensor) and isinstance(b, th.Tensor):
        if a.dtype != b.dtype or not th.equal(a, b):
            yield f"{where}: tensors"
    elif a != b and not (a != a and b != b):
        yield f"{where}: {a!r} and {b!r}"


def beginnings(log: Path) -> int:
    """How often the log says that a training is under way. Before, it compiles its loops or loads them."""
    return log.read_text(errors="replace").count("checkpoint at step") if log.exists() else 0


def trains(child: int, log: Path, before: int) -> None:
    """Waits until the log says so once more than before, or the process has ended."""
    while beginnings(log) <= before:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.005)


def finished(child: int, patience: float) -> int | None:
    """The exit status, or None where the process still goes on after so many seconds."""
    end = time.monotonic() + patience
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


def import_everything(words: Sequence[str]) -> None:
    """What a run of these words imports, so that its forks need not."""
    import matplotlib.backends.backend_agg  # noqa: F401
    import sacred  # noqa: F401

    import main
    import reports.figures  # noqa: F401
    import run  # noqa: F401
    import utils.recording
    import utils.resume  # noqa: F401

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        main.main([word for word in words if not word.startswith("--resume")] + ["--print-config"])


class Trial(NamedTuple):
    kills: int
    resumed: int  # starts that went on from a checkpoint
    runs: int  # brought to their end
    wrong: list[str]  # all that was not as in the run that was left alone


def trial(words: Sequence[str], folder: Path, kills: int, seed: int) -> Trial:
    rng = random.Random(seed)
    alone = folder / "alone"
    alone.mkdir()
    child = fork(words, alone)
    trains(child, alone / "log.txt", 0)
    start = time.monotonic()
    status = finished(child, 600)
    seconds = time.monotonic() - start
    if status != 0:
        return Trial(
            0, 0, 0, [f"the run that was left alone ended with {status}: {(alone / 'log.txt').read_text()[-2000:]}"]
        )
    wanted = end_of(alone)
    killed = resumed = runs = 0
    wrong: list[str] = []
    while killed < kills:
        own = folder / f"killed{runs}"
        own.mkdir()
        while True:
            before = beginnings(own / "log.txt")
            child = fork(words, own)
            if killed < kills and rng.random() < 0.2:  # anywhere: while it starts, too
                status = finished(child, rng.uniform(0, seconds))
            else:
                trains(child, own / "log.txt", before)
                status = finished(child, rng.uniform(0, 0.4 * seconds) if killed < kills else 600)
            if status is not None:
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
            if completed(own):  # it was at its end
                status = 0
                break
        runs += 1
        log = (own / "log.txt").read_text()
        resumed += log.count(" goes on from step ")
        if status != 0:
            return Trial(killed, resumed, runs, [*wrong, f"{own}: exit status {status}: {log[-2000:]}"])
        wrong += [f"{own}: {found}" for found in differences(wanted, end_of(own))]
    return Trial(killed, resumed, runs, wrong)


def cli() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default="qmix")
    parser.add_argument("--env", default="gymma", choices=sorted(WORDS))
    parser.add_argument("words", nargs="*", metavar="key=value")
    options = parser.parse_args()
    import_everything(words_of(options.config, options.env))
    with tempfile.TemporaryDirectory() as folder:
        words = words_of(options.config, options.env, options.words)
        found = trial(words, Path(folder), options.kills, options.seed)
        print(f"{found.kills} kills, {found.resumed} resumes, {found.runs} runs to the end, ", end="")
        print(f"{len(found.wrong)} differences", *found.wrong[:50], sep="\n")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(cli())
