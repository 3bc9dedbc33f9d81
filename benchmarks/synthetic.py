"""A learner and a batch of random steps, of either host: that whose modules are on sys.path.

PYTHONPATH=EPYMARL/src python benchmarks/synthetic.py 20      times 20 updates of an EPyMARL checkout's QMIX (GRU), on
                                                              whole episodes and on episodes of all lengths
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch as th

ROOT = Path(__file__).resolve().parents[1]
N_EPISODES = 32


def scheme(n_agents: int, n_actions: int, obs: int, state: int) -> dict[str, dict]:
    return {
        "state": {"vshape": state}, "obs": {"vshape": obs, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": th.long},
        "avail_actions": {"vshape": (n_actions,), "group": "agents", "dtype": th.uint8},
        "reward": {"vshape": (1,)}, "terminated": {"vshape": (1,), "dtype": th.uint8},
    }  # fmt: skip


def learner_and_batch(config: dict[str, Any], n_agents: int, n_actions: int, steps: int) -> tuple[Any, Any]:
    """The learner of this configuration, and 32 episodes of `steps` random steps, whose last one terminates them."""
    from components.episode_buffer import EpisodeBatch
    from components.transforms import OneHot
    from controllers import REGISTRY as MACS
    from learners import REGISTRY as LEARNERS

    th.manual_seed(0)
    obs = 15 if n_agents == 2 else 92
    sizes = {"n_agents": n_agents, "n_actions": n_actions, "obs_shape": obs, "state_shape": obs * n_agents}
    args = SimpleNamespace(**{**config, **sizes, "device": "cpu", "use_cuda": False, "learner_log_interval": 10**12})
    groups, one_hot = {"agents": n_agents}, {"actions": ("actions_onehot", [OneHot(n_actions)])}
    fields = scheme(n_agents, n_actions, obs, args.state_shape)
    batch = EpisodeBatch(fields, groups, N_EPISODES, steps + 1, preprocess=one_hot)
    for key in ("state", "obs", "reward"):
        batch[key].uniform_()
    batch["actions"].random_(n_actions)
    batch["avail_actions"].fill_(1)
    batch["filled"].fill_(1)
    batch["terminated"][:, -2] = 1
    logger = SimpleNamespace(log_stat=lambda *a, **k: None)
    return LEARNERS[args.learner](MACS[args.mac](batch.scheme, groups, args), batch.scheme, logger, args), batch


def times(learner: Any, batch: Any, repeats: int, all_lengths: bool = False) -> list[float]:
    """Seconds of each update, after three to warm up.

    `all_lengths`: before each update episodes end somewhere, from a fifth of their steps on, as those of a replay
    buffer do once agents have learnt to reach the end; without it every update has as many rows as the last one.
    """
    taken, ends = [], random.Random(0)
    n_steps = batch["filled"].shape[1] - 1
    for i in range(3 + repeats):
        if all_lengths:
            cut_off(batch, [ends.randint(n_steps // 5, n_steps) for _ in range(N_EPISODES)])
        start = time.perf_counter()
        learner.train(batch, t_env=0, episode_num=0)
        if i >= 3:
            taken.append(time.perf_counter() - start)
    return taken


def cut_off(batch: Any, lengths: list[int]) -> None:
    """Ends each episode with its step of this number."""
    batch["filled"].zero_()
    batch["terminated"].zero_()
    for episode, length in enumerate(lengths):
        batch["filled"][episode, : length + 1] = 1
        batch["terminated"][episode, length - 1] = 1


def upstream_qmix() -> dict[str, Any]:
    """Of the checkout on sys.path, with the networks that ours has."""
    import yaml

    import components

    folder = Path(next(iter(components.__path__))).parent / "config"
    files = [yaml.safe_load((folder / name).read_text()) for name in ("default.yaml", "algs/qmix.yaml")]
    return {**files[0], **files[1], "use_rnn": True, "hidden_dim": 64}


if __name__ == "__main__":
    sys.path.append(str(ROOT / "plugins/mmsa/standins"))  # smaclite, which upstream imports whatever the task
    th.set_num_threads(1)
    made = learner_and_batch(upstream_qmix(), 2, 6, 50)
    print(*(statistics.median(times(*made, int(sys.argv[1]), all_lengths)) for all_lengths in (False, True)))
