"""Published runs of coop foraging at the defaults together, and how many a difference wants: Welch's t-tests."""

import json
from pathlib import Path

import numpy as np
from scipy.stats import ttest_ind

RESULTS = Path(__file__).resolve().parent.parent
COOP, SECOND = "2s-8x8-2p-2f-coop", "2s-10x10-3p-3f"
MMSA = ["lbf/runs/MMSA", "pipeline/runs/MMSA,_pipeline", "exploration/runs/MMSA,_epsilon_over_50k"]
QMIX = ["lbf/runs/QMIX", "pipeline/runs/QMIX,_pipeline", "shared/runs/epsilon_over_50k_steps"]
PARTS = (
    "horizon_* no_roll-out no_world* no_KL* no_state* joint_SALE SALE_of* *gradient* roll-outs* embeddings* "
    "learning_rate_of_SALE* targets_and* SALE_128* alpha* a_tenth* no_reward* world_model_128* roll-out_embedding*"
).split()
FROM_11 = ("ablations", "sale_width")  # experiments whose seeds no setting was chosen on
WITH_SALE = [f"{one}/runs/{part}" for one in (*FROM_11, "decisions") for part in PARTS]
WITH_SALE += ["exploration/runs/SALE_alone,_epsilon_over_50k"]
WITHOUT_SALE = ["ablations/runs/no_SALE", "lbf/runs/VDN"]


def _curves(name: str, *experiments: str) -> list[str]:
    return [f"{one}/runs/{name}" for one in experiments]


def means(*curves: str, seeds: str = "*", task: str = COOP) -> list[float]:
    """The mean over the curve of each published run."""
    place = f"{task}/{seeds}/sacred/*/*/*/metrics.json"
    runs = [json.loads(run.read_text()) for curve in curves for run in RESULTS.glob(f"{curve}/{place}")]
    return [np.mean(run["test_return_mean"]["values"]) for run in runs]


def compare(what: str, x: list[float], y: list[float]) -> None:
    low, high = ttest_ind(x, y, equal_var=False).confidence_interval()
    print(
        f"{what}: {np.mean(x):.3f} ({len(x)} runs) and {np.mean(y):.3f} ({len(y)}): "
        f"difference {np.mean(x) - np.mean(y):.3f} [{low:.3f}, {high:.3f}]"
    )


def power(deviation: float) -> None:
    """The smallest difference that Welch's test sees (p < 0.05) in four of five draws of n runs against n."""
    rng = np.random.default_rng(0)
    for n in (3, 5, 13, 40):
        x, y = rng.normal(0, deviation, (2, 4000, n))
        seen = (d for d in np.arange(0.01, 0.5, 0.005) if (ttest_ind(x + d, y, axis=1).pvalue < 0.05).mean() >= 0.8)
        print(f"{n} runs against {n} show a difference of {next(seen):.3f} in four of five cases ({deviation=:.3f})")


def main() -> None:
    mmsa, three = means(*MMSA), means("lbf/runs/MMSA", seeds="seed1[123]")
    compare("MMSA, QMIX", mmsa, means(*QMIX))
    compare("the same without pipeline", means(*MMSA[::2]), means(*QMIX[::2]))
    compare("with SALE, without", mmsa + means(*WITH_SALE), means(*QMIX, *WITHOUT_SALE))
    power(np.std(mmsa, ddof=1))
    for what, curve in (("no KL balancing", "ablations/runs/no_KL_balancing"), ("lambda 0", "one_step/runs/MMSA")):
        p, p13 = (ttest_ind(x, means(curve), equal_var=False).pvalue for x in (three, mmsa))
        print(f"MMSA against {what}: p {p:.2f}, with its 13 runs {p13:.4f}")
    for variant in ("joint_SALE", "SALE_of_hidden_states", "learning_rate_of_SALE_0.001", "SALE_128_wide"):
        compare(f"{variant}, MMSA", means(*_curves(variant, *FROM_11, "decisions")), mmsa)
    for variant in ("joint_SALE", "SALE_128_wide"):
        compare(f"{variant}, seeds from 11, MMSA", means(*_curves(variant, *FROM_11)), mmsa)
    wide = means(*_curves("SALE_128_wide", *FROM_11), task=SECOND)
    compare(f"SALE_128_wide on {SECOND}, MMSA", wide, means("lbf/runs/MMSA", task=SECOND))
    compare("one-step targets, MMSA, QMIX", means("one_step/runs/MMSA"), means("one_step/runs/QMIX"))


if __name__ == "__main__":
    main()
