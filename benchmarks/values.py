"""How far Q_tot can be trusted, in episodes that were learnt from and in fresh ones, of runs that kept a checkpoint.

python src/main.py --config=qmix --env-config=gymma with env_args.key=KEY seed=1 t_max=100000 keep_finished=True
python benchmarks/values.py results/sacred/qmix/TASK/ID ...

The agents of such a run play on, exploring as they did. Of the newest episodes in its replay buffer, and of as many
that came after them: the error of Q_tot against its own targets (root mean square), Q_tot and the discounted return
that followed (means; rewards as the learner sees them; an episode that was cut off ends in its target's value), and
which share of the return's variance Q_tot explains. An error that is far larger in fresh episodes is one of
remembering too well; a Q_tot above the return is one of over-estimation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch as th
from torch import Tensor
from trained import Trained, configuration, load


def valued(learner: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Q_tot of the actions taken, and its targets, (S,), of all transitions."""
    if hasattr(learner, "losses"):  # MMSA
        _, stats, _ = learner.losses(batch)
        return stats["q_tot"], stats["goal"]
    chosen, targets, mask = learner.values(batch)
    there = mask.expand_as(chosen).bool()
    return chosen[there], targets[there]


@th.no_grad()
def measure(trained: Trained, n_episodes: int) -> list[float]:
    """Error, Q_tot, return, explained share, of the episodes in the buffer."""
    batch, args = trained.buffer.sample(n_episodes), trained.args
    own = args.td_lambda
    q_tot, goal = valued(trained.learner, batch)
    args.td_lambda = 1  # the return itself
    _, after = valued(trained.learner, batch)
    args.td_lambda = own
    share = 1 - (after - q_tot).var() / after.var()
    return [x.item() for x in ((q_tot - goal).square().mean().sqrt(), q_tot.mean(), after.mean(), share)]


def play_on(trained: Trained, n_episodes: int) -> None:
    """Fills the buffer with fresh episodes; rewards are standardised as those of the old ones were."""
    stats = trained.buffer.reward_stats
    before = None if stats is None else stats.state_dict()
    for _ in range(-(-n_episodes // trained.runner.batch_size)):
        trained.buffer.insert_episode_batch(trained.runner.run())
    if stats is not None:
        stats.load_state_dict(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run's record")
    parser.add_argument("--episodes", type=int, default=1000)
    options = parser.parse_args()
    for folder in options.runs:
        if configuration(folder)["learner"] not in ("q_learner", "mmsa_learner"):
            raise SystemExit(f"{folder}: learns no Q_tot")
        trained = load(folder, buffer_size=options.episodes)
        print(f"{folder}: step {trained.runner.t_env}, {trained.learner.training_steps} updates")
        print("              error   Q_tot  return  share explained")
        for name in ("remembered", "fresh"):
            if name == "fresh":
                play_on(trained, options.episodes)
            print(f"  {name:10}", *(f"{x:7.3f}" for x in measure(trained, options.episodes)), flush=True)
        trained.runner.close_env()


if __name__ == "__main__":
    main()
