"""The report of runs: one self-contained page, figures as PNG and PDF, every test as CSV, the scores as Markdown."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from reports import plots, scores
from reports import statistics as st
from reports.grouping import METRICS, Curve, Groups, LeftOut, Task, group
from reports.runs import Planned, RunRecord
from utils.config import ConfigError

NEEDED = ("rliable", "scipy", "jinja2", "matplotlib")
SERIES = frozenset((*METRICS, scores.UPDATES, *plots.WORLD_MODEL_SERIES))  # of all that runs record, what is read here
PROFILE_POINTS = 101
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}  # a record may hold what no file can
HOW = (
    "Scores: interquartile mean over seeds (mean area: plain mean). Comparisons: ratio of the areas' plain means, "
    "share of the pairs of runs with the larger area or the better final, ratio of the mean curves' steps. "
    f"[95 % stratified bootstrap interval], none below {st.MIN_RUNS} seeds, nor of a ratio to what is 0 in some sample."
)
RANKED = (
    "The best final score comes first, points with fewer seeds than others last. The first of many points owes its "
    "place in part to luck: the more points, the further its score is too high, and the more seldom its interval holds "
    "the true one. Run it again with new seeds before you believe it."
)
FEW_SEEDS = (  # tests/reports/test_statistics.py has the simulation
    "Such intervals are too narrow where seeds are few: on one task those of 3, 5 and 10 seeds hold the true "
    "interquartile mean in about 75, 90 and 93 % of cases, the true plain mean in 75, 84 and 90 %."
)


def write_report(
    runs: Sequence[RunRecord],
    out: Path | str,
    *,
    title: str = "",
    planned: Sequence[Planned] = (),
    references: Sequence[str] = ("MMSA",),
    problems: Sequence[str] = (),
    wall_clock: bool = True,
    ranked: bool = False,
) -> Path:
    """Writes index.html, figures/*.png and *.pdf, results.csv and table.md into the folder `out`.

    :param runs: as reports.runs.load_runs gives them.
    :param planned: what an experiment wanted; what differs from it or is missing is listed.
    :param references: the algorithms (labels or names, in any case), or curves, that are compared with each other one.
    :param problems: what else a reader must know, as damaged records and runs that failed; listed as it is.
    :param wall_clock: draw curves against it, too; it means little where machines differ or have other work.
    :param ranked: tables have the best final score first, as wanted of a search; else they are in the order of names.
    :return: the path of the page.
    :raises ConfigError: where a package is missing or `out` cannot be written to.
    """
    require_packages()
    out = Path(out)
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        return _Report(runs, out, title or "Comparison", planned, references, problems, wall_clock, ranked).write()
    except OSError as error:
        raise ConfigError(f"{out}: the report cannot be written there: {error.strerror or error}") from None


def require_packages() -> None:
    """ConfigError where a package that the report needs is missing."""
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise ConfigError(f"a report needs {', '.join(missing)}: pip install -e '.[report]'")


@dataclass(frozen=True)
class _Figure:
    svg: str
    name: str  # of the files in figures/
    text: str


class _Report:
    """Everything that the page shows, computed once."""

    def __init__(
        self,
        runs: Sequence[RunRecord],
        out: Path,
        title: str,
        planned: Sequence[Planned],
        references: Sequence[str],
        problems: Sequence[str],
        wall_clock: bool,
        ranked: bool,
    ) -> None:
        self.runs, self.out, self.title, self.problems = runs, out, title, problems
        self.references = list({name.lower(): name for name in reversed(references)}.values())[::-1]  # each once
        self.groups: Groups = group(runs, planned)
        self.planned = planned
        self.axes = [axis for axis in scores.AXES if wall_clock or axis != "seconds"]
        self.tasks = [scores.score_task(task) for task in self.groups.tasks]
        self.suites = scores.suites(self.tasks)
        self.ranked = ranked
        if ranked:
            self.tasks = [replace(own, scores=_ranked(own.scores)) for own in self.tasks]
            self.suites = [replace(suite, scores=_ranked(suite.scores)) for suite in self.suites]
        scored: list[scores.TaskScores | scores.Suite] = [
            *self.tasks,
            *(suite for suite in self.suites if len(suite.tasks) > 1),
        ]
        self.comparisons = {
            (id(own), name): scores.comparisons(own, name) for own in scored for name in self.references
        }
        self.names: set[str] = set()  # of figure files
        curves = {curve.name: curve.algorithm for task in self.groups.tasks for curve in task.curves}
        self.look = plots.styles(sorted(curves, key=lambda name: (self._rank(name, curves[name]), name)))
        self.anchors = {
            (task.title, curve.name): (f"runs-{i}-{j}", f"{curve.name} on {task.title}")
            for i, task in enumerate(self.groups.tasks)
            for j, curve in enumerate(task.curves)
        }

    def write(self) -> Path:
        self._csv(self.out / "results.csv")
        tasks = [self._task(task) for task in self.tasks]
        there = {
            name
            for name in self.references
            if any(scores.is_reference(curve.name, curve.algorithm, name) for _, curve in self._curves())
        }
        context = {
            "title": self.title,
            "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "compared": [(name, name in there, self._all_compared(name)) for name in self.references],
            "n_read": len(self.runs),
            "n_used": sum(len(curve.runs) for _, curve in self._curves()),
            "n_planned": len(self.planned),
            "few": [f"{c.name} on {t.title}" for t, c in self._curves() if len(c.runs) < st.MIN_RUNS],
            "groups": self.groups,
            "left_out": self._left_out(),
            "ranked": RANKED if self.ranked else "",
            "problems": self.problems,
            "tasks": tasks,
            "suites": [self._suite(suite) for suite in self.suites],
            "share": f"{scores.SHARE:.0%}",
            "few_seeds": FEW_SEEDS,
            "colours": len(plots.COLOURS),
            "world_models": [shown for task in self.groups.tasks if (shown := self._world_model(task))],
            "provenance": [self._provenance(task, curve) for task, curve in self._curves()],
            "st": st,
        }
        (self.out / "table.md").write_text(self._markdown(), **TEXT)
        page = self.out / "index.html"
        page.write_text(_render(context), **TEXT)
        return page

    def _left_out(self) -> list[tuple[LeftOut, str]]:
        """What is not averaged, and its seeds: each record, and the missing runs of an algorithm on a task together."""
        seeds: dict[LeftOut, list[str]] = {}
        for out in self.groups.left_out:
            seeds.setdefault(out._replace(seed=None), []).append("" if out.seed is None else str(out.seed))
        return [(out, ", ".join(own)) for out, own in seeds.items()]

    def _curves(self) -> list[tuple[Task, Curve]]:
        return [(task, curve) for task in self.groups.tasks for curve in task.curves]

    def _rank(self, curve: str, algorithm: str) -> int:
        """Its place among the references, or behind them."""
        own = (rank for rank, name in enumerate(self.references) if scores.is_reference(curve, algorithm, name))
        return next(own, len(self.references))

    # --- sections ---
    def _task(self, own: scores.TaskScores) -> dict[str, Any]:
        task = own.task
        bands = {curve.name: scores.bands([curve.runs], task.metric) for curve in task.curves}
        figure = plots.learning_curves(task.title, task.metric, self.look, bands, axes=self.axes)
        found = {score.name: score for score in own.scores}
        order = list(found) or [curve.name for curve in task.curves]
        rows = [
            {
                "curve": curve,
                "score": found.get(curve.name),
                "anchors": [self.anchors[task.title, curve.name]],
                "steps": max(run.metrics[task.metric].steps[-1] for run in curve.runs),
            }
            for curve in sorted(task.curves, key=lambda curve: order.index(curve.name))
        ]
        return {
            "task": task,
            "rows": rows,
            "shared": (own.grid[0], own.grid[-1]) if len(own.grid) else None,
            "points": len(own.grid),
            "metric": plots.LABELS[task.metric],
            "no_updates": [curve.name for curve in task.curves if bands[curve.name]["updates"] is None],
            "figure": self._figure(figure, f"curves {task.title}", f"Learning curves, {task.title}"),
        }

    def _all_compared(self, reference: str) -> list[dict[str, Any]]:
        """The reference against other curves, on tasks together and on each, where there is something to compare."""
        compared = [
            self._compared(suite, reference, self._together(suite), [own.task.title for own in suite.tasks])
            for suite in self.suites
            if len(suite.tasks) > 1
        ]
        compared += [self._compared(own, reference, own.task.title, [own.task.title]) for own in self.tasks]
        return [part for part in compared if part["rows"]]

    def _compared(
        self, scored: scores.TaskScores | scores.Suite, reference: str, title: str, tasks: Sequence[str]
    ) -> dict[str, Any]:
        rows = self.comparisons[id(scored), reference]
        names = [(row.reference, row.baseline) for row in rows]
        anchors = [[self.anchors[task, name] for name in pair for task in tasks] for pair in names]
        shown: dict[str, Any] = {"title": title, "rows": []}
        if rows:
            figure = plots.improvements(title, self.look, rows)
            name = f"comparison {title}" + (f" {reference}" if len(self.references) > 1 else "")
            shown["rows"] = list(zip(rows, map(scores.steps_words, rows), anchors, strict=True))
            shown["figure"] = self._figure(figure, name, f"Probability of a larger area, {title}")
        return shown

    def _suite(self, suite: scores.Suite) -> dict[str, Any]:
        many = len(suite.tasks) > 1
        head = self._together(suite) if many else suite.tasks[0].task.title
        label = self._label(suite)
        taus = np.linspace(0, 1, PROFILE_POINTS)
        profiles = {score.name: scores.profile(score.finals, taus) for score in suite.scores}
        shown: dict[str, Any] = {
            "suite": suite,
            "many": many,
            "title": head,
            "label": label,
            "anchors": {
                score.name: [self.anchors[task.task.title, score.name] for task in suite.tasks]
                for score in suite.scores
            },
            "curves": None,
            "remarks": self._remarks(suite),
        }
        if many:
            figure = plots.learning_curves(head, suite.metric, self.look, suite.bands, label, self.axes)
            shown["curves"] = self._figure(figure, f"aggregate {suite.backend} {suite.metric}", f"All tasks, {head}")
        figure = plots.profiles(head, label, self.look, profiles)
        shown["profile"] = self._figure(figure, f"profile {head} {suite.metric}", f"Performance profile, {head}")
        return shown

    @staticmethod
    def _label(suite: scores.Suite) -> str:
        return plots.LABELS[suite.metric] + (", scaled to 0..1" if suite.scaled else "")

    def _remarks(self, suite: scores.Suite) -> list[str]:
        """What is not seen in the suite's scores."""
        remarks = [
            f"{name} is left out here: it was not run on {', '.join(titles)}." for name, titles in suite.missing.items()
        ]
        if dropped := [score.name for score in suite.scores if self._dropped(suite, score)]:
            remarks.append(
                f"Tasks have different numbers of seeds; of {', '.join(dropped)} the first seeds of each task are "
                "taken, as many as the task with the fewest has."
            )
        remarks += [
            f"{task.task.title}: {_score(low)} became 0 and {_score(high)} became 1, the lowest and the highest test "
            "of all algorithms."
            for task, (low, high) in zip(suite.tasks, suite.scales, strict=True)
            if (low, high) != (0, 1)
        ]
        if suite.scaled:
            remarks.append("There is no ratio of areas here: it would depend on where the scale has its 0.")
        return remarks

    @staticmethod
    def _together(suite: scores.Suite) -> str:
        return f"{len(suite.tasks)} tasks together, {suite.backend}"

    @staticmethod
    def _dropped(suite: scores.Suite, score: scores.Score) -> bool:
        return any(
            len(own.finals) > len(score.finals) for t in suite.tasks for own in t.scores if own.name == score.name
        )

    def _world_model(self, task: Task) -> dict[str, Any] | None:
        curves = [c for c in task.curves if any(m.startswith("mmsa_") for run in c.runs for m in run.metrics)]
        figure = plots.world_model(task, curves, self.look) if curves else None
        if figure is None:
            return None
        single = [metric for metrics in plots.WORLD_MODEL.values() for metric in metrics]
        columns = [f"{prefix}_{k}" for k in (1, 5, 10) for prefix in plots.HORIZON_ERRORS] + single
        values = {c.name: {m: plots.last_values(c, m) for m in columns} for c in curves}
        columns = [m for m in columns if any(own[m] is not None for own in values.values())]
        rows = [
            {
                "name": curve.name,
                "runs": len(curve.runs),
                "anchors": [self.anchors[task.title, curve.name]],
                "values": [None if (v := values[curve.name][m]) is None else float(st.iqm(v)) for m in columns],
            }
            for curve in curves
        ]
        shown = self._figure(figure, f"world model {task.title}", f"World model, {task.title}")
        return {"task": task, "columns": columns, "rows": rows, "figure": shown}

    def _provenance(self, task: Task, curve: Curve) -> dict[str, Any]:
        rows = []
        for run in curve.runs:
            series = run.metrics[task.metric]
            updates = run.metrics.get(scores.UPDATES)
            rows.append(
                {
                    "run": run,
                    "tests": len(series.steps),
                    "steps": series.steps[-1],
                    "updates": updates.values[-1] if updates is not None and len(updates.values) else None,
                    "minutes": series.seconds[-1] / 60,
                    "final": series.values[-1],
                }
            )
        return {"id": self.anchors[task.title, curve.name][0], "task": task, "curve": curve, "rows": rows}

    def _figure(self, figure: Any, name: str, text: str) -> _Figure:
        safe = re.sub(r"[^\w.+\-]+", "_", name).strip("_.").encode()[:200].decode(errors="ignore")  # of 255 bytes
        while safe in self.names:
            safe += "_"
        self.names.add(safe)
        return _Figure(plots.save(figure, self.out / "figures", safe), safe, text)

    # --- files ---
    def _csv(self, path: Path) -> None:
        """One row for each run and test, of runs that are not averaged, too."""
        used = {id(run): (task.title, curve.name) for task, curve in self._curves() for run in curve.runs}
        metrics = {task.title: task.metric for task in self.groups.tasks}
        reasons = {out.source: out.reason for out in self.groups.left_out}
        with path.open("w", newline="", **TEXT) as file:
            writer = csv.writer(file, lineterminator="\n")
            head = "task backend curve algorithm seed metric step updates seconds value averaged why_not commit source"
            writer.writerow(head.split())
            for run in sorted(self.runs, key=lambda r: (r.task, r.algorithm, r.seed or 0, r.source)):
                task, curve = used.get(id(run), (run.task, run.algorithm))
                known = [metrics[task]] if id(run) in used else [m for m in METRICS if m in run.metrics]
                if not known:
                    continue
                series = run.metrics[known[0]]
                updates = scores.updates_at(run, series.steps)
                commit = ", then ".join(run.commits)
                averaged = ["yes", ""] if id(run) in used else ["no", reasons.get(run.source, "")]
                writer.writerows(
                    [task, run.backend, curve, run.algorithm, run.seed, known[0], f"{t:.0f}"]
                    + [_number(u, ".0f"), _number(s, ".1f"), f"{v:.6g}", *averaged, commit, run.source]
                    for t, u, s, v in zip(series.steps, updates, series.seconds, series.values, strict=True)
                )

    def _markdown(self) -> str:
        lines = [f"# {_cell(self.title)}", ""]
        lines += [*([RANKED, ""] if self.ranked else []), HOW, FEW_SEEDS, ""]
        for own in self.tasks:
            seeds = {curve.name: f"{len(curve.runs)} ({curve.seeds})" for curve in own.task.curves}
            lines += [f"## {_cell(own.task.title)}", "", f"{plots.LABELS[own.task.metric]} (`{own.task.metric}`)", ""]
            lines += _score_table(own, seeds) + self._comparison_table(own)
        for suite in self.suites:
            if len(suite.tasks) > 1:
                seeds = {score.name: f"{score.final.runs} on each task" for score in suite.scores}
                lines += [f"## {self._together(suite)}", "", f"{self._label(suite)} (`{suite.metric}`)", ""]
                lines += _paragraphs(self._remarks(suite))
                lines += _score_table(suite, seeds, mean=True) + self._comparison_table(suite)
        if self.groups.left_out:
            rows = [[_cell(o.algorithm), _cell(o.task), seeds, _cell(o.reason)] for o, seeds in self._left_out()]
            lines += ["## Not averaged", "", *_table(["algorithm", "task", "seeds", "reason"], rows)]
        if self.groups.notes:
            lines += ["## To keep in mind", "", *(f"- {_cell(note)}" for note in self.groups.notes), ""]
        return "\n".join(lines)

    def _comparison_table(self, scored: scores.TaskScores | scores.Suite) -> list[str]:
        names = ["curve", "against", "area over its area", "larger area", "better final"]
        names.append(f"steps over its to {scores.SHARE:.0%} of its rise")
        rows = [
            [_cell(row.reference), _cell(row.baseline)]
            + [_interval(one) for one in (row.area, row.chance_area, row.chance_final)]
            + [scores.steps_words(row)]
            for reference in self.references
            for row in self.comparisons[id(scored), reference]
        ]
        return _table(names, rows) if rows else []


def _ranked(own: Sequence[scores.Score]) -> tuple[scores.Score, ...]:
    most = max((score.final.runs for score in own), default=0)
    return tuple(sorted(own, key=lambda score: (score.final.runs < most, -score.final.value)))


def _score_table(scored: scores.TaskScores | scores.Suite, seeds: Mapping[str, str], mean: bool = False) -> list[str]:
    """Scores as Markdown; with `mean` the plain mean of the areas, too."""
    steps = f"{scored.grid[-1]:,.0f}" if len(scored.grid) else "–"
    names = ["curve", "final", "area under curve", *(["mean area"] if mean else []), "seeds", "steps compared"]
    rows = [
        [_cell(one.name)]
        + [_interval(score) for score in (one.final, one.area, *([one.mean_area] if mean else []))]
        + [seeds[one.name], steps]
        for one in scored.scores
    ]
    return _table(names, rows)


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in (_cell(text), "")]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table's lines, and an empty one."""
    return [*(f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *rows)), ""]


# --- words ---
def _interval(estimate: scores.Estimate) -> str:
    if estimate.low is None:
        return _score(estimate.value)
    return f"{_score(estimate.value)} [{_score(estimate.low)}, {_score(estimate.high)}]"


def _score(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    value = 0.0 if abs(value) < 0.0005 else value  # no -0.000
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def _number(value: float | None, form: str = ",.0f") -> str:
    return "" if value is None or not math.isfinite(value) else format(value, form)


def _small(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3g}"


def _cell(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def _render(context: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(score=_score, number=_number, small=_small)
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(context)
