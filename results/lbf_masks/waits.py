"""What a trained algorithm's agents do where nothing moves: python results/lbf_masks/waits.py ALGORITHM MODELS."""

import logging
import sys
from collections.abc import Iterator

import numpy as np

import run
from utils.config import compose
from utils.logging import Logger

TASK = ["env_args.key=Foraging-10x10-4p-3f-v3", "seed=77", "runner=parallel", "batch_size_run=10", "test_nepisode=200"]
LOAD, FOODS = 5, 3


def ways(algorithm: str) -> Iterator[list[str]]:
    """How it is tested: by its best actions or with some drawn, and where vain ones are closed."""
    masked = ["env_args.action_masks=True"]
    if algorithm == "mappo":
        tests = [["action_selector=multinomial", f"test_greedy={greedy}"] for greedy in (True, False)]
        yield from (*tests, *(masked + test for test in tests))
    else:
        yield from ([f"evaluation_epsilon={rate}"] for rate in (0.0, 0.05, 0.2, 0.4, 0.7, 1.0))
        yield [*masked, "evaluation_epsilon=0.0"]


def main(algorithm: str, folder: str) -> None:
    logger = Logger(logging.getLogger("waits"))
    for way in ways(algorithm):
        args = run.make_args(compose(algorithm, "gymma", [*TASK, *way]))
        runner = run.make_runner(args, logger)
        run.build(args, runner, logger)[1].load_models(folder)
        returns, still, vain = [], [], []
        for _ in range(args.test_nepisode // args.batch_size_run):
            batch = runner.run(test_mode=True)
            returns += batch["reward"].sum((1, 2)).tolist()
            obs, loads = batch["obs"].numpy(), batch["actions"].numpy()[:, :-1, :, 0] == LOAD
            filled = batch["filled"].numpy()[:, 1:, 0] > 0
            same = (obs[:, 1:] == obs[:, :-1]).all((2, 3)) & filled
            # an agent sees row, column and level of each food first, then of itself
            food, own = obs[:, :-1, :, : 3 * FOODS].reshape(*loads.shape, FOODS, 3), obs[:, :-1, :, None, 9:11]
            beside = (np.abs(food[..., :2] - own).sum(-1) == 1) & (food[..., 2] > 0)
            still.append(same[filled].mean())
            vain += (loads & ~beside.any(-1))[same].flat
        print(
            f"{algorithm} {' '.join(way)}: {np.mean(returns):.3f}, nothing moves in {np.mean(still):.0%} of steps; "
            f"{np.mean(vain):.0%} of the actions there load where no food is"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
