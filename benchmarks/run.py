"""Speed: one update of each algorithm, and training end to end, against an EPyMARL checkout where one is named; memory.

    python benchmarks/run.py                               our own figures
    python benchmarks/run.py --epymarl PATH --pairs 5      besides, ratios to upstream: the two run in turn
    python benchmarks/run.py --only memory updates acting --repeats 6 --pairs 3      what CI prints, under a minute

A figure from one machine says little about another; the ratio of two programs that ran in turn says more. README.md
beside this file has ours.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch as th
from synthetic import N_EPISODES, cut_off, learner_and_batch, scheme, times

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "plugins")]

from mmsa.checkout import UpstreamError, find_checkout  # noqa: E402

TASK = "Foraging-8x8-2p-3f-v3"
ALL_LENGTHS = ", episodes of all lengths"
PARTS = ("memory", "updates", "acting", "shares", "training")


def steps_per_second(results: Path, arguments: list[str]) -> float:
    """Trains and reads the rate, start-up left out, off the time stamps of the run's metrics."""
    command = [sys.executable, str(ROOT / "src/main.py"), *arguments, f"local_results_path={results}"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    newest = max(results.rglob("metrics.json"), key=lambda p: p.stat().st_mtime)
    series = json.loads(newest.read_text())["ep_length_mean"]
    points = [
        (s, datetime.fromisoformat(t)) for s, t in zip(series["steps"], series["timestamps"], strict=True) if s >= 3000
    ]
    (s0, t0), (s1, t1) = points[0], points[-1]
    return (s1 - s0) / (t1 - t0).total_seconds()


class Row(NamedTuple):
    """What is trained in turn: our own programs by what is special about each, and upstream's.

    `base`: that of our own whose time a step the others' are divided by.
    """

    label: str
    ours: dict[str, list[str]]
    theirs: list[str]
    base: str | None = None


def training_rows() -> list[Row]:
    """Both hosts with the same networks, batch, update-to-data ratio and number of environments."""
    qmix = ["--config=qmix", "td_lambda=0.0", "env_steps_per_update=episode"]  # upstream knows no others
    mmsa = ["--config=mmsa", "td_lambda=0.0", "env_steps_per_update=episode"]
    gru = ["--config=qmix", "use_rnn=True", "hidden_dim=64", "epsilon_anneal_time=100000"]
    flat = ["--config=qmix", "use_rnn=False", "hidden_dim=64", "epsilon_anneal_time=100000"]
    mappo = ["--config=mappo"]
    ahead, beside, workers = "pipeline=True", "torch_threads=2", "env_workers=2"
    plain = "our QMIX, GRU"
    return [
        Row("QMIX, GRU", {"": qmix, ahead: [*qmix, ahead]}, gru),
        Row("QMIX, feed-forward", {"": [*qmix, "use_rnn=False"], ahead: [*qmix, "use_rnn=False", ahead]}, flat),
        Row("MAPPO, GRU, 10 environments", {"": mappo, workers: [*mappo, workers]}, mappo),
        Row(
            "MMSA, against upstream's QMIX, GRU",
            {
                "": mmsa,
                beside: [*mmsa, beside],
                ahead: [*mmsa, ahead],
                f"{ahead} {beside}": [*mmsa, ahead, beside],
                plain: qmix,
            },
            gru,
            base=plain,
        ),
    ]


def end_to_end(row: Row, pairs: int, t_max: int, epymarl: Path | None) -> None:
    common = [f"env_args.key=lbforaging:{TASK}", f"t_max={t_max}", "test_interval=100000000"]
    common += ["runner_log_interval=1000", "seed=1"]
    rates: dict[str, list[float]] = {name: [] for name in row.ours}
    other: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(pairs):
            for name, words in row.ours.items():
                rates[name].append(steps_per_second(Path(folder, "ours"), [*_words(words), *common]))
            if epymarl:
                given = [f"--epymarl={epymarl}", *_words(row.theirs), *common]
                other.append(steps_per_second(Path(folder, "upstream"), given))
    for name, own in rates.items():
        line = f"{f'{row.label} {name}':<66} {statistics.median(own):7.0f} steps/s"
        if other:
            ratios = [a / b for a, b in zip(own, other, strict=True)]
            line += f"   upstream {statistics.median(other):6.0f}   ratio {statistics.median(ratios):.2f}"
            line += f" ({min(ratios):.2f} to {max(ratios):.2f}, {pairs} pairs)"
        if row.base not in (None, name):
            times = [b / a for a, b in zip(own, rates[row.base], strict=True)]
            line += f"   {statistics.median(times):.2f} times {row.base}'s time ({min(times):.2f} to {max(times):.2f})"
        print(line, flush=True)


def acting(pairs: int, seconds: float, n_envs: int) -> None:
    """Playing alone: our runner and QMIX's agents in many environments of one process, against their bare steps."""
    import gymnasium
    import lbforaging  # noqa: F401  # registers the task

    import run as host
    from utils.config import compose
    from utils.logging import Logger

    words = [f"env_args.key={TASK}", "seed=1", "runner=parallel", f"batch_size_run={n_envs}"]
    args = host.make_args(compose("qmix", "gymma", words))
    logger = Logger(logging.getLogger("benchmark"))
    runner = host.make_runner(args, logger)
    host.build(args, runner, logger)
    bare = [gymnasium.make(TASK).unwrapped for _ in range(n_envs)]
    rng = np.random.default_rng(0)

    def play() -> float:
        before, start = runner.t_env, time.perf_counter()
        while time.perf_counter() - start < seconds:
            runner.run()
        return (runner.t_env - before) / (time.perf_counter() - start)

    def step() -> float:
        for seed, env in enumerate(bare):
            env.reset(seed=seed)
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for actions in rng.integers(0, args.n_actions, (50, n_envs, args.n_agents)).tolist():
                for env, chosen in zip(bare, actions, strict=True):
                    _, _, terminated, truncated, _ = env.step(chosen)
                    if terminated or truncated:
                        env.reset()
                steps += n_envs
        return steps / (time.perf_counter() - start)

    play()
    rates = [(play(), step()) for _ in range(pairs)]
    runner.close_env()
    shares = [a / b for a, b in rates]
    ours, theirs = (statistics.median(column) for column in zip(*rates, strict=True))
    print(
        f"playing alone, {n_envs} environments{'':<19} {ours:7.0f} steps/s   bare steps {theirs:6.0f}   "
        f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%}, {pairs} times)",
        flush=True,
    )


def _words(arguments: list[str]) -> list[str]:
    """Options first, then the task and `with`."""
    options = [a for a in arguments if a.startswith("--")]
    return [*options, "--env-config=gymma", "with", *[a for a in arguments if a not in options]]


def memory(label: str, n_agents: int, n_actions: int, obs: int, state: int, steps: int, limit: int) -> None:
    """Of 5000 episodes in the replay buffer: what the process grows by, over the size of the stored values (Linux)."""
    from components.episode_buffer import EpisodeBatch, ReplayBuffer

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    fields = scheme(n_agents, n_actions, obs, state)
    batch = EpisodeBatch(fields, {"agents": n_agents}, 50, limit + 1)
    for key in fields:
        batch[key].fill_(1)  # pages that nobody wrote to take no memory
    batch["filled"][:, : steps + 1] = 1
    buffer = ReplayBuffer(fields, {"agents": n_agents}, 5000, limit + 1)
    before = resident()
    for _ in range(100):
        buffer.insert_episode_batch(batch)
    grown = resident() - before
    print(
        f"memory of 5000 episodes, {label:<33} {grown / 1e6:7.0f} MB for {buffer.nbytes / 1e6:.0f} MB of values, "
        f"ratio {grown / buffer.nbytes:.2f}",
        flush=True,
    )


def updates(repeats: int, pairs: int, epymarl: Path | None) -> None:
    """One update of each algorithm, and how MMSA's compares with QMIX's, upstream's too, and grows with the agents."""
    import mmsa

    mmsa.register()
    qmix = update("qmix", {}, 2, 6, 50, repeats)
    whole = update("mmsa", {}, 2, 6, 50, repeats)
    update("qmix", {}, 2, 6, 50, repeats, all_lengths=True)
    update("mmsa", {}, 2, 6, 50, repeats, all_lengths=True)
    update("mmsa", {"world_model.enabled": False}, 2, 6, 50, repeats)
    teams = (5, 10, 20)  # SMACv2's sizes: an action for each enemy, and six more
    grown = [update("mmsa", {}, n, n + 6, 80, max(3, repeats // n)) for n in teams]
    values = teams[-1] * (teams[-1] + 6) / (teams[0] * (teams[0] + 6))
    print(
        f"an update of MMSA over one of QMIX: {whole / qmix:.2f}; from {teams[0]} to {teams[-1]} agents: "
        f"{grown[-1] / grown[0]:.2f}, for {values:.2f} times as many agents x actions",
        flush=True,
    )
    if epymarl:
        against_upstream(repeats, pairs, epymarl)


def against_upstream(repeats: int, pairs: int, epymarl: Path) -> None:
    """Updates of MMSA and of our QMIX over upstream's of QMIX with a GRU, in turn, on batches of the same shape."""
    command = [sys.executable, str(ROOT / "benchmarks/synthetic.py"), str(repeats)]
    path = {**os.environ, "PYTHONPATH": str(epymarl / "src"), "OMP_NUM_THREADS": "1"}
    ours = {name: learner_and_batch(config_of(name), 2, 6, 50) for name in ("mmsa", "qmix")}
    kinds = {"": False, ALL_LENGTHS: True}
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(pairs):
        for kind, all_lengths in kinds.items():
            for name, pair in ours.items():
                taken[name, kind].append(statistics.median(times(*pair, repeats, all_lengths)))
        theirs = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=path).stdout.split()
        for kind, seconds in zip(kinds, theirs, strict=True):
            taken["upstream", kind].append(float(seconds))
        for _, batch in ours.values():
            cut_off(batch, [50] * N_EPISODES)
    for name, kind in ((name, kind) for kind in kinds for name in ours):
        own, others = taken[name, kind], taken["upstream", kind]
        ratios = [a / b for a, b in zip(own, others, strict=True)]
        print(
            f"{name + kind:<44} {1e3 * statistics.median(own):7.1f} ms an update, "
            f"{1e3 * statistics.median(others):.1f} of upstream's QMIX, GRU: {statistics.median(ratios):.2f} times it "
            f"({min(ratios):.2f} to {max(ratios):.2f}, {pairs} pairs)",
            flush=True,
        )


def config_of(name: str, overrides: dict | None = None) -> dict[str, Any]:
    from utils.allocator import keep_freed_memory
    from utils.config import compose

    th.set_num_threads(1)
    keep_freed_memory()
    return compose(name, "gymma", [f"env_args.key={TASK}", *(f"{k}={v}" for k, v in (overrides or {}).items())])


def update(
    name: str, overrides: dict, n_agents: int, n_actions: int, steps: int, repeats: int, all_lengths: bool = False
) -> float:
    """Time (s, the median) and floating-point operations of one update on 32 episodes, one thread."""
    learner, batch = learner_and_batch(config_of(name, overrides), n_agents, n_actions, steps)
    taken = times(learner, batch, repeats, all_lengths)
    work, rate = gflop(lambda: learner.train(batch, 0, 0)), gflop_rate()
    label = name + "".join(f" {k}={v}" for k, v in overrides.items()) + ALL_LENGTHS * all_lengths
    print(
        f"{label:<44} {1e3 * statistics.median(taken):7.1f} ms an update (best {1e3 * min(taken):.1f}), "
        f"{work:.2f} GFLOP in matrix products (torch's own 2048^3 one: {rate:.0f} GFLOP/s), "
        f"32 x {steps} steps, {n_agents} agents, {n_actions} actions",
        flush=True,
    )
    return statistics.median(taken)


def gflop(call: Callable[[], None]) -> float:
    """Floating-point operations of its matrix products, in 10^9: torch's, and those of compiled loops."""
    from torch.utils.flop_counter import FlopCounterMode

    import mmsa.agent
    from modules import compiled

    def values(h: Any, zs: Any, normalise: bool, *weights: Any) -> int:
        w = mmsa.agent.Folded(*weights)
        of_pairs = w.mid.size + w.out.size + w.q2.size
        return len(h) * (w.from_h.size + w.from_zs.size + w.from_phi.size + len(w.action) * of_pairs)

    multiplications: list[tuple[Any, str, Callable[..., int]]] = [
        (compiled, "gru_unroll", lambda gates, w_hh, *_: len(gates) * gates.shape[1] * w_hh.size),
        (compiled, "gru_gradient", lambda gates, w_hh, *_: (len(gates) - 1) * gates.shape[1] * w_hh.size),
        (mmsa.agent, "every_value", values),
        (compiled, "affine", lambda x, w, b: x.size * w.shape[1]),
        (compiled, "product", lambda x, w, out: x.size * w.shape[1]),
        (compiled, "product_gradient", lambda x, grad: x.size * grad.shape[1]),
    ]
    counted = 0

    def counting(function: Callable[..., Any], of: Callable[..., int]) -> Callable[..., Any]:
        def counted_call(*args: Any) -> Any:
            nonlocal counted
            counted += of(*args)
            return function(*args)

        return counted_call

    uncounted = {th.ops.aten.addmm_: lambda x, a, b, out_shape=None, **k: 2 * math.prod(a) * b[1]}
    with ExitStack() as stack:
        for owner, name, of in multiplications:
            stack.enter_context(mock.patch.object(owner, name, counting(getattr(owner, name), of)))
        flops = stack.enter_context(FlopCounterMode(display=False, custom_mapping=uncounted))
        call()
    return (flops.get_total_flops() + 2 * counted) / 1e9


def gflop_rate() -> float:
    """10^9 floating-point operations a second of torch's own product of large matrices."""
    a = th.randn(2048, 2048)
    start = time.perf_counter()
    for _ in range(5):
        a @ a
    return 5 * 2 * 2048**3 / (time.perf_counter() - start) / 1e9


class Clock:
    """Seconds spent in the functions that were given a label, without those in labelled functions within."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def watch(self, owner: Any, name: str, label: str) -> Callable[[], None]:
        """Gives back what undoes it."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.perf_counter() - start
                self.spent[label] += whole - self._inner.pop()
                self._inner[-1] += whole

        setattr(owner, name, timed)
        return lambda: setattr(owner, name, function)


def shares(name: str, t_max: int) -> None:
    """Where the time of a whole training goes, in microseconds an environment step, and what could not be spared."""
    import run as host
    from utils.allocator import keep_freed_memory
    from utils.config import compose
    from utils.logging import Logger
    from utils.signals import StopSignals

    th.set_num_threads(1)
    keep_freed_memory()
    words = [f"env_args.key={TASK}", "seed=1", f"t_max={t_max}", "test_nepisode=1", "checkpoint_interval=null"]
    args = host.make_args(compose(name, "gymma", words))
    logger = Logger(logging.getLogger("benchmark"))
    runner = host.make_runner(args, logger)
    buffer, learner = host.build(args, runner, logger)
    clock = Clock()
    clock.watch(runner.env, "reset", "environment")
    clock.watch(runner.env, "step", "environment")
    clock.watch(runner.mac, "select_actions", "choosing actions")
    clock.watch(runner, "run", "rest of the rollout")
    clock.watch(buffer, "insert_episode_batch", "replay buffer")
    clock.watch(buffer, "sample", "replay buffer")
    clock.watch(learner.optimiser, "step", "optimiser")
    clock.watch(learner, "train", "rest of the update")
    undo = clock.watch(th.Tensor, "backward", "backward pass")
    start = time.perf_counter()
    try:
        host.train(args, runner, buffer, learner, logger, None, None, StopSignals())
    finally:
        undo()
    whole = (time.perf_counter() - start) / runner.t_env
    parts = ", ".join(f"{label} {1e6 * spent / runner.t_env:.0f}" for label, spent in clock.spent.items())
    batch = buffer.sample(args.batch_size)
    updates = learner.training_steps / getattr(args, "epochs", 1) / runner.t_env  # calls of train a step
    products = 1e6 * gflop(lambda: learner.train(batch, 0, 0)) / gflop_rate() * updates
    print(
        f"{name:<6} {1e6 * whole:5.0f} us a step: {parts}; "
        f"matrix products alone, at torch's rate for large ones: {products:.0f}",
        flush=True,
    )
    runner.close_env()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--epymarl", type=Path, default=os.environ.get("EPYMARL_PATH"), help="an EPyMARL checkout to compare with"
    )
    parser.add_argument("--pairs", type=int, default=5, help="runs of each program, in turn; of acting, measurements")
    parser.add_argument("--t-max", type=int, default=20000, help="environment steps of a run")
    parser.add_argument("--repeats", type=int, default=30, help="updates timed")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts of it")
    parser.add_argument("--rows", default="", help="of training: those that begin so, as MMSA")
    options = parser.parse_args()
    if options.epymarl:
        try:
            find_checkout(str(options.epymarl))
        except UpstreamError as error:
            parser.error(str(error))
    versions = f"Python {platform.python_version()}, torch {th.__version__}"
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {versions}")
    parts = options.only or PARTS
    if "memory" in parts:
        memory("LBF (2 agents, 50 steps)", 2, 6, 15, 30, 50, 50)
        memory("SMACv2 (10 agents, 60 of 200 steps)", 10, 16, 192, 320, 60, 200)
    if "updates" in parts:
        updates(options.repeats, options.pairs, options.epymarl)
    if "acting" in parts:
        acting(options.pairs, 2.0, 32)
    if "shares" in parts:
        for name in ("qmix", "mappo", "mmsa"):
            shares(name, options.t_max)
    if "training" in parts:
        for row in [row for row in training_rows() if row.label.startswith(options.rows)]:
            end_to_end(row, options.pairs, options.t_max, options.epymarl)


if __name__ == "__main__":
    main()
