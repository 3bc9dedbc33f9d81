"""When each run on coop began to learn, and how fast it then learnt: in thousands of steps, when its test return first
came to 0.1, and how much later to 0.5 (between two tests by a straight line).
"""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

TASK = "Foraging-2s-8x8-2p-2f-coop-v3"


def reached(tests: list[tuple[float, float]], level: float) -> float:
    """Thousands of steps; NaN where the run does not come to this level."""
    for (start, low), (end, high) in zip(tests, tests[1:], strict=False):
        if high >= level:
            return float(np.interp(level, (low, high), (start, end))) / 1000
    return float("nan")


def main() -> None:
    runs = defaultdict(list)
    with (Path(__file__).parent / "results.csv").open() as file:
        for row in csv.DictReader(file):
            if row["metric"] == "test_return_mean" and row["task"].startswith(TASK) and row["averaged"] == "yes":
                runs[row["curve"], int(row["seed"])].append((float(row["step"]), float(row["value"])))
    curves = defaultdict(list)
    for (curve, _), tests in sorted(runs.items()):
        curves[curve].append((begin := reached(tests, 0.1), reached(tests, 0.5) - begin))
    for curve, times in curves.items():
        begins, climbs = np.transpose(times)
        each = ", ".join(f"{begin:.0f} + {climb:.0f}" for begin, climb in times)
        print(f"{curve}: {each}; mean {begins.mean():.0f} + {climbs.mean():.0f}")


if __name__ == "__main__":
    main()
