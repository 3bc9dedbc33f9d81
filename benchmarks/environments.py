"""Speed of environments: worker processes, and what the vector interface costs beyond SMAX itself.

    python benchmarks/environments.py                     all of it
    python benchmarks/environments.py --only workers      MuJoCo and RWARE with 2 worker processes against 1
    python benchmarks/environments.py --only smax         32 battles acting at random, against jaxmarl's own step

Programs that are compared run in turn, and the median of the ratios is given: the machine's other work hits both alike.
README.md beside this file has our figures. "By CPU time" is no measurement but what follows from the CPU seconds that
the workers (w, shared out evenly) and this process (m, while they wait) used: (m + w) / (m + w / 2). "Evenness" is how
much of that the two could share out: the steps taken, over twice those of the worker that had more of them, call by
call (1 where no episode ends before the others; else the longest ones keep one worker waiting).
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "plugins")]

import envs  # noqa: E402

WORKERS = (
    ("mamujoco", {"key": "HalfCheetah-6x1"}),
    ("mamujoco", {"key": "Ant-8x1"}),
    ("gymma", {"key": "rware-tiny-2ag-v2"}),
)


def make(env: str, env_args: dict[str, Any], n_envs: int, workers: int = 0) -> envs.VectorEnv:
    args = SimpleNamespace(
        env=env, env_args=env_args, batch_size_run=n_envs, env_workers=workers, env_timeout=None, seed=1,
        common_reward=True, reward_scalarisation="sum",
    )  # fmt: skip
    return envs.make_vector_env(args)


class Played(NamedTuple):
    """Environment steps a second, and how evenly two workers share them."""

    rate: float
    evenness: float


def play(vector: envs.VectorEnv, seconds: float, rng: np.random.Generator) -> Played:
    """Acts at random for about that long; episodes begin anew together, as in a run."""
    active = np.ones(vector.n_envs, bool)
    vector.reset()
    steps, busier, start = 0, 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        halves = [int(half.sum()) for half in np.array_split(active, 2)]
        steps += sum(halves)
        busier += max(halves)
        wish = rng.random(vector.avail_actions.shape, dtype=np.float32) * vector.avail_actions
        for i, _ in vector.step(wish.argmax(-1), active):
            active[i] = False
        if not active.any():
            vector.reset()
            active[:] = True
    return Played(steps / elapsed, steps / (2 * busier))


def cpu_seconds(vector: Any) -> tuple[float, float]:
    """Of this process and of the vector environment's workers, since each began (Linux)."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in vector.worker_pids]
    return time.process_time(), sum(int(s[11]) + int(s[12]) for s in stats) / os.sysconf("SC_CLK_TCK")


def workers(seconds: float, pairs: int) -> None:
    rng = np.random.default_rng(0)
    for (env, env_args), n_envs in itertools.product(WORKERS, (8, 32)):
        one, two = (make(env, env_args, n_envs, n) for n in (1, 2))
        with one, two:
            for vector in (one, two):
                play(vector, 0.5, rng)
            rates, evenness, main, work = [], [], 0.0, 0.0
            for _ in range(pairs):
                before = cpu_seconds(two)
                second = play(two, seconds, rng)
                used = [after - earlier for after, earlier in zip(cpu_seconds(two), before, strict=True)]
                main, work = main + used[0], work + used[1]
                rates.append((play(one, seconds, rng).rate, second.rate))
                evenness.append(second.evenness)
        ratios = sorted(b / a for a, b in rates)
        first, second = (statistics.median(column) for column in zip(*rates, strict=True))
        print(
            f"{env_args['key']:<18} {n_envs:2d} environments: {first:6.0f} steps/s in 1 worker, {second:6.0f} in 2, "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, {pairs} pairs); by CPU time, "
            f"were two cores free: {(main + work) / (main + work / 2):.2f}; evenness {statistics.median(evenness):.2f}",
            flush=True,
        )


def bare_smax(map_name: str, n_envs: int) -> Callable[[float], float]:
    """jaxmarl's own step for as many battles, jitted, with random numbers for actions that are drawn in JAX, too.

    No observation leaves JAX and no mask is asked for: what SMAX costs whoever uses it.
    """
    from envs.smax import _import_jax

    jax, smax = _import_jax()
    env = smax.HeuristicEnemySMAX(scenario=smax.map_name_to_scenario(map_name))
    n_actions = env.num_ally_actions

    def one(key: Any, state: Any) -> tuple[Any, Any, Any]:
        key, draw, own = jax.random.split(key, 3)
        chosen = jax.random.randint(draw, (len(env.agents),), 0, n_actions)
        obs, state, reward, _, _ = env.step_env(own, state, {a: chosen[i] for i, a in enumerate(env.agents)})
        return key, state, (obs, reward)

    step, start = jax.jit(jax.vmap(one)), jax.jit(jax.vmap(env.reset))
    keys = jax.random.split(jax.random.key(0), n_envs)

    def rate(seconds: float) -> float:
        nonlocal keys
        _, state = start(keys)
        keys, state, out = step(keys, state)
        keys, state, out = step(keys, state)  # the types of a reset and of a step differ: compiled twice
        jax.block_until_ready(out)
        steps, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < seconds:
            keys, state, out = step(keys, state)
            jax.block_until_ready(out)
            steps += n_envs
            if steps % (100 * n_envs) == 0:
                _, state = start(keys)
        return steps / elapsed

    return rate


def smax(seconds: float, pairs: int, map_name: str, n_envs: int) -> None:
    rng = np.random.default_rng(0)
    bare = bare_smax(map_name, n_envs)
    with make("smax", {"map_name": map_name}, n_envs) as vector:
        play(vector, 0.5, rng)
        bare(0.5)
        rates = [(play(vector, seconds, rng).rate, bare(seconds)) for _ in range(pairs)]
        ours, theirs = (statistics.median(column) for column in zip(*rates, strict=True))
        # an episode ends when its last battle does: what matters here is the time of a call
        on = np.ones(n_envs, bool)
        vector.reset()
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            wish = rng.random(vector.avail_actions.shape, dtype=np.float32) * vector.avail_actions
            vector.step(wish.argmax(-1), on)
            calls += 1
            if calls % 100 == 0:
                vector.reset()
        call = (time.perf_counter() - start) / calls
    print(
        f"{map_name}, {n_envs} battles: {ours:.0f} steps/s at random through the vector interface ({pairs} times), "
        f"{n_envs / call:.0f} where all battles count in every call; jaxmarl's bare step {theirs:.0f}\n"
        f"a call {1e3 * call:.2f} ms, of which jaxmarl's step {1e3 * n_envs / theirs:.2f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["workers", "smax"], help="one part of it")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--pairs", type=int, default=5, help="measurements of each program, in turn")
    parser.add_argument("--map-name", default="smacv2_5_units", help="SMAX scenario")
    parser.add_argument("--envs", type=int, default=32, help="SMAX battles")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before the start")
    if options.only != "smax":
        workers(options.seconds, options.pairs)
    if options.only != "workers":
        smax(options.seconds, options.pairs, options.map_name, options.envs)


if __name__ == "__main__":
    main()
