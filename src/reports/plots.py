"""The report's figures. Each is saved as PNG and PDF, and as SVG whose ink takes the page's colours, light or dark."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reports import statistics as st
from reports.grouping import Curve, Task
from reports.scores import AXES, Band, Comparison, bands

LABELS = {
    "test_battle_won_mean": "win rate in tests",
    "test_return_mean": "return in tests",
    "test_total_return_mean": "return of all agents in tests",
}
# Readable on white and on near black; the first reference takes the first one.
COLOURS = ("#e4572e", "#3d8bd4", "#2ca58d", "#b07cd6", "#c79a1b", "#d85c9f", "#6b9e3c", "#8a8f98", "#7a6ff0", "#a9714b")
STYLES = ("-", "--", ":", "-.")
INK, PAPER, GRID = "#1b1f24", "#fefefd", "#d9dce1"  # found again in the SVG, and replaced by the page's own
BAND = 0.16  # opacity
HORIZONS = tuple(range(1, 11))
HORIZON_ERRORS = ("mmsa_open_loop", "mmsa_no_change")  # each a metric for every horizon: mmsa_open_loop_1, ...
WORLD_MODEL = {  # panel -> metrics drawn in it against environment steps, the second one dashed
    "KL divergence": ("mmsa_loss_kl",),
    "SALE loss": ("mmsa_loss_sale",),
    "SALE error over that of no change": ("mmsa_sale_over_no_change",),
    "spread of embeddings": ("mmsa_zs_spread",),
    "team reward, imagined and real (dashed)": ("mmsa_reward_imagined", "mmsa_reward_real"),
    "correlation of imagined and real reward": ("mmsa_reward_correlation",),
    "TD error with another roll-out, imagined steps alone (dashed)": ("mmsa_td_other_rollout", "mmsa_td_other_future"),
}
RATIOS = ("mmsa_sale_over_no_change", "mmsa_td_other_rollout")  # on a logarithmic axis: 100 would hide all about 1
MANY = 3  # curves; with more a second line for each would hide them
WORLD_MODEL_SERIES = (
    *(f"{prefix}_{k}" for prefix in HORIZON_ERRORS for k in HORIZONS),
    *(metric for metrics in WORLD_MODEL.values() for metric in metrics),
)
LACKING = {
    "steps": "their runs share no steps",
    "updates": "not every run recorded the metric updates",
    "seconds": "not every run recorded times",
}
Styles = Mapping[str, Mapping[str, Any]]


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour, and past the tenth a dash, for each curve, the same in all figures."""
    n = len(COLOURS)
    return {name: {"color": COLOURS[i % n], "linestyle": STYLES[i // n % 4]} for i, name in enumerate(names)}


def learning_curves(
    title: str,
    metric: str,
    look: Styles,
    bands: Mapping[str, Mapping[str, Band | None]],
    label: str = "",
    axes: Iterable[str] = AXES,
) -> Any:
    """A panel for each of the axes that any curve has. bands: curve -> axis -> band, None where its runs lack it."""
    axes = [axis for axis in axes if axis == "steps" or any(own[axis] is not None for own in bands.values())]
    figure, panels = _figure(title, len(axes), 1)
    for panel, axis in zip(panels, axes, strict=True):
        own = {name: curve for name, of in bands.items() if (curve := of[axis]) is not None}
        _draw(panel, own, look)
        if lacking := len(bands) - len(own):
            note = f"{lacking} of {len(bands)} curves not drawn: {LACKING[axis]}"
            panel.text(0.5, 1.0, note, transform=panel.transAxes, ha="center", va="bottom", fontsize=8, color=INK)
        panel.set(xlabel=AXES[axis], ylabel=label or LABELS[metric])
        if metric == "test_battle_won_mean":
            panel.set_ylim(-0.03, 1.03)
    seeds = {name: curve.runs for name, of in bands.items() if (curve := of["steps"]) is not None}
    return _legend(figure, look, seeds)


def profiles(title: str, label: str, look: Styles, bands: Mapping[str, Band]) -> Any:
    figure, (panel,) = _figure(title, 1, 1)
    _draw(panel, bands, look, drawstyle="steps-post")
    panel.set(xlabel=f"final score τ ({label})", ylabel="share of runs above τ", ylim=(-0.03, 1.03))
    return _legend(figure, look, {name: curve.runs for name, curve in bands.items()})


def improvements(title: str, look: Styles, rows: Sequence[Comparison]) -> Any:
    """A point with its interval for each pair: the probability of a larger area under the curve."""
    figure, (panel,) = _figure(title, 1, 1, height=1.2 + 0.42 * len(rows))
    for y, row in enumerate(rows):
        chance, colour = row.chance_area, look[row.baseline]["color"]
        if chance.low is not None and chance.high is not None:
            panel.plot([chance.low, chance.high], [y, y], color=colour, linewidth=7, alpha=0.35, solid_capstyle="butt")
        panel.plot(chance.value, y, "o", color=colour)
        words = textwrap.shorten(f"{row.reference} over {row.baseline}", 110, placeholder=" ...")
        panel.text(0, y - 0.22, _plain(words), fontsize=8, color=INK).set_in_layout(False)
    panel.axvline(0.5, color=INK, linewidth=1, linestyle=":")
    panel.set(xlim=(-0.03, 1.03), xlabel="probability that a run has the larger area under its curve", yticks=[])
    panel.set_ylim(len(rows) - 0.6, -0.7)
    return figure


# --- world model ---
def last_values(curve: Curve, metric: str) -> np.ndarray | None:
    """(N,) for each run the mean of the metric's last tenth; None where a run has not recorded it."""
    series = [run.metrics.get(metric) for run in curve.runs]
    known = [s.values[np.isfinite(s.values)] for s in series if s is not None]
    if len(known) < len(series) or any(len(values) == 0 for values in known):
        return None
    return np.array([float(st.final_score(values)) for values in known])


def horizon_errors(curve: Curve, prefix: str) -> np.ndarray:
    """(10,) interquartile mean over seeds of prefix_1 .. prefix_10 at the end of training; NaN where not recorded."""
    found = [last_values(curve, f"{prefix}_{k}") for k in HORIZONS]
    return np.array([np.nan if values is None else float(st.iqm(values)) for values in found])


def world_model(task: Task, curves: Sequence[Curve], look: Styles) -> Any | None:
    """Panels of whatever the curves have of the world model's metrics; None where they have nothing."""
    draws: list[tuple[str, str, Callable[[Any], None]]] = []
    errors = {c.name: [horizon_errors(c, prefix) for prefix in HORIZON_ERRORS] for c in curves}
    errors = {name: errors[name] for name in look if name in errors and np.isfinite(errors[name][0]).any()}
    if errors:
        dashed = list(errors)[: 1 if len(errors) > MANY else None]

        def horizon(panel: Any) -> None:
            for name, (model, nothing) in errors.items():
                panel.plot(HORIZONS, model, color=look[name]["color"], marker="o", markersize=4)
                if name in dashed:
                    panel.plot(HORIZONS, nothing, color=look[name]["color"], linestyle="--")
            panel.set_xticks(HORIZONS)
            panel.set_ylim(bottom=0)

        which = "dashed" if dashed == list(errors) else "dashed, of the first curve alone"
        draws.append((f"open-loop error, and of no change ({which})", "steps predicted ahead", horizon))
    for label, metrics in WORLD_MODEL.items():
        found = [{c.name: bands([c.runs], metric)["steps"] for c in curves} for metric in metrics]
        drawn = [{name: curve for name, curve in own.items() if curve is not None} for own in found]
        if not drawn[0]:
            continue

        def against_steps(panel: Any, drawn: list[dict[str, Band]] = drawn, log: bool = metrics[0] in RATIOS) -> None:
            for own, dash in zip(drawn, ("-", "--"), strict=False):
                _draw(panel, own, {name: {**look[name], "linestyle": dash} for name in own})
            if log:
                panel.set_yscale("log", subs=())
                panel.yaxis.set_major_locator(_matplotlib().ticker.LogLocator(subs=(1, 2, 5)))
                panel.yaxis.set_major_formatter(_short)

        draws.append((label, AXES["steps"], against_steps))
    if not draws:
        return None
    columns = min(3, len(draws))
    figure, panels = _figure(task.title, columns, -(-len(draws) // columns))
    for panel, (label, xlabel, draw) in zip(panels, draws, strict=False):
        draw(panel)
        panel.set_title(label, fontsize=9)
        panel.set_xlabel(xlabel)
    for panel in panels[len(draws) :]:
        panel.set_visible(False)
    return _legend(figure, look, {curve.name: len(curve.runs) for curve in curves})


# --- how a figure looks, and is saved ---
def save(figure: Any, folder: Path, name: str) -> str:
    """Writes NAME.png and NAME.pdf, and returns the figure as SVG for a page with the CSS variables --ink, --paper and
    --grid."""
    figure.savefig(folder / f"{name}.png", dpi=130)
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    text = io.StringIO()
    with _matplotlib().rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # unused, and not unique in a page of many figures
    for colour, variable in ((INK, "--ink"), (PAPER, "--paper"), (GRID, "--grid")):
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r'width="([\d.]+)pt" height="[\d.]+pt"', r'style="max-width: \1pt"', svg, count=1)


def _matplotlib() -> Any:
    import matplotlib  # here: it takes a second to import

    return matplotlib


def _figure(title: str, columns: int, rows: int, height: float = 3.6) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    ink = {key: INK for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")}
    with _matplotlib().rc_context({**ink, "font.size": 9, "axes.titlecolor": INK}):
        width = 4.3 * columns if columns > 1 else 6.6
        figure = Figure(figsize=(width, (height if rows == 1 else 2.7 * rows) + 0.4), layout="constrained")
        figure.set_facecolor(PAPER)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        figure.suptitle(_plain(title), fontsize=11, color=INK)
    for panel in panels:
        panel.set_facecolor("none")
        panel.grid(color=GRID, linewidth=0.7)
        panel.tick_params(color=INK, labelcolor=INK)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_formatter(_short)
    return figure, panels


def _short(x: float, _: int) -> str:
    """Ticks as 0.5, 20, 150k, 2M"""
    for least, unit, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(x) >= least:
            return f"{x / unit:g}{letter}"
    return f"{x:g}"


def _draw(panel: Any, bands: Mapping[str, Band], look: Styles, **kwargs: Any) -> None:
    """The first curves, as the references, lie on top; no bands where they would hide more curves than have colours."""
    for place, (name, own) in enumerate((name, bands[name]) for name in look if name in bands):
        marker = "o" if len(own.x) == 1 else None
        top = 3 - place / len(bands)  # where no order is given lines lie at 2, bands at 1
        panel.plot(own.x, own.mid, **look[name], linewidth=1.8, marker=marker, zorder=top, **kwargs)
        if own.low is not None and len(bands) <= len(COLOURS):
            step = {"step": "post"} if kwargs else {}
            panel.fill_between(own.x, own.low, own.high, color=look[name]["color"], alpha=BAND, linewidth=0, **step)


def _legend(figure: Any, look: Styles, seeds: Mapping[str, int]) -> Any:
    from matplotlib.lines import Line2D

    names = [name for name in look if name in seeds]  # in the look's order: the references first
    if not names:
        return figure
    lines = [Line2D([], [], **look[name], linewidth=1.8) for name in names]
    words = [f"{name} ({seeds[name]} seed{'s' * (seeds[name] != 1)})" for name in names]
    widest = max(map(len, words))
    columns = max(1, min(len(names), int(figure.get_figwidth() * 13 // (widest + 6))))
    words = [_plain(textwrap.fill(text, int(figure.get_figwidth() * 13))) for text in words]
    rows = sum(text.count("\n") + 1 for text in words) / columns
    figure.set_figheight(figure.get_figheight() + 0.17 * max(0, rows - 2))  # room for long legends
    legend = figure.legend(lines, words, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(INK)
    return figure


def _plain(text: str) -> str:
    """Dollars are dollars, no mathematics; what no font and no file can have is escaped."""
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")
