"""What a learner that begins anew makes of the episodes that a run remembers: are its data at fault, or its networks?

python src/main.py --config=qmix --env-config=gymma with env_args.key=KEY seed=1 t_max=100000 keep_finished=True
python benchmarks/anew.py results/sacred/qmix/TASK/ID --config=qmix --env-config=gymma with env_args.key=KEY

First the run's own learner is tested: greedy episodes that it has not seen, their mean return. Then a learner of the
configuration given, untrained, makes --updates of these remembered episodes alone, and is tested the same way, once
for each of --seeds. At last the run's own learner makes as many more of them, without playing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trained import Trained, begin, load

TESTED = 4  # times


def tested(runner: Any, n_episodes: int) -> float:
    """The mean return of greedy episodes (as MAPPO is tested, of sampled ones)."""
    n_rollouts = -(-n_episodes // runner.batch_size)
    returns = [runner.run(test_mode=True)["reward"].sum().item() for _ in range(n_rollouts)]
    return sum(returns) / (n_rollouts * runner.batch_size)


def learn(learning: Trained, remembered: Any, updates: int, n_episodes: int) -> None:
    """Updates of remembered episodes alone; prints their number and the return, TESTED times on the way."""
    for part in range(TESTED):
        for _ in range(updates * part // TESTED, updates * (part + 1) // TESTED):
            learning.learner.train(remembered.sample(learning.args.batch_size), 0, 0)
        print(f"    {learning.learner.training_steps:6} {tested(learning.runner, n_episodes):.3f}", flush=True)
    learning.runner.close_env()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run's record, with its checkpoints")
    parser.add_argument("--config", required=True)
    parser.add_argument("--env-config", required=True, help="the run's")
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--episodes", type=int, default=200, help="of a test")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2], help="of new learners; may be none")
    parser.add_argument("words", nargs="*", metavar="with key=value", help="as for src/main.py")
    options = parser.parse_intermixed_args()
    old = load(options.run)

    from utils.checkpoints import PIECE_BYTES
    from utils.cli import overrides
    from utils.config import ConfigError, compose

    try:
        config = compose(options.config, options.env_config, overrides(options.words))
    except ConfigError as error:
        raise SystemExit(str(error)) from None
    n_remembered = old.buffer.episodes_in_buffer
    found = sum(piece["fields"]["reward"].sum().item() for piece in old.buffer.pieces(0, PIECE_BYTES)) / n_remembered
    print(
        f"{options.run}: step {old.runner.t_env}, {old.learner.training_steps} updates, {n_remembered} episodes "
        f"remembered with a mean return of {found:.3f}; tested {tested(old.runner, options.episodes):.3f}"
    )
    for seed in options.seeds:
        new = begin(config | {"seed": seed})
        if new.buffer.scheme != old.buffer.scheme:
            raise SystemExit(f"{options.run}: its episodes are of another environment, or standardised otherwise")
        print(f"  {new.args.name}, seed {seed}: updates, return")
        learn(new, old.buffer, options.updates, options.episodes)
    print("  the run's own learner: updates, return")
    learn(old, old.buffer, options.updates, options.episodes)


if __name__ == "__main__":
    main()
