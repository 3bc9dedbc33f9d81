"""Figures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PANELS = (
    ("return", "return_mean"),
    ("return of all agents", "total_return_mean"),  # individual rewards
    ("win rate", "battle_won_mean"),
)


def learning_curve(info: Mapping[str, Any], path: Path, title: str, backend: str = "") -> Path | None:
    """Draw returns, and win rates where there are any, against environment steps into a PNG.

    :param info: a run's record: metric -> values, metric + "_T" -> environment steps.
    :param backend: named in the title, as utils.naming.backend_note words it.
    :return: the path, or None when the record holds nothing to draw.
    """
    panels = [(label, key) for label, key in PANELS if info.get(key) or info.get(f"test_{key}")]
    if not panels:
        return None
    from matplotlib.figure import Figure  # here: it takes a second to import

    figure = Figure(figsize=(5.6 * len(panels), 3.6), layout="constrained")
    figure.suptitle(title + (f"\n{backend}" if backend else ""), fontsize=11)
    for axes, (label, key) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        if info.get(key):
            marker = "." if len(info[key]) == 1 else ""  # a line of one point cannot be seen
            axes.plot(info[f"{key}_T"], info[key], color="0.7", marker=marker, label="train")
        if info.get(f"test_{key}"):
            axes.plot(info[f"test_{key}_T"], info[f"test_{key}"], color="C0", marker=".", label="test")
        axes.set(xlabel="environment steps", ylabel=label)
        if label == "win rate":
            axes.set_ylim(-0.03, 1.03)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    return path
